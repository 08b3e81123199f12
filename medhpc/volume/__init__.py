"""Volumes on disk: one way in (:func:`open_volume`), one way out (:func:`create_volume`), whatever the format.

Formats are imported when they are needed: importing this package imports numpy only.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medhpc.errors import BadOption, BrokenFile, UnknownFormat, VolumeNotFound
from medhpc.volume.base import Source, Volume, reading
from medhpc.volume.convert import convert
from medhpc.volume.create import check_holds, check_writable, create_volume
from medhpc.volume.describe import describe
from medhpc.volume.formats import (
    VOLUME_SUFFIXES,
    dicom_files,
    format_of_file,
    is_pattern,
    is_zarr,
    planes_in,
    split_dataset,
    suffix_of,
)
from medhpc.volume.statistics import Statistics
from medhpc.volume.writer import VolumeWriter

if TYPE_CHECKING:
    from medhpc.volume.ome_zarr import build_pyramid, create_ome_zarr

__all__ = [
    "Statistics",
    "Volume",
    "VolumeWriter",
    "build_pyramid",
    "check_holds",
    "check_writable",
    "convert",
    "create_ome_zarr",
    "create_volume",
    "describe",
    "is_volume_path",
    "open_volume",
]


def __getattr__(name: str) -> Any:
    """Import the pieces of OME-Zarr when they are asked for (PEP 562): they need zarr."""
    if name in ("build_pyramid", "create_ome_zarr"):
        from medhpc.volume import ome_zarr

        return getattr(ome_zarr, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_volume(path: str | Path, *, channel: int | None = None, level: int = 0, series: bool = False) -> Volume:
    """Open a volume for reading, by its header only.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG, JPEG or NIfTI file; ``file.h5:/dataset`` (or the file alone, where it has one dataset); Zarr array or
        OME-Zarr image; folder of planes or a pattern such as ``"dir/*.tif"``; folder of DICOM slices of one series.
    channel : int, optional
        Read this channel only; of a time series (NIfTI), this volume.
    level : int
        Level of the pyramid, 0 the full resolution.
    series : bool
        Take the volumes of a time series (NIfTI) for channels; else a series is refused.

    Raises
    ------
    MedhpcError
        VolumeNotFound, UnknownFormat, NotAVolume, BrokenFile, UnsupportedDtype, SeveralSeries, NoPermission; BadOption
        for a channel or level that is not there.
    """
    name = str(path)
    with reading(name):
        source = _open_source(name, level, series or channel is not None)
        try:
            return Volume(name, source, channel)
        except BadOption:
            source.close()
            raise


def is_volume_path(path: str | Path) -> bool:
    """Whether the path names a volume, by its suffix or, for folders and patterns, by what it is; nothing is opened."""
    file, dataset = split_dataset(str(path))
    return bool(dataset) or suffix_of(file) in VOLUME_SUFFIXES or is_pattern(str(path)) or file.is_dir()


def _open_source(name: str, level: int, series: bool) -> Source:
    if is_pattern(name):
        files = [Path(found) for found in glob.glob(name)]
        if not files:
            raise VolumeNotFound(f"{name}: no file matches this pattern")
        return _open_planes(_without_pyramid(files, level))
    path, dataset = split_dataset(name)
    if path.is_dir():
        return _open_folder(path, level)
    if not path.exists():
        raise VolumeNotFound(f"{path}: no such file or folder")
    return _open_file(path, dataset, level, series)


def _open_folder(folder: Path, level: int) -> Source:
    if is_zarr(folder):
        from medhpc.volume.zarr import open_zarr

        return open_zarr(folder, level=level)
    if suffix_of(folder) == ".zarr":
        raise BrokenFile(f"{folder}: no Zarr metadata (zarr.json, .zarray or .zgroup) in it")
    if planes := planes_in(folder):
        return _open_planes(_without_pyramid(planes, level))
    if slices := dicom_files(folder):
        return _open_dicom(_without_pyramid(slices, level))
    raise UnknownFormat(f"{folder}: a folder without planes (.tif, .png), DICOM slices or Zarr metadata")


def _open_file(path: Path, dataset: str, level: int, series: bool) -> Source:
    kind = format_of_file(path)
    if kind == "tiff":
        from medhpc.volume.tiff import open_tiff

        return open_tiff(path, level=level)
    _without_pyramid([path], level)
    if kind == "hdf5":
        from medhpc.volume.hdf5 import open_hdf5

        return open_hdf5(path, dataset)
    if kind in ("png", "jpeg"):
        from medhpc.volume.photo import open_jpeg, open_png

        return open_png(path) if kind == "png" else open_jpeg(path)
    if kind == "nifti":
        from medhpc.volume.nifti import open_nifti

        return open_nifti(path, series)
    if kind == "dicom":
        return _open_dicom([path])
    if suffix_of(path) in VOLUME_SUFFIXES:
        raise BrokenFile(f"{path}: does not begin as a {suffix_of(path)} file must; damaged, or another format")
    raise UnknownFormat(f"{path}: no format that medhpc reads (TIFF, PNG, JPEG, NIfTI, HDF5, DICOM, Zarr, OME-Zarr)")


def _open_planes(files: list[Path]) -> Source:
    from medhpc.volume.planes import PlanesSource

    return PlanesSource(files)


def _open_dicom(files: list[Path]) -> Source:
    from medhpc.volume.dicom import DicomSource

    return DicomSource(files)


def _without_pyramid(files: list[Path], level: int) -> list[Path]:
    if level:
        raise BadOption(f"{files[0]}: level {level} of a format without a pyramid, expected 0")
    return files
