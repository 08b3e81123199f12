"""From one format to another, slab by slab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.errors import BadOption
from medhpc.geometry import Box
from medhpc.volume.base import Volume
from medhpc.volume.create import check_writable, create_volume
from medhpc.volume.units import VoxelSize

_STEP_BYTES = 2**27


def convert(
    source: Volume,
    out: str | Path,
    *,
    region: Box | None = None,
    voxel_size: VoxelSize | None = None,
    unit: str | None = None,
    affine: np.ndarray[Any, Any] | None = None,
    levels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a volume, or a region of it, in the format that the suffix of `out` names.

    Voxel size, unit, (to NIfTI) affine and header and (to TIFF and PNG) colours travel along. Memory is a slab of
    planes, whatever the size of the volume.

    Parameters
    ----------
    region : Box, optional
        Voxels to take; everything by default.
    voxel_size : (z, y, x), optional
        In place of the source's, in `unit` (``um`` unless given).
    affine : array of 4 x 4, optional
        In place of the source's.
    levels : int, optional
        Of the pyramid of an OME-Zarr; see :func:`medhpc.volume.create_volume`.
    progress : callable, optional
        Called with planes done and planes in all.
    """
    check_writable(out, source.path, photos=True)
    region = region or Box.whole(source.shape)
    size, unit = (source.voxel_size, source.unit) if voxel_size is None else (voxel_size, unit or "um")
    if unit not in ("um", "mm") and size is not None:
        raise BadOption(f"unit '{unit}', expected um or mm")
    if affine is None and voxel_size is None:
        affine = _affine_of(source, region)
    channels = source.channels if source.axes == "CZYX" else 0
    with create_volume(
        out,
        region.shape,
        source.dtype,
        channels=channels,
        are_colours=source.are_colours,
        voxel_size=size,
        unit=unit,
        affine=affine,
        nifti_header=source.nifti_header,
        levels=levels,
    ) as writer:
        planes = region.shape[0]
        step = writer.slab * max(1, _STEP_BYTES * source.shape[0] // (source.nbytes * writer.slab))
        for z0 in range(0, planes, step):
            z1 = min(z0 + step, planes)
            slab = Box((z0, 0, 0), (z1, *region.shape[1:])).shift(region.start)
            writer.write(z0, source.read(slab))
            if progress:
                progress(z1, planes)


def _affine_of(source: Volume, region: Box) -> np.ndarray[Any, Any] | None:
    """Give the affine of the source, its origin moved to the corner of the region."""
    if source.affine is None:
        return None
    affine = np.array(source.affine)
    affine[:3, 3] += affine[:3, :3] @ np.array(region.start[::-1])
    return affine
