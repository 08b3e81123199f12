"""Writing a volume, whatever its format: planes in, a whole file out, or nothing."""

from __future__ import annotations

import glob
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medhpc.errors import BadOption, BrokenFile
from medhpc.geometry import Index
from medhpc.volume.base import writing
from medhpc.volume.formats import is_zarr, split_dataset
from medhpc.volume.units import VoxelSize


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What is to be written.

    Attributes
    ----------
    shape : (z, y, x)
        Voxels.
    channels : int
        0 for a volume without a channel axis.
    are_colours : bool
        Whether the channels are red, green, blue and, if there is a fourth, opacity.
    dtype : numpy.dtype
        Of the voxels in the file.
    voxel_size, unit
        (z, y, x) in ``um`` or ``mm``; None and ``""`` when unknown.
    affine : array of 4 x 4 or None
        For NIfTI: from voxel (x, y, z) to RAS, in `unit`.
    time_step : float or None
        For NIfTI: seconds between the volumes of a series.
    nifti_header : bytes
        For NIfTI: that of the file that it is made of; empty where there is none.
    """

    shape: Index
    channels: int
    dtype: np.dtype[Any]
    voxel_size: VoxelSize | None
    unit: str
    affine: np.ndarray[Any, Any] | None
    time_step: float | None = None
    nifti_header: bytes = b""
    are_colours: bool = False

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Shape of the whole volume as (channels, z, y, x)."""
        return (max(1, self.channels), *self.shape)

    @property
    def plane_bytes(self) -> int:
        """Size of one plane of all channels."""
        channels, _, y, x = self.blocks
        return channels * y * x * self.dtype.itemsize


class Target(Protocol):
    """What a format implements to be written."""

    slab: int
    """Planes that the format stores at once; it is given as many, except at the end."""

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Store planes from `z0` on: (channels, z, y, x), C-contiguous, in the dtype of the specification."""

    def finish(self) -> None:
        """Complete the file; called once, after the last plane."""

    def close(self) -> None:
        """Close what is open, whether the file is complete or not; a second call does nothing."""


class Aside:
    """A hidden folder beside `out` in which it is made, and from which it is moved into place when it is whole."""

    def __init__(self, out: Path) -> None:
        self._out = out
        stem = f".{out.name}.partial-{socket.gethostname()}-"
        self._folder = out.with_name(f"{stem}{os.getpid()}")
        self.path = self._folder / out.name
        with writing(out):
            for left_over in out.parent.glob(f"{glob.escape(stem)}*"):  # by processes that were killed on this machine
                if left_over == self._folder or not _is_alive(left_over.name.removeprefix(stem)):
                    shutil.rmtree(left_over, ignore_errors=True)
            self._folder.mkdir()

    def publish(self) -> None:
        """Move the file into place; one that is there is replaced at once (a Zarr folder: within two renames)."""
        with writing(self._out):
            if self.path.is_dir() and self._out.exists():
                self._exchange()
            else:
                _synchronise(self.path)
                self.path.rename(self._out)

    def _exchange(self) -> None:
        replaced = self._folder / "replaced"
        self._out.rename(replaced)
        try:
            self.path.rename(self._out)
        except OSError:
            replaced.rename(self._out)
            raise

    def discard(self) -> None:
        """Remove everything that is not in place."""
        shutil.rmtree(self._folder, ignore_errors=True)


class VolumeWriter:
    """Takes whole planes in increasing z; made by :func:`medhpc.volume.create_volume`.

    Leaving its ``with`` block completes the file and moves it into place. An exception there leaves nothing behind, and
    a file that was there before stays as it was.
    """

    def __init__(self, path: str, specification: Specification, target: Target, aside: Aside) -> None:
        self.path = path
        self.dtype = specification.dtype
        self.slab = target.slab
        self._specification = specification
        self._target = target
        self._aside = aside
        self._next = 0  # first plane that was not given yet
        self._waiting: list[np.ndarray[Any, Any]] = []  # planes that do not make a slab yet

    def __enter__(self) -> VolumeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._complete()
        finally:
            try:
                self._target.close()
            finally:
                self._aside.discard()

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Add planes `z0`, `z0` + 1, ...; they follow those given before.

        Blocks of a multiple of `slab` planes, starting at one, are stored without a copy.

        Parameters
        ----------
        block : array (z, y, x) or (channels, z, y, x)
            Whole planes.

        Raises
        ------
        BadOption
            Planes of another shape or out of order.
        DiskFull, NoPermission
        """
        block = block[np.newaxis] if block.ndim == 3 else block
        channels, planes, height, width = self._specification.blocks
        fits = block.ndim == 4 and (block.shape[0], *block.shape[2:]) == (channels, height, width)
        if not fits or z0 != self._next or z0 + block.shape[1] > planes:
            raise BadOption(
                f"{self.path}: planes of {block.shape} at z {z0}, expected (channels, z, y, x) = "
                f"({channels}, up to {planes - self._next}, {height}, {width}) at z {self._next}"
            )
        self._next += block.shape[1]
        self._waiting.append(block)
        self._store(last=self._next == planes)

    def _store(self, *, last: bool) -> None:
        """Give the target whole slabs; at the end of the volume, all that is left."""
        waiting = sum(block.shape[1] for block in self._waiting)
        ready = waiting if last else waiting // self.slab * self.slab
        if not ready:
            return
        block = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
        self._waiting = [block[:, ready:]] if ready < waiting else []
        z0 = self._next - waiting
        with writing(self.path):
            for first in range(0, ready, self.slab):
                slab = block[:, first : min(first + self.slab, ready)]
                self._target.write(z0 + first, np.ascontiguousarray(slab, dtype=self.dtype))

    def _complete(self) -> None:
        planes = self._specification.shape[0]
        if self._next != planes:
            raise BrokenFile(f"{self.path}: only {self._next} of {planes} planes were written; the file was not made")
        with writing(self.path):
            self._target.finish()
            self._target.close()
        self._aside.publish()


def check_replaceable(path: str) -> Path:
    """Refuse to replace what is no volume of the format that is to be written.

    Raises
    ------
    BadOption
        A folder that is no Zarr, or a file where a folder must be.
    """
    file, _ = split_dataset(path)
    if file.is_dir() and not (file.suffix.lower() == ".zarr" and (is_zarr(file) or not any(file.iterdir()))):
        raise BadOption(f"{path}: a folder that medhpc will not replace; choose another name")
    if file.is_file() and file.suffix.lower() == ".zarr":
        raise BadOption(f"{path}: a file, expected a Zarr folder or nothing; choose another name")
    return file


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # somebody else's, hence alive
        return True
    return True


def _synchronise(file: Path) -> None:
    """Wait until a file is on the disk, so that no crash leaves its name without its content."""
    if file.is_file():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
