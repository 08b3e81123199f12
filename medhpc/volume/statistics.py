"""Mean, deviation, range and percentiles of a volume, in one pass and flat memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medhpc.geometry import Box, Grid, Index

if TYPE_CHECKING:
    from medhpc.volume.base import Volume

PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)
MOST_VOXELS = 2**26
"""Volumes up to this size are looked at whole."""

_BLOCK = 2**22  # voxels held at once
_BOX = 64  # voxels along each axis of a sampled box, less where there would be too few of them
_FEW = 125  # boxes
_STEPS = tuple(1.2207440846057596**-n for n in (1, 2, 3))  # powers of the root of x^4 = x + 1
_KEPT = 2**22  # floats kept for their percentiles


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the voxels of a volume are like; NaN and infinity are left out.

    Attributes
    ----------
    mean, std : tuple of float
        One per channel (population standard deviation, float64).
    minimum, maximum : float
        Of all channels.
    percentiles : dict of float to float
        Of all channels together: 0.1, 1, 50, 99 and 99.9.
    voxels : int
        How many were looked at, channels counted.
    nonfinite : (z, y, x) or None
        The first NaN or infinity among them.
    exact : bool
        Whether the whole volume was looked at.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: float
    maximum: float
    percentiles: dict[float, float]
    voxels: int
    nonfinite: Index | None
    exact: bool


def statistics_of(volume: Volume, max_voxels: int = MOST_VOXELS) -> Statistics:
    """Look at the whole volume where it has at most `max_voxels`, else at boxes spread evenly over it.

    Where boxes are expensive, whole planes are taken in their place. The same volume gives the same numbers.
    Percentiles of 8 and 16 bit integers are exact; those of other dtypes come from up to 2^22 voxels, evenly spaced.
    """
    budget = max(1, max_voxels // volume.channels)
    exact = Box.whole(volume.shape).size <= budget
    boxes = _all_blocks(volume) if exact else _sampled_boxes(volume, budget)
    voxels = sum(box.size for box in boxes) * volume.channels
    small = volume.dtype.kind in "iu" and volume.dtype.itemsize <= 2
    tally: _Tally = _Histogram(volume) if small else _Moments(volume, voxels)
    first: Index | None = None
    for box in boxes:
        block = volume.read(box)
        if volume.dtype.kind == "f" and (found := _first_nonfinite(block, box)):
            first = min(first or found, found)
        tally.add(block)
    return tally.result(voxels, first, exact)


def _all_blocks(volume: Volume) -> Iterable[Box]:
    """Slabs of whole planes (rows of one plane, where planes are huge), a whole number of chunks thick."""
    _, height, width = volume.shape
    chunk_z, chunk_y, _ = volume.chunks or (1, 1, 1)
    planes = max(1, _BLOCK // (height * width * chunk_z)) * chunk_z
    rows = max(1, _BLOCK // (width * planes * chunk_y)) * chunk_y
    whole = Box.whole(volume.shape)
    return [tile.write for tile in Grid(volume.shape, (planes, min(rows, height), width), (0, 0, 0), whole)]


def _sampled_boxes(volume: Volume, budget: int) -> list[Box]:
    """Cells of a grid, spread evenly; whole planes where boxes are expensive."""
    if not volume.boxes_are_cheap:
        _, height, width = volume.shape
        return _spread(volume.shape, (1, min(height, max(1, budget // width)), width), budget)
    side = min(_BOX, max(_BOX // 4, 2 ** int(math.log2(budget / _FEW) / 3)))
    z, y, x = (min(-(-side // c) * c, n) for c, n in zip(volume.chunks or (1, 1, 1), volume.shape, strict=True))
    return _spread(volume.shape, (z, y, x), budget)


def _spread(shape: Index, cell: Index, budget: int) -> list[Box]:
    """Cells of one shape, at most `budget` voxels but one cell at least, at the points of a sequence that fills space.

    The additive recurrence of Roberts ("The unreasonable effectiveness of quasirandom sequences", 2018): each axis is
    covered about evenly, however few cells there are.
    """
    grid = Grid(shape, cell, (0, 0, 0), Box.whole(shape))
    _, rows, columns = grid.counts
    indices = set()
    for n in range(max(1, budget // math.prod(cell))):
        z, y, x = (int((0.5 + n * step) % 1 * count) for step, count in zip(_STEPS, grid.counts, strict=True))
        indices.add((z * rows + y) * columns + x)
    return [grid[index].write for index in sorted(indices)]


def _first_nonfinite(block: np.ndarray[Any, Any], box: Box) -> Index | None:
    bad = ~np.isfinite(block)
    if not bad.any():
        return None
    z, y, x = np.unravel_index(int(bad.any(axis=0).argmax()), box.shape)
    return box.start[0] + int(z), box.start[1] + int(y), box.start[2] + int(x)


class _Tally(Protocol):
    """Takes blocks (channels, z, y, x), gives the statistics."""

    def add(self, block: np.ndarray[Any, Any]) -> None: ...

    def result(self, voxels: int, nonfinite: Index | None, exact: bool) -> Statistics: ...


class _Histogram:
    """8 and 16 bit integers: the count of each value says everything."""

    def __init__(self, volume: Volume) -> None:
        self._unsigned = np.dtype(f"u{volume.dtype.itemsize}")
        codes = np.arange(2 ** (8 * volume.dtype.itemsize), dtype=self._unsigned)
        self._values = codes.view(volume.dtype)
        self._counts = np.zeros((volume.channels, codes.size), np.int64)

    def add(self, block: np.ndarray[Any, Any]) -> None:
        for counts, channel in zip(self._counts, block, strict=True):
            counts += np.bincount(channel.reshape(-1).view(self._unsigned), minlength=counts.size)

    def result(self, voxels: int, nonfinite: Index | None, exact: bool) -> Statistics:
        order = np.argsort(self._values)
        values, counts = self._values[order].astype(np.float64), self._counts[:, order]
        each = counts.sum(axis=1)
        mean = counts @ values / each
        variance = [float(n @ (values - m) ** 2) / total for n, m, total in zip(counts, mean, each, strict=True)]
        below = np.cumsum(counts.sum(axis=0))
        ranks = [q / 100 * (below[-1] - 1) for q in PERCENTILES]
        seen = values[counts.sum(axis=0) > 0]
        return Statistics(
            mean=tuple(map(float, mean)),
            std=tuple(map(math.sqrt, variance)),
            minimum=float(seen[0]),
            maximum=float(seen[-1]),
            percentiles={q: _at_rank(values, below, rank) for q, rank in zip(PERCENTILES, ranks, strict=True)},
            voxels=voxels,
            nonfinite=nonfinite,
            exact=exact,
        )


def _at_rank(values: np.ndarray[Any, Any], below: np.ndarray[Any, Any], rank: float) -> float:
    """Find the value at a fractional rank, interpolated linearly as numpy.percentile does."""
    low, high = (float(values[np.searchsorted(below, n, side="right")]) for n in (math.floor(rank), math.ceil(rank)))
    return float(low + (high - low) * (rank - math.floor(rank)))


class _Moments:
    """Any dtype: mean and squared deviations merged block by block (Chan, Golub & LeVeque 1979)."""

    def __init__(self, volume: Volume, voxels: int) -> None:
        self._count = np.zeros(volume.channels)
        self._mean = np.zeros(volume.channels)
        self._squares = np.zeros(volume.channels)
        self._minimum, self._maximum = math.inf, -math.inf
        self._every = -(-voxels // _KEPT)
        self._kept: list[np.ndarray[Any, Any]] = []

    def add(self, block: np.ndarray[Any, Any]) -> None:
        for channel, voxels in enumerate(block.reshape(block.shape[0], -1)):
            finite = voxels[np.isfinite(voxels)] if block.dtype.kind == "f" else voxels
            if finite.size:
                self._add_channel(channel, finite)

    def _add_channel(self, channel: int, finite: np.ndarray[Any, Any]) -> None:
        numbers = finite.astype(np.float64)
        mean = numbers.mean()
        total = self._count[channel] + numbers.size
        shift = mean - self._mean[channel]
        self._squares[channel] += ((numbers - mean) ** 2).sum()
        self._squares[channel] += shift**2 * self._count[channel] * numbers.size / total
        self._mean[channel] += shift * numbers.size / total
        self._count[channel] = total
        self._minimum = min(self._minimum, float(numbers.min()))
        self._maximum = max(self._maximum, float(numbers.max()))
        self._kept.append(finite[:: self._every].copy())

    def result(self, voxels: int, nonfinite: Index | None, exact: bool) -> Statistics:
        kept = np.concatenate(self._kept).astype(np.float64) if self._kept else np.array([math.nan])
        seen = self._count.any()
        return Statistics(
            mean=tuple(float(m) if n else math.nan for m, n in zip(self._mean, self._count, strict=True)),
            std=tuple(math.sqrt(s / n) if n else math.nan for s, n in zip(self._squares, self._count, strict=True)),
            minimum=self._minimum if seen else math.nan,
            maximum=self._maximum if seen else math.nan,
            percentiles={q: float(np.percentile(kept, q)) for q in PERCENTILES},
            voxels=voxels,
            nonfinite=nonfinite,
            exact=exact,
        )
