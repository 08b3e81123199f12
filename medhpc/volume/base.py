"""What a volume is, whatever its format."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medhpc.errors import (
    BadOption,
    BrokenFile,
    DiskFull,
    MedhpcError,
    NoPermission,
    UnsupportedDtype,
    VolumeNotFound,
)
from medhpc.geometry import Box, Index
from medhpc.volume.fingerprint import fingerprint
from medhpc.volume.formats import split_dataset
from medhpc.volume.statistics import MOST_VOXELS, Statistics, statistics_of
from medhpc.volume.units import MICROMETRES, VoxelSize


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its volume.

    Attributes
    ----------
    format : str
        Name for people.
    shape : (z, y, x)
        Voxels.
    channels : int
        One where the file has no channel axis.
    are_colours : bool
        Whether the channels are red, green, blue and, if there is a fourth, opacity.
    dtype : numpy.dtype
        Of the voxels that :meth:`Source.read` gives; any byte order.
    voxel_size, unit
        (z, y, x) in ``um`` or ``mm``; None and ``""`` when unknown.
    affine : array of 4 x 4 or None
        From voxel (x, y, z) to RAS millimetres, as nibabel defines it.
    chunks : (z, y, x) or None
        What is decoded at once; None where any box can be read by itself.
    why_expensive : str
        Why a small box costs far more than its size; empty when it does not.
    levels : int
        Levels of the pyramid.
    time_step : float or None
        Seconds between the volumes of a series that was opened as channels.
    nifti_header : bytes
        Of a NIfTI file, little-endian, for one that is made of it; empty for other formats.
    """

    format: str
    shape: Index
    channels: int = 1
    are_colours: bool = False
    dtype: np.dtype[Any]
    voxel_size: VoxelSize | None = None
    unit: str = ""
    affine: np.ndarray[Any, Any] | None = None
    chunks: Index | None = None
    why_expensive: str = ""
    levels: int = 1
    time_step: float | None = None
    nifti_header: bytes = b""

    def __post_init__(self) -> None:
        if self.dtype.kind not in "uifb" or self.dtype.itemsize > 8:
            raise UnsupportedDtype(
                f"voxels of dtype {self.dtype}, expected integers, floats (up to 64 bit) or bool; convert them first"
            )


class Source(Protocol):
    """What a format implements; everything else about a volume is common to all."""

    header: Header

    def read(self, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        """Voxels of a box inside the volume as (channels, z, y, x), in new memory; called from several threads."""

    def files(self) -> list[Path]:
        """Files that tell whether the volume has changed; some of them need not exist."""

    def close(self) -> None:
        """Close what is open."""


class Volume:
    """A 3D image on disk, read box by box.

    Open it with :func:`medhpc.volume.open_volume`; close it, or use it in a ``with`` statement.

    Attributes
    ----------
    path : str
        As it was opened.
    format : str
        Name for people, such as ``ImageJ TIFF``.
    axes : str
        ``ZYX``, or ``CZYX`` where there are several channels and none was chosen.
    shape : (z, y, x)
        Voxels; a 2D image has one plane.
    channels : int
        One where `axes` is ``ZYX``.
    are_colours : bool
        Whether the channels are red, green, blue and, if there is a fourth, opacity.
    dtype : numpy.dtype
        In native byte order; bool is given as uint8 (0 and 1).
    voxel_size : (z, y, x) or None
        In `unit`.
    unit : str
        ``um`` or ``mm``; empty when `voxel_size` is None.
    affine : array of 4 x 4 or None
        NIfTI and DICOM: from voxel (x, y, z) to RAS millimetres.
    chunks : (z, y, x) or None
        What one box costs to decode; None: any box can be read by itself.
    why_expensive : str
        Why a small box costs far more than its size; empty when it does not.
    levels : int
        Levels of the pyramid that the file holds.
    time_step : float or None
        Seconds between channels that are the volumes of a series.
    nifti_header : bytes
        Of a NIfTI file, for one that is made of it; empty for other formats.
    """

    def __init__(self, path: str, source: Source, channel: int | None = None) -> None:
        header = source.header
        if channel is not None and not 0 <= channel < header.channels:
            raise BadOption(f"{path}: channel {channel}, expected 0 to {header.channels - 1}")
        self.path = path
        self.format = header.format
        self.shape = header.shape
        self.channels = header.channels if channel is None else 1
        self.are_colours = header.are_colours and self.channels > 1
        self.axes = "ZYX" if self.channels == 1 else "CZYX"
        self.dtype = np.dtype(np.uint8) if header.dtype.kind == "b" else header.dtype.newbyteorder("=")
        self.voxel_size = header.voxel_size
        self.unit = header.unit
        self.affine = header.affine
        self.chunks = header.chunks
        self.why_expensive = header.why_expensive
        self.levels = header.levels
        self.time_step = header.time_step if self.channels > 1 else None
        self.nifti_header = header.nifti_header
        self._source = source
        self._wanted = slice(0, header.channels) if channel is None else slice(channel, channel + 1)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Volume {self.path}: {self.format}, {self.axes} {self.channels} x {self.shape} {self.dtype}>"

    @property
    def boxes_are_cheap(self) -> bool:
        """Whether reading a small box costs about as much as its size says."""
        return not self.why_expensive

    @property
    def voxel_size_um(self) -> VoxelSize | None:
        """Voxel size along z, y and x in micrometres; None when unknown."""
        if self.voxel_size is None:
            return None
        z, y, x = (size * MICROMETRES[self.unit] for size in self.voxel_size)
        return z, y, x

    @property
    def nbytes(self) -> int:
        """Size of all voxels in memory."""
        return Box.whole(self.shape).size * self.channels * self.dtype.itemsize

    def read(self, box: Box) -> np.ndarray[Any, Any]:
        """Read a box of voxels. Threads may read at the same time.

        Returns
        -------
        array (channels, z, y, x)
            C-contiguous, in native byte order and memory of its own.

        Raises
        ------
        BadOption
            The box is empty or leaves the volume.
        BrokenFile
            The file is cut short or damaged.
        """
        if not box.size or not Box.whole(self.shape).contains(box):
            raise BadOption(f"{self.path}: box {box} is empty or leaves the volume of {self.shape} voxels")
        with reading(self.path):
            block = self._source.read(self._wanted, box)
        expected = (self.channels, *box.shape)
        if block.shape != expected:
            raise BrokenFile(f"{self.path}: box {box} came as {block.shape}, expected {expected}")
        return np.require(block, self.dtype, ["C", "W"])  # some readers give a view of their bytes

    def fingerprint(self) -> dict[str, Any]:
        """Tell this state of the files from any other; cheap, JSON-able, equal exactly when nothing was changed."""
        with reading(self.path):
            return fingerprint(self._source.files())

    def statistics(self, max_voxels: int = MOST_VOXELS) -> Statistics:
        """Mean, deviation, range and percentiles; see :func:`medhpc.volume.statistics.statistics_of`."""
        return statistics_of(self, max_voxels)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._source.close()


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into one line.

    Readers of third parties raise errors of nearly every class on a damaged file (IndexError, struct.error, KeyError,
    zlib.error, their own), so that none can be left out.
    """
    try:
        yield
    except MedhpcError as error:
        raise _naming(path, error) from error.__cause__
    except MemoryError as error:
        raise BrokenFile(f"{path}: needs more memory than there is; damaged, or read less at once") from error
    except PermissionError as error:
        raise NoPermission(f"{path}: no permission to read it") from error
    except FileNotFoundError as error:
        raise VolumeNotFound(f"{error.filename or path}: no such file") from error
    except Exception as error:
        raise BrokenFile(f"{path}: truncated, damaged or not what its name says ({_first_line(error)})") from error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a full disk or a missing permission while `path` is written into one line."""
    try:
        yield
    except MedhpcError as error:
        raise _naming(path, error) from error.__cause__
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise DiskFull(f"{path}: no room (or quota) left on its file system; make room and run it again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NoPermission(f"{path}: no permission to write it") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise VolumeNotFound(f"{path}: its folder does not exist; make it first") from error
        raise


def _naming(path: str | Path, error: MedhpcError) -> MedhpcError:
    """Let the message begin with a path."""
    file, _ = split_dataset(str(path))
    return error if str(error).startswith(str(file)) else type(error)(f"{path}: {error}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
