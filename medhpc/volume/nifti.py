"""NIfTI-1 and NIfTI-2, plain and gzipped. On disk x is fastest, which is z y x as numpy counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header

from medhpc.errors import BrokenFile, NotAVolume
from medhpc.geometry import Box
from medhpc.volume.arrays import ArraySource
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout
from medhpc.volume.raw import RawPlanes, contiguous
from medhpc.volume.rescale import Rescale
from medhpc.volume.units import VoxelSize, voxel_size_in

SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
"""Units of time."""

nibabel.imageglobals.logger.setLevel("CRITICAL")  # what it mends in a header needs no line of its own


class NiftiSource(ArraySource):
    """Stored numbers, times slope, plus intercept."""

    def __init__(self, *args: Any, rescale: Rescale) -> None:
        super().__init__(*args)
        self._rescale = rescale

    def read(self, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        """Physical values as (channels, z, y, x)."""
        return self._rescale.apply(super().read(channels, box), self.header.dtype)


def open_nifti(path: Path, series: bool = False) -> NiftiSource:
    """Open a ``.nii`` or ``.nii.gz`` file; the volumes of a time series as channels, where they are wanted."""
    image: Any = nibabel.load(path)
    header: Any = image.header
    if not isinstance(header, Nifti1Header):
        raise NotAVolume(f"{type(image).__name__}, expected NIfTI")
    # nibabel keeps offset, slope and intercept of the file in the proxy of its data, and clears them in the header.
    proxy = image.dataobj
    stored: np.dtype[Any] = proxy.dtype
    layout = _layout_of(header, series)
    rescale = Rescale(float(proxy.slope), float(proxy.inter))
    compressed = path.name.lower().endswith(".gz")
    voxel_size, unit = _voxel_size_of(header)
    description = Header(
        format=f"NIfTI-{1 if header.sizeof_hdr == 348 else 2}" + (", gzipped" if compressed else ""),
        shape=layout.shape,
        channels=layout.channels,
        dtype=rescale.dtype(stored) if stored.kind in "iuf" else stored,
        voxel_size=voxel_size,
        unit=unit,
        affine=image.affine,
        why_expensive="gzip, decoded from the beginning" if compressed else "",
        time_step=_time_step(header) if series else None,
        nifti_header=_little_endian(header),
    )
    array = Gzipped(path, proxy) if compressed else _plain(path, proxy.offset, layout, stored)
    return NiftiSource(description, layout, array, [path], array.close, rescale=rescale)


def _little_endian(header: Any) -> bytes:
    return bytes(header.as_byteswapped("<").binaryblock)


def _layout_of(header: Any, series: bool) -> Layout:
    """On disk, outermost first: components (5th axis and beyond), time or channel (4th), z, y, x."""
    shape = header.get_data_shape()[::-1]
    names = "C" * (len(shape) - 3) + "ZYX"[-len(shape) :]
    if len(shape) >= 4 and shape[-4] > 1 and _has_time(header) and not series:
        raise NotAVolume(
            f"a time series of {shape[-4]} volumes, expected one: choose it with --channel 0 to {shape[-4] - 1} "
            "('medhpc convert' writes it), or denoise all with 'medhpc dip'"
        )
    return Layout.named(names, shape)


def _has_time(header: Any) -> bool:
    """Whether the fourth axis is time: it has a unit of time and a step. Many write channels there, without."""
    return _time_step(header) is not None


def _time_step(header: Any) -> float | None:
    """Seconds between the volumes of a series; None where the fourth axis is no time."""
    seconds = SECONDS.get(header.get_xyzt_units()[1])
    step = float(str(header["pixdim"][4]))  # 2.2, not the 2.200000047683716 of its float32
    return step * seconds if seconds and step > 0 else None


def _voxel_size_of(header: Any) -> tuple[VoxelSize | None, str]:
    """Millimetres, unless the header says otherwise (many leave the unit out); unknown where it says nothing at all."""
    unit = header.get_xyzt_units()[0]
    if unit == "unknown" and set(header.get_zooms()) == {1} and not header["qform_code"] and not header["sform_code"]:
        return None, ""
    zooms = [float(str(zoom)) for zoom in header.get_zooms()[:3]]  # 0.35, not the 0.3499999940395355 of its float32
    zooms += [1.0] * (3 - len(zooms))
    return voxel_size_in(zooms[::-1], ["mm" if unit == "unknown" else unit] * 3)


def _plain(path: Path, start: int, layout: Layout, stored: np.dtype[Any]) -> WithoutSamples:
    needed = start + math.prod(layout.stored) * stored.itemsize
    if (got := path.stat().st_size) < needed:
        raise BrokenFile(f"cut short: {got} bytes, expected {needed}; copy it again")
    shape = (*layout.stored, 1)
    return WithoutSamples(RawPlanes(path, shape, stored, contiguous(start, shape, stored)))


class WithoutSamples:
    """Planes with one sample per pixel, the axis of the samples left out."""

    def __init__(self, planes: RawPlanes) -> None:
        self._planes = planes
        self.close = planes.close

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        return self._planes[(*index, slice(0, 1))][..., 0]


class Gzipped:
    """Read through indexed_gzip, which keeps points to start from as it goes."""

    def __init__(self, path: Path, proxy: Any) -> None:
        as_stored = (proxy.shape, proxy.dtype, proxy.offset)  # no slope, no intercept
        open_proxy: Any = ArrayProxy
        self._proxy = open_proxy(str(path), as_stored, keep_file_open=True)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        return np.asarray(self._proxy[index[::-1]]).T

    def close(self) -> None:
        """Forget the proxy, which closes its file."""
        self._proxy = None
