"""The voxel size that a TIFF file states: ImageJ, OME, Aperio or resolution tags."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import tifffile

from medhpc.volume.units import VoxelSize, known_unit, voxel_size_in

_TAG_UNITS = {2: "inch", 3: "cm"}
"""Units of the resolution tags."""

_FINEST_PRINT = 5000
"""Pixels per inch up to which they say how an image is printed, not how it was taken (that would be 5 um a pixel)."""


def voxel_size_of(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, shape: tuple[int, int, int]
) -> tuple[VoxelSize | None, str]:
    """Size of a voxel along z, y and x and its unit (um or mm); None and "" when unknown.

    A single plane without a thickness gets that of its pixels.
    """
    if series.kind == "ome" and tif.ome_metadata:
        return _from_ome(tif.ome_metadata, shape)
    if series.kind == "svs" and (stated := re.search(r"\|\s*MPP\s*=\s*([\d.]+)", series.keyframe.description)):
        return voxel_size_in([float(stated[1])] * 3, ["um"] * 3)
    metadata = (tif.imagej_metadata or (tif.shaped_metadata or ({},))[0]) if series.kind in ("imagej", "shaped") else {}
    return _from_tags(series.keyframe, metadata, shape)


def _from_ome(xml: str, shape: tuple[int, int, int]) -> tuple[VoxelSize | None, str]:
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, ""
    sizes = [float(pixels.get(f"PhysicalSize{axis}", "nan")) for axis in "ZYX"]
    units = [pixels.get(f"PhysicalSize{axis}Unit", "um") for axis in "ZYX"]
    if shape[0] == 1 and math.isnan(sizes[0]):
        sizes[0], units[0] = sizes[1], units[1]
    return voxel_size_in(sizes, units)


def _from_tags(
    page: tifffile.TiffPage, metadata: dict[str, Any], shape: tuple[int, int, int]
) -> tuple[VoxelSize | None, str]:
    """Pixels per unit along x and y; ImageJ keeps the unit and the distance of planes in its own metadata."""
    unit = known_unit(str(metadata.get("unit", ""))) or _TAG_UNITS.get(int(page.resolutionunit), "")
    per_x, per_y = (_per_unit(page, name) for name in ("XResolution", "YResolution"))
    if not unit or not (per_x > 0 and per_y > 0) or unit == "inch" and max(per_x, per_y) <= _FINEST_PRINT:
        return None, ""
    size_y, size_x = 1 / per_y, 1 / per_x
    default = size_y if shape[0] == 1 else math.nan
    return voxel_size_in([float(metadata.get("spacing", default)), size_y, size_x], [unit] * 3)


def _per_unit(page: tifffile.TiffPage, name: str) -> float:
    tag = page.tags.get(name)
    numerator, denominator = tag.value if tag else (0, 1)
    return numerator / denominator if denominator else 0.0


def resolution(voxel_size: VoxelSize) -> tuple[float, float]:
    """Pixels per unit along x and y, as the resolution tags want them."""
    return 1 / voxel_size[2], 1 / voxel_size[1]
