"""Boxes, tiles and grids: integers only, no files, no arrays.

A tile has two boxes. It *writes* its write box, and nobody else does; it *reads* its read box, which is the write box
grown by the halo and clipped at the borders of the volume::

        volume border                     tile faces
             |                            v        v
             +----------------------------+--------+---
             |        .......             |        |
             |        :  read box of tile 1        |
             |  tile 0:   +-----------+  halo      |
             |        :   | write box |   :        |

Coordinates are voxels of the whole volume, z y x, half-open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from medhpc.errors import BadOption

Index: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: ``start <= voxel < stop`` along z, y and x."""

    start: Index
    stop: Index

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The box of a volume of this shape."""
        z, y, x = shape
        return cls((0, 0, 0), (z, y, x))

    @property
    def shape(self) -> Index:
        """Length along each axis; 0 where the box is empty."""
        return _three(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of this box in an array of the whole volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grow(self, by: Index) -> Box:
        """The box with `by` voxels added on both sides of each axis."""
        start = _three(a - n for a, n in zip(self.start, by, strict=True))
        return Box(start, _three(b + n for b, n in zip(self.stop, by, strict=True)))

    def intersection(self, other: Box) -> Box:
        """The voxels that both boxes hold; empty (size 0) where they do not meet."""
        start = _three(map(max, self.start, other.start))
        return Box(start, _three(max(a, b) for a, b in zip(start, map(min, self.stop, other.stop), strict=True)))

    def at_least(self, shape: Index, within: Box) -> Box:
        """The box, made as long as `shape` along each axis by voxels of `within` (as far as it reaches)."""
        start, stop = [], []
        for a, b, least, low, high in zip(self.start, self.stop, shape, within.start, within.stop, strict=True):
            stop.append(min(high, max(b, a + least)))
            start.append(max(low, min(a, stop[-1] - least)))
        return Box(_three(start), _three(stop))

    def with_context(self, halo: Index, least: Index, stride: Index, volume: Box) -> Box:
        """What a network must read to compute this box.

        The box grown by `halo` and clipped at the borders of the `volume`, at least `least` long, and starting at a
        whole multiple of `stride`, where a pooling network sees the same cells as in the whole volume.
        """
        read = self.grow(halo).intersection(volume).at_least(least, volume)
        return Box(_three(a // s * s for a, s in zip(read.start, stride, strict=True)), read.stop)

    def contains(self, other: Box) -> bool:
        """Whether `other` lies wholly inside this box."""
        return self.intersection(other) == other

    def relative_to(self, origin: Box) -> Box:
        """The box in the coordinates of an array that holds `origin`."""
        return self.shift(_three(-a for a in origin.start))

    def shift(self, by: Index) -> Box:
        """The box moved by `by` voxels."""
        start = _three(a + n for a, n in zip(self.start, by, strict=True))
        return Box(start, _three(b + n for b, n in zip(self.stop, by, strict=True)))

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Tile:
    """One unit of work: read `read`, write `write`."""

    index: int
    write: Box
    read: Box


@dataclass(frozen=True)
class Grid:
    """The tiles that cover a region of a volume; numbers, not a list, so that 10^6 tiles cost nothing.

    Tile faces stand at whole multiples of the tile shape, counted from the corner of the *volume*: a run over a region
    cuts where a run over everything cuts. Write boxes are clipped to the region, read boxes to the volume (voxels
    outside the region are real context).

    Parameters
    ----------
    volume, tile, halo : (z, y, x)
        Voxels.
    region : Box
        What is written; not empty, inside the volume.
    least : (z, y, x)
        Read boxes are at least this long (where the volume is): a network's padding needs it, and the last tile of a
        row may be a sliver.
    stride : (z, y, x)
        Read boxes start at whole multiples of this: a network that pools needs it.
    in_columns : bool
        Number the tiles along z first, then x, then y: those of a column follow each other. Else x goes first, z last.
    """

    volume: Index
    tile: Index
    halo: Index
    region: Box
    least: Index = (1, 1, 1)
    stride: Index = (1, 1, 1)
    in_columns: bool = False

    @property
    def _first(self) -> Index:
        """Position of the region's first tile in the grid of the whole volume, in tiles."""
        return _three(a // t for a, t in zip(self.region.start, self.tile, strict=True))

    @property
    def counts(self) -> Index:
        """Number of tiles along each axis of the region."""
        last = (-(-b // t) for b, t in zip(self.region.stop, self.tile, strict=True))
        return _three(b - a for a, b in zip(self._first, last, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._tile_at(self._position(index))

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def touching(self, box: Box) -> Iterator[Tile]:
        """Tiles whose write box meets `box`, z slowest."""
        box = box.intersection(self.region)
        if not box.size:
            return
        low = [a // t - f for a, t, f in zip(box.start, self.tile, self._first, strict=True)]
        high = [-(-b // t) - f for b, t, f in zip(box.stop, self.tile, self._first, strict=True)]
        for z in range(low[0], high[0]):
            for y in range(low[1], high[1]):
                for x in range(low[2], high[2]):
                    yield self._tile_at((z, y, x))

    def writes_along(self, axis: int) -> list[tuple[int, int]]:
        """Start and stop of the write boxes along one axis."""
        tile, low, high = self.tile[axis], self.region.start[axis], self.region.stop[axis]
        starts = range(self._first[axis] * tile, high, tile)
        return [(max(low, start), min(high, start + tile)) for start in starts]

    def reads_along(self, axis: int) -> list[int]:
        """Lengths of the read boxes along one axis."""
        volume = Box((0, 0, 0), (self.volume[axis], 1, 1))
        context = ((self.halo[axis], 0, 0), (self.least[axis], 1, 1), (self.stride[axis], 1, 1), volume)
        return [Box((a, 0, 0), (b, 1, 1)).with_context(*context).size for a, b in self.writes_along(axis)]

    def read_voxels(self) -> int:
        """Voxels read by all tiles together; along each axis the reads are independent, hence a product of sums."""
        return math.prod(sum(self.reads_along(axis)) for axis in range(3))

    def largest_read(self) -> int:
        """Voxels of the largest read box."""
        return math.prod(max(self.reads_along(axis)) for axis in range(3))

    @property
    def read_amplification(self) -> float:
        """Voxels read / voxels written."""
        return self.read_voxels() / self.region.size

    def _position(self, index: int) -> Index:
        nz, ny, nx = self.counts
        if self.in_columns:
            return index % nz, index // nz // nx, index // nz % nx
        return index // (ny * nx), index // nx % ny, index % nx

    def _index(self, position: Index) -> int:
        (nz, ny, nx), (z, y, x) = self.counts, position
        return (y * nx + x) * nz + z if self.in_columns else (z * ny + y) * nx + x

    def _tile_at(self, position: Index) -> Tile:
        start = _three((f + p) * t for f, p, t in zip(self._first, position, self.tile, strict=True))
        whole = Box(start, _three(a + t for a, t in zip(start, self.tile, strict=True)))
        write = whole.intersection(self.region)
        volume = Box.whole(self.volume)
        read = write.with_context(self.halo, self.least, self.stride, volume)
        return Tile(self._index(position), write, read)


@dataclass(frozen=True)
class Windows:
    """Overlapping windows at fixed places of the whole volume, for blended inference.

    Along an axis they start at 0, step, 2 step, ...; the last one ends with the volume::

        |--- window ---|
               |--- window ---|
                         |--- window ---|     (moved back to end at the border)
        +-------------------------------+

    The places do not depend on the tiles, so every task that computes a window computes the same one.
    """

    volume: Index
    window: Index
    step: Index

    def _starts(self, axis: int) -> list[int]:
        length, window, step = self.volume[axis], self.window[axis], self.step[axis]
        last = max(0, length - window)
        return [*range(0, last, step), last]

    def touching(self, box: Box) -> Iterator[Box]:
        """Windows that meet `box`, in the order of their starts (z slowest)."""
        along = []
        for axis in range(3):
            length = min(self.window[axis], self.volume[axis])
            starts = self._starts(axis)
            along.append([(a, a + length) for a in starts if a < box.stop[axis] and a + length > box.start[axis]])
        for z in along[0]:
            for y in along[1]:
                for x in along[2]:
                    yield Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))

    def voxels_touching(self, grid: Grid) -> int:
        """Voxels of all windows that tiles of `grid` compute; a window that meets several tiles counts for each."""
        total = 1
        for axis in range(3):
            spans = [(a, a + min(self.window[axis], self.volume[axis])) for a in self._starts(axis)]
            total *= sum(
                high - low
                for start, stop in grid.writes_along(axis)
                for low, high in spans
                if low < stop and high > start
            )
        return total

    def hull(self, box: Box) -> Box:
        """The smallest box around all windows that meet `box`."""
        met = list(self.touching(box))
        return Box(met[0].start, met[-1].stop)


def parse_region(text: str, shape: Sequence[int]) -> Box:
    """Read ``Z0:Z1,Y0:Y1,X0:X1``; an end may be empty, as in ``:,:,:330``.

    Raises
    ------
    BadOption
        Not three ranges, or a range that is empty or leaves the volume.
    """
    ranges = text.split(",")
    if len(ranges) != 3 or any(r.count(":") != 1 for r in ranges):
        raise BadOption(f"region '{text}' is not Z0:Z1,Y0:Y1,X0:X1 (voxels, half-open, empty ends allowed)")
    start, stop = [], []
    for axis, bounds, length in zip("zyx", ranges, shape, strict=True):
        low, high = (part.strip() for part in bounds.split(":"))
        if any(part and not part.isdecimal() for part in (low, high)):
            raise BadOption(f"region '{text}': '{bounds}' along {axis} is not two whole numbers around a colon")
        a, b = int(low or 0), int(high or length)
        if not 0 <= a < b <= length:
            raise BadOption(f"region '{text}': {a}:{b} along {axis} is empty or leaves the volume (0:{length})")
        start.append(a)
        stop.append(b)
    return Box(_three(start), _three(stop))


def parse_index(text: str, what: str) -> Index:
    """Read ``Z,Y,X`` (or one number for all three) as positive whole numbers; `what` names it in errors."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BadOption(f"{what} '{text}' is not Z,Y,X (three positive whole numbers, or one for all)")
    numbers = [int(part) for part in parts]
    return _three(numbers * 3 if len(numbers) == 1 else numbers)


def _three(values: Iterator[int] | Sequence[int] | map[int]) -> Index:
    z, y, x = values
    return z, y, x
