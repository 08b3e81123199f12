"""Maximum projections of a volume of any size: of all its planes, or of as many as can be read in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.geometry import Box, Index
from medhpc.volume import Volume

BUDGET = 2**28  # voxels that are looked at
BLOCK = 2**24  # voxels in memory at once
PIXELS = 560  # of a picture, along its longer side

Plane = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Projections:
    """The largest voxel along each axis, made smaller by the largest of a block."""

    z: Plane  # (y, x)
    y: Plane  # (z, x)
    x: Plane  # (z, y)
    sampled: str  # what was looked at, in words


def project(
    open_level: Callable[[int], Volume], budget: int = BUDGET, progress: Callable[[int, int], None] | None = None
) -> Projections:
    """Project a volume along z, y and x.

    Parameters
    ----------
    open_level : callable
        Opens a level of the volume's pyramid; 0 is the volume itself.
    budget : int
        Voxels that may be looked at. A larger volume is looked at in the finest level of its pyramid that has no more;
        if there is none, in slabs (of its chunks, or single planes) that are spread over it.
    progress : callable, optional
        Called with (boxes read, boxes to read).
    """
    volume, level = _affordable(open_level, budget)
    with volume:
        slabs, all_slabs = _slabs(volume, budget)
        step = _steps(volume.shape)
        found = _Largest(volume, step)
        boxes = list(_boxes(volume, slabs, step))
        for number, box in enumerate(boxes, start=1):
            found.add(box, volume.read(box))
            if progress:
                progress(number, len(boxes))
    share = f"{len(slabs)} of {all_slabs} " if len(slabs) < all_slabs else "all "
    what = "planes" if not volume.chunks or volume.chunks[0] == 1 else f"slabs of {volume.chunks[0]} planes"
    of_level = f" of level {level} of its pyramid" if level else ""
    lengths = " × ".join(map(str, volume.shape))
    return Projections(
        z=found.z,
        y=_filled(found.y, found.seen),
        x=_filled(found.x, found.seen),
        sampled=f"{share}{what}{of_level} ({lengths} voxels)" if share != "all " or level else "every voxel",
    )


def _affordable(open_level: Callable[[int], Volume], budget: int) -> tuple[Volume, int]:
    """The finest level of the pyramid within the budget, else the coarsest."""
    volume = open_level(0)
    for level in range(1, volume.levels):
        if math.prod(volume.shape) * volume.channels <= budget:
            return volume, level - 1
        volume.close()
        volume = open_level(level)
    return volume, volume.levels - 1 if volume.levels > 1 else 0


def _slabs(volume: Volume, budget: int) -> tuple[list[tuple[int, int]], int]:
    """Start and stop along z of what is looked at, and how many such slabs the volume has."""
    z, y, x = volume.shape
    thickness = min(z, volume.chunks[0] if volume.chunks else 1)
    count = -(-z // thickness)
    affordable = max(1, budget // (thickness * y * x * volume.channels))
    wanted = np.unique(np.linspace(0, count - 1, min(count, affordable)).round().astype(int))
    return [(slab * thickness, min(z, (slab + 1) * thickness)) for slab in wanted.tolist()], count


def _steps(shape: Index) -> Index:
    """Voxels along each axis that become a pixel."""
    z, y, x = (-(-length // PIXELS) for length in shape)
    return z, y, x


def _boxes(volume: Volume, slabs: list[tuple[int, int]], step: Index) -> Iterator[Box]:
    """The slabs in pieces that fit into memory, cut along y between pixels and between chunks."""
    _, y, x = volume.shape
    unit = math.lcm(step[1], volume.chunks[1]) if volume.chunks else step[1]
    unit = min(unit, -(-y // step[1]) * step[1])
    for low, high in slabs:
        rows = max(1, BLOCK // ((high - low) * x * volume.channels * unit)) * unit
        for start in range(0, y, rows):
            yield Box((low, start, 0), (high, min(y, start + rows), x))


class _Largest:
    """The largest voxels so far; arrays as in :class:`Projections`."""

    def __init__(self, volume: Volume, step: Index) -> None:
        pixels = [-(-length // by) for length, by in zip(volume.shape, step, strict=True)]
        least = -np.inf if volume.dtype.kind == "f" else np.iinfo(volume.dtype).min
        self.z, self.y, self.x = (
            np.full((pixels[a], pixels[b]), least, volume.dtype) for a, b in ((1, 2), (0, 2), (0, 1))
        )
        self.seen = np.zeros(pixels[0], bool)  # along z
        self.step = step

    def add(self, box: Box, block: NDArray[Any]) -> None:
        """Take in the voxels of a box, (channels, z, y, x); NaN counts for nothing."""
        if block.dtype.kind == "f":
            block = np.where(np.isfinite(block), block, -np.inf)
        small = block.max(axis=0)
        for axis in (1, 2):
            small = shrunk(small, axis, self.step[axis])
        rows = np.arange(box.start[0], box.stop[0]) // self.step[0]
        along_y = slice(box.start[1] // self.step[1], box.start[1] // self.step[1] + small.shape[1])
        np.maximum(self.z[along_y], small.max(axis=0), out=self.z[along_y])
        np.maximum.at(self.y, rows, small.max(axis=1))
        np.maximum.at(self.x, (rows[:, None], np.arange(along_y.start, along_y.stop)), small.max(axis=2))
        self.seen[rows] = True


def shrunk(block: NDArray[Any], axis: int, by: int) -> NDArray[Any]:
    """The largest of every `by` neighbours along an axis; the last may have fewer."""
    lines = np.moveaxis(block, axis, 0)
    largest = lines[::by].copy()
    for first in range(1, by):
        others = lines[first::by]
        np.maximum(largest[: len(others)], others, out=largest[: len(others)])
    return np.moveaxis(largest, 0, axis)


def _filled(plane: Plane, seen: NDArray[np.bool_]) -> Plane:
    """Rows that were not looked at become like the nearest that were."""
    places = np.flatnonzero(seen)
    nearest = np.abs(np.arange(len(seen))[:, None] - places).argmin(axis=1)
    return plane[places[nearest]]
