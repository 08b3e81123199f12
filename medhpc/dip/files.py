"""What is read and written, and how the files beside a result are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medhpc.errors import BadOption, BadTruth
from medhpc.geometry import Box, Index
from medhpc.run.durable import alone_at, room_and_rights
from medhpc.volume import check_holds, check_writable, create_volume, open_volume

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


@dataclass(frozen=True, kw_only=True)
class Image:
    """A whole volume in memory, and what its file says of it: voxels (channels, z, y, x) float32."""

    voxels: NDArray[np.float32]
    axes: str
    are_colours: bool
    dtype: np.dtype[Any]
    voxel_size: tuple[float, float, float] | None
    unit: str
    affine: NDArray[Any] | None
    nifti_header: bytes
    time_step: float | None
    fingerprint: dict[str, Any]

    @property
    def channels(self) -> int:
        """One where there is no such axis."""
        return len(self.voxels)

    @property
    def shape(self) -> Index:
        """(z, y, x)."""
        _, z, y, x = self.voxels.shape
        return z, y, x

    @property
    def problem_shape(self) -> tuple[int, ...]:
        """(1, channels, space) of what is denoised at once; a plane has two axes."""
        flat = self.shape[0] == 1
        return (1, self.channels, *self.shape[1:]) if flat else (1, 1, *self.shape)

    def filled_outside(self, known: NDArray[np.bool_]) -> Image:
        """The same image with the mean of the known voxels (z, y, x) in the place of all others, whatever these are."""
        if not known.any():
            raise BadOption("the mask is zero everywhere: expected the voxels that are known to be above zero")
        mean = self.voxels[:, known].mean()
        return replace(self, voxels=np.where(known, self.voxels, mean))

    def fine_shape(self, factor: int) -> Index:
        """(z, y, x) of the result; a single plane stays one."""
        z, y, x = self.shape
        return z if z == 1 else factor * z, factor * y, factor * x

    def parts(self) -> Iterator[slice]:
        """Channels that are denoised together: the colours of a plane, each volume of a series."""
        if self.shape[0] == 1:
            yield slice(0, self.channels)
        else:
            yield from (slice(n, n + 1) for n in range(self.channels))


def open_image(path: str | Path, channel: int | None = None) -> Image:
    """Read a volume whole."""
    with open_volume(path, channel=channel, series=True) as volume:
        return Image(
            voxels=volume.read(Box.whole(volume.shape)).astype(np.float32),
            axes=volume.axes,
            are_colours=volume.are_colours,
            dtype=volume.dtype,
            voxel_size=volume.voxel_size,
            unit=volume.unit,
            affine=volume.affine,
            nifti_header=volume.nifti_header,
            time_step=volume.time_step,
            fingerprint=volume.fingerprint(),
        )


def read_mask(path: str | Path, shape: Index) -> NDArray[np.bool_]:
    """Where a volume is above zero: (z, y, x).

    Raises
    ------
    BadOption
        Another shape than the image has, or voxels that are no numbers.
    """
    with open_volume(path, series=True) as volume:
        if volume.shape != shape:
            raise BadOption(f"{path}: a mask of {_spoken(volume.shape)} voxels (z, y, x), expected {_spoken(shape)}")
        voxels = volume.read(Box.whole(shape))[0]
    if not np.isfinite(voxels).all():
        raise BadOption(f"{path}: NaN or infinity in the mask, expected 0 for voxels that are not known")
    return voxels > 0


def read_truth(path: str | Path, image: Image, factor: int, channel: int | None) -> NDArray[np.float32]:
    """Read what the result should be: (channels, z, y, x); of several channels the one that is denoised.

    Raises
    ------
    BadTruth
        Another shape than the result has, or voxels that are no numbers.
    """
    expected = image.fine_shape(factor)
    with open_volume(path, series=True) as volume:
        voxels = volume.read(Box.whole(volume.shape)).astype(np.float32)
    if channel is not None and 1 < len(voxels) > channel:
        voxels = voxels[channel : channel + 1]
    if voxels.shape != (image.channels, *expected):
        raise BadTruth(f"{path}: {_misfit(voxels.shape, (image.channels, *expected), factor)}")
    if not np.isfinite(voxels).all():
        raise BadTruth(f"{path}: NaN or infinity in the truth; mend it first")
    return voxels


def _misfit(found: Sequence[int], expected: Sequence[int], factor: int) -> str:
    """What is wrong with a truth of (channels, z, y, x)."""
    if found[1:] == expected[1:] and found[0] == 1:
        return (
            f"a truth of one volume, but NOISY has {expected[0]} (channels, or a series): give as many, or denoise "
            "one of them (--channel N)"
        )
    finer = f", {factor} times as fine as NOISY" if factor > 1 else ""
    return (
        f"a truth of {_spoken(found[1:])} voxels (z, y, x) and {found[0]} channels, expected {_spoken(expected[1:])} "
        f"and {expected[0]}{finer}: give one of that shape, or leave --truth out"
    )


def _spoken(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def write_like(
    path: str | Path, voxels: NDArray[np.float32], image: Image, factor: int = 1, dtype: DTypeLike | None = None
) -> None:
    """Write (channels, z, y, x) as the image's file was, by its header; another dtype is no colour's."""
    stored = np.dtype(image.dtype if dtype is None else dtype)
    fine = tuple(1 if n == m else factor for n, m in zip(image.shape, voxels.shape[1:], strict=True))
    size = image.voxel_size
    if size is not None:
        size = (size[0] / fine[0], size[1] / fine[1], size[2] / fine[2])
    with create_volume(
        path,
        (voxels.shape[1], voxels.shape[2], voxels.shape[3]),
        stored,
        channels=image.channels if image.axes == "CZYX" else 0,
        are_colours=image.are_colours and dtype is None,
        voxel_size=size,
        unit=image.unit,
        affine=_finer(image.affine, fine),
        nifti_header=image.nifti_header,
        time_step=image.time_step,
    ) as writer:
        for z0 in range(0, voxels.shape[1], writer.slab):
            writer.write(z0, _cast(voxels[:, z0 : z0 + writer.slab], stored))


def _cast(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
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
