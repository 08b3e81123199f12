"""Voxel sizes as files state them, in micrometres or millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

VoxelSize: TypeAlias = tuple[float, float, float]

MICROMETRES = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0, "angstrom": 1e-4}
"""Length of each known unit."""

_SPELLINGS = {
    "\u00b5m": "um",  # micro sign
    "\u03bcm": "um",  # Greek mu
    "\\u00b5m": "um",  # as ImageJ escapes it
    "micron": "um",
    "micrometer": "um",
    "micrometre": "um",
    "nanometer": "nm",
    "nanometre": "nm",
    "millimeter": "mm",
    "millimetre": "mm",
    "centimeter": "cm",
    "centimetre": "cm",
    "meter": "m",
    "metre": "m",
    "in": "inch",
    "\u00e5": "angstrom",
}


def known_unit(name: str) -> str:
    """One of the keys of MICROMETRES, or an empty string for a unit that is no length (such as ``pixel``)."""
    name = name.strip().lower()
    for spelling in (name, name.removesuffix("s")):
        unit = _SPELLINGS.get(spelling, spelling)
        if unit in MICROMETRES:
            return unit
    return ""


def voxel_size_in(sizes: Sequence[float], units: Sequence[str]) -> tuple[VoxelSize | None, str]:
    """Turn the size along z, y and x, each in its own unit, into a size in ``um`` or ``mm``.

    Millimetres stay millimetres; every other length becomes micrometres.

    Returns
    -------
    voxel size and unit; None and an empty string where a size is not positive or a unit is no length.
    """
    names = [known_unit(unit) for unit in units]
    if not all(names) or not all(math.isfinite(size) and size > 0 for size in sizes):
        return None, ""
    z, y, x = (float(size) for size in sizes)
    if set(names) == {"mm"}:
        return (z, y, x), "mm"
    if set(names) == {"um"}:
        return (z, y, x), "um"
    fz, fy, fx = (MICROMETRES[name] for name in names)
    return (_round(z * fz), _round(y * fy), _round(x * fx)), "um"


def _round(size: float) -> float:
    """Without the noise that the change of unit brings (0.35 nm * 1e-3 = 0.00034999999999999994)."""
    return float(f"{size:.12g}")
