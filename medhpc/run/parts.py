"""How a tile is computed in parts where the memory is too small for all of it at once, and what that costs.

Every part has a halo of its own: with a halo of 64 voxels, parts of 16 x 16 x 16 compute 729 voxels for each that they
keep.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from medhpc.geometry import Box, Grid, Index

SMALLEST = 16  # voxels: no part of a tile is made shorter


def first_half(length: int) -> int:
    """Length of the first of the two parts that a tile (or a part of it) is cut into along an axis."""
    return length // 2 // SMALLEST * SMALLEST


def halve(box: Box, axis: int) -> tuple[Box, Box]:
    """Cut a tile, or a part of it, in two along an axis."""
    middle = box.start[axis] + first_half(box.shape[axis])
    stop, start = list(box.stop), list(box.start)
    stop[axis] = start[axis] = middle
    return Box(box.start, (stop[0], stop[1], stop[2])), Box((start[0], start[1], start[2]), box.stop)


@dataclass(frozen=True)
class Stretch:
    """A part along one axis: how long it is, and how much halo the volume leaves it on either side."""

    length: int
    before: int
    after: int

    def halves(self, halo: int) -> tuple[Stretch, Stretch]:
        """What cutting it in two gives."""
        first = first_half(self.length)
        rest = self.length - first
        return (
            Stretch(first, self.before, min(halo, self.after + rest)),
            Stretch(rest, min(halo, self.before + first), self.after),
        )

    @property
    def read(self) -> int:
        """Voxels that are computed for it."""
        return self.before + self.length + self.after


Part: TypeAlias = tuple[Stretch, ...]


def computed_in_parts(grid: Grid, most: int) -> int:
    """Voxels computed for all tiles together, where no more than `most` of them fit in the memory at once.

    Exact for a network without a stride whose least block is no longer than its halo; else a little too low.
    """
    along = [_stretches(grid, axis).items() for axis in range(3)]
    return sum(
        z_count * y_count * x_count * _computed((z, y, x), grid.halo, most)
        for (z, z_count), (y, y_count), (x, x_count) in itertools.product(*along)
    )


def _stretches(grid: Grid, axis: int) -> Counter[Stretch]:
    """The tiles along one axis; equal ones are counted."""
    halo, end = grid.halo[axis], grid.volume[axis]
    return Counter(Stretch(b - a, min(halo, a), min(halo, end - b)) for a, b in grid.writes_along(axis))


@lru_cache(maxsize=2**16)  # most parts of a tile are alike
def _computed(part: Part, halo: Index, most: int) -> int:
    """Voxels computed for a part, in halves until it fits."""
    read = math.prod(stretch.read for stretch in part)
    lengths = [stretch.length for stretch in part]
    longest = max(lengths)
    if read <= most or longest < 2 * SMALLEST:
        return read
    axis = lengths.index(longest)
    halves = part[axis].halves(halo[axis])
    return sum(_computed((*part[:axis], half, *part[axis + 1 :]), halo, most) for half in halves)
