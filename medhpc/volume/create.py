"""The one way out: :func:`create_volume`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from medhpc.errors import (
    BadOption,
    NoPermission,
    NotAVolume,
    UnknownFormat,
    UnsupportedDtype,
    VolumeNotFound,
)
from medhpc.geometry import Index
from medhpc.volume.base import writing
from medhpc.volume.formats import HDF5_SUFFIXES, NIFTI_SUFFIXES, TIFF_SUFFIXES, split_dataset, suffix_of
from medhpc.volume.units import VoxelSize
from medhpc.volume.writer import Aside, Specification, Target, VolumeWriter, check_replaceable

WRITTEN_SUFFIXES = (*TIFF_SUFFIXES, *HDF5_SUFFIXES, *NIFTI_SUFFIXES, ".zarr")
PHOTO_SUFFIXES = (".png",)
"""Written where the voxels are a picture's, which those of a run never are."""


def create_volume(
    path: str | Path,
    shape: Index,
    dtype: DTypeLike,
    *,
    channels: int = 0,
    are_colours: bool = False,
    voxel_size: VoxelSize | None = None,
    unit: str = "",
    affine: np.ndarray[Any, Any] | None = None,
    time_step: float | None = None,
    nifti_header: bytes = b"",
    levels: int | None = None,
    chunks: Index | None = None,
    shards: Index | None = None,
    labels: bool = False,
    compression: bool = True,
) -> VolumeWriter:
    """Begin a volume; its format goes by the suffix.

    ========================= ==========================================================================================
    ``.tif``, ``.tiff``       uncompressed; ImageJ hyperstack, or OME-TIFF where ImageJ knows no such dtype or the file
                              exceeds 4 GB (BigTIFF)
    ``.h5``, ``.hdf5``        the dataset after the colon (``out.h5:/raw``; other datasets of the file are kept), or
                              ``/volume`` in a new file
    ``.nii``, ``.nii.gz``     NIfTI-1, NIfTI-2 where an axis exceeds 32,767 or the source is so
    ``.zarr``                 OME-Zarr 0.5
    ``.png``                  one plane of uint8 or uint16, grey or in colour
    ========================= ==========================================================================================

    Parameters
    ----------
    shape : (z, y, x)
        Voxels.
    dtype : dtype
        Of the voxels; bool is stored as uint8, float16 in TIFF and NIfTI as float32.
    channels : int
        0 for a volume without a channel axis.
    are_colours : bool
        PNG and TIFF: the three or four channels are red, green, blue and opacity.
    voxel_size, unit
        (z, y, x) in ``um`` or ``mm``.
    affine : array of 4 x 4, optional
        NIfTI: from voxel (x, y, z) to RAS in `unit`.
    time_step : float, optional
        NIfTI: the channels are volumes of a series, so many seconds apart.
    nifti_header : bytes
        NIfTI: that of the volume that it is made of, of which is kept what still holds.
    levels, shards, labels
        OME-Zarr; see :func:`medhpc.volume.ome_zarr.create_ome_zarr`.
    chunks : (z, y, x), optional
        OME-Zarr and HDF5.
    compression : bool
        OME-Zarr and HDF5.

    Raises
    ------
    UnknownFormat, UnsupportedDtype, NotAVolume, BadOption, NoPermission, DiskFull
    """
    name = str(path)
    file = check_writable(name, photos=True)
    suffix = suffix_of(file)
    specification = Specification(
        shape=_checked_shape(name, shape, channels),
        channels=channels,
        dtype=_stored_dtype(name, suffix, np.dtype(dtype)),
        voxel_size=voxel_size,
        unit=_checked_unit(name, voxel_size, unit),
        affine=affine,
        time_step=time_step,
        nifti_header=nifti_header,
        are_colours=are_colours and channels in (3, 4),
    )
    _check_held(name, suffix, specification)
    aside = Aside(file)
    try:
        with writing(name):
            target = _target(name, suffix, aside.path, specification, levels, chunks, shards, labels, compression)
    except BaseException:
        aside.discard()
        raise
    return VolumeWriter(name, specification, target, aside)


def check_holds(path: str | Path, shape: Index, dtype: DTypeLike, *, channels: int = 0, are_colours: bool) -> None:
    """Refuse a path whose format cannot hold such a volume, before any work is done for it; see :func:`create_volume`.

    Raises
    ------
    UnsupportedDtype, NotAVolume, BadOption
    """
    name, suffix = str(path), suffix_of(split_dataset(str(path))[0])
    specification = Specification(
        shape=_checked_shape(name, shape, channels),
        channels=channels,
        are_colours=are_colours,
        dtype=_stored_dtype(name, suffix, np.dtype(dtype)),
        voxel_size=None,
        unit="",
        affine=None,
    )
    _check_held(name, suffix, specification)


def _check_held(name: str, suffix: str, specification: Specification) -> None:
    with writing(name):
        if suffix in TIFF_SUFFIXES:
            from medhpc.volume.tiff_write import check_tiff

            check_tiff(specification)
        if suffix in PHOTO_SUFFIXES:
            from medhpc.volume.photo import check_png

            check_png(specification)


def check_writable(path: str | Path, source: str | Path | None = None, *, photos: bool = False) -> Path:
    """Refuse a path that no volume can be written to, before any work is done for it.

    Parameters
    ----------
    source : path, optional
        The volume that it is made from, and must not replace.
    photos : bool
        Whether PNG will do, which holds one plane.

    Returns
    -------
    Path
        The file, without a dataset in it.

    Raises
    ------
    UnknownFormat, BadOption, VolumeNotFound, NoPermission
    """
    name = str(path)
    suffix = suffix_of(split_dataset(name)[0])
    known = (*WRITTEN_SUFFIXES, *PHOTO_SUFFIXES) if photos else WRITTEN_SUFFIXES
    if suffix not in known:
        raise UnknownFormat(f"{name}: cannot write '{suffix}', expected one of {', '.join(known)}")
    file = check_replaceable(name)
    if source is not None and _replaces(name, str(source)):
        raise BadOption(f"{name}: is the input itself, which would be lost; give OUT another name")
    if not file.parent.is_dir():
        raise VolumeNotFound(f"{name}: its folder does not exist; make it first")
    if not os.access(file.parent, os.W_OK):
        raise NoPermission(f"{name}: no permission to write in its folder; choose another")
    return file


def _replaces(out: str, source: str) -> bool:
    """Whether writing `out` destroys `source`; another dataset of the same HDF5 file does not."""
    (file, dataset), (read, inner) = split_dataset(out), split_dataset(source)
    return file.resolve() == read.resolve() and (not dataset or dataset.strip("/") == inner.strip("/"))


def _target(
    name: str,
    suffix: str,
    path: Path,
    specification: Specification,
    levels: int | None,
    chunks: Index | None,
    shards: Index | None,
    labels: bool,
    compression: bool,
) -> Target:
    if suffix in TIFF_SUFFIXES:
        from medhpc.volume.tiff_write import TiffTarget

        return TiffTarget(path, specification)
    if suffix in NIFTI_SUFFIXES:
        from medhpc.volume.nifti_write import NiftiTarget

        return NiftiTarget(path, specification)
    if suffix in HDF5_SUFFIXES:
        from medhpc.volume.hdf5_write import DEFAULT_DATASET, Hdf5Target

        file, dataset = split_dataset(name)
        present = file if dataset and file.exists() else None
        return Hdf5Target(
            path,
            specification,
            present=present,
            name=dataset or DEFAULT_DATASET,
            chunks=chunks,
            compression=compression,
        )
    if suffix in PHOTO_SUFFIXES:
        from medhpc.volume.photo import PngTarget

        return PngTarget(path, specification)
    from medhpc.volume.ome_zarr import OmeZarrTarget

    return OmeZarrTarget(
        path,
        specification,
        levels=levels,
        chunks=chunks,
        shards=shards,
        labels=labels,
        compression=compression,
    )


def _stored_dtype(name: str, suffix: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Choose the dtype in the file, in native byte order: whatever holds every value of `dtype`."""
    if dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise UnsupportedDtype(f"{name}: voxels of dtype {dtype}, expected integers, floats (up to 64 bit) or bool")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16 and suffix in (*TIFF_SUFFIXES, *NIFTI_SUFFIXES):
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def _checked_shape(name: str, shape: Index, channels: int) -> Index:
    if len(shape) != 3 or min(shape) < 1 or channels < 0:
        raise NotAVolume(f"{name}: shape {tuple(shape)} with {channels} channels, expected three positive lengths")
    z, y, x = map(int, shape)
    return z, y, x


def _checked_unit(name: str, voxel_size: VoxelSize | None, unit: str) -> str:
    if voxel_size is None:
        return ""
    if unit not in ("um", "mm") or len(voxel_size) != 3 or not min(voxel_size) > 0:
        raise BadOption(f"{name}: voxel size {voxel_size} '{unit}', expected three positive lengths in um or mm")
    return unit
