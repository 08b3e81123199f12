"""What is read and written, and how the files beside a result are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medhpc.dip.image import Image
from medhpc.run.durable import alone_at, room_and_rights
from medhpc.volume import VolumeWriter, check_holds, check_writable, create_volume

LOCK = "lock"
SUFFIXES = (".nii.gz", ".ome.zarr", ".ome.tif", ".ome.tiff")


class Files:
    """A result and what lies beside it."""

    def __init__(self, clean: str | Path, noisy: str | Path) -> None:
        self.clean = str(clean)
        self._file = check_writable(clean, noisy, photos=True)
        name = self._file.name
        self._suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), self._file.suffix)
        self._stem = name[: -len(self._suffix)]
        self.work = self._file.with_name(f".{name}.dip")
        """Finished runs and checkpoints, until all is done."""
        self.picture = self._file.with_name(f"{self._stem}.dip.png")
        self.history = self._file.with_name(f"{self._stem}.dip.json")

    @property
    def folder(self) -> Path:
        """Where all of them lie."""
        return self._file.parent

    @property
    def is_packed_last(self) -> bool:
        """Whether a result is written whole before it is compressed."""
        return self._suffix.lower() == ".nii.gz"

    def check_holds(self, image: Image, factor: int) -> None:
        """Refuse a format that cannot hold the result of an image."""
        channels = image.channels if image.axes == "CZYX" else 0
        check_holds(self.clean, image.fine_shape(factor), image.dtype, channels=channels, are_colours=image.are_colours)

    def bytes_there(self) -> int:
        """What an earlier attempt has written."""
        return sum(path.stat().st_size for path in self.work.glob("*"))

    @contextmanager
    def held(self, *, anew: bool) -> Iterator[None]:
        """Keep others from denoising into the same file, for a block; `anew` forgets what an earlier attempt left.

        Raises
        ------
        RunBusy
            Another one does.
        """
        with room_and_rights(self.work):
            self.work.mkdir(exist_ok=True)
        lock = self.work / LOCK
        try:
            with alone_at(lock, f"another medhpc dip writes {self.clean} now; wait for it, or name another file"):
                try:
                    if anew:
                        self.forget()
                    yield
                finally:
                    lock.unlink(missing_ok=True)
        finally:
            with suppress(OSError):  # not empty: what is done is kept
                self.work.rmdir()

    def forget(self) -> None:
        """Remove what is kept of this denoising."""
        for path in self.work.iterdir():
            if path.name != LOCK:
                path.unlink()

    def beside(self, word: str) -> Path:
        """A volume of floats in the same format: brain.nii.gz, brain.std.nii.gz; PNG has no floats, TIFF has."""
        suffix = ".tif" if self._suffix.lower() == ".png" else self._suffix
        return self._file.with_name(f"{self._stem}.{word}{suffix}")


def create_like(path: str | Path, image: Image, factor: int = 1, dtype: DTypeLike | None = None) -> VolumeWriter:
    """Begin a volume like the image's, by its header; one of another dtype is not in colour."""
    fine = image.fine_shape(factor)
    steps = tuple(n // m for n, m in zip(fine, image.shape, strict=True))
    size = image.voxel_size
    if size is not None:
        size = (size[0] / steps[0], size[1] / steps[1], size[2] / steps[2])
    return create_volume(
        path,
        fine,
        np.dtype(image.dtype if dtype is None else dtype),
        channels=image.channels if image.axes == "CZYX" else 0,
        are_colours=image.are_colours and dtype is None,
        voxel_size=size,
        unit=image.unit,
        affine=_finer(image.affine, steps),
        nifti_header=image.nifti_header,
        time_step=image.time_step,
    )


def cast(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """To the nearest number that the type has."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max).astype(dtype)


def _finer(affine: NDArray[Any] | None, factors: tuple[int, ...]) -> NDArray[Any] | None:
    """From fine voxels (x, y, z): those that become a coarse one have its centre in their middle."""
    if affine is None:
        return None
    step = np.eye(4)
    for axis, factor in enumerate(reversed(factors)):
        step[axis, axis], step[axis, 3] = 1 / factor, (1 / factor - 1) / 2
    return affine @ step
