"""How large a tile should be: the fewest voxels read twice that the memory allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from medhpc.errors import BadOption
from medhpc.geometry import Box, Grid, Index
from medhpc.run.plan import BASE, Stored
from medhpc.run.shards import EDGE

STEP = 4  # parts of a shard in which the lengths of tiles are tried
LONGEST = 16  # shards a tile may be long, per axis, where it does not span the volume
WAITING = 5  # tiles that wait before and behind the computing of a task
LOSS = 120.0  # seconds of work that a kill may cost, where smaller tiles allow it


def choose_tile(
    volume: Index, region: Box, halo: Index, *, block_voxels: int, seconds_per_voxel: float, edge: int = EDGE
) -> Index:
    """The tile that makes all tiles together read the fewest voxels.

    A long tile has less halo for its size, and at the border of the volume there is none: a tile that spans an axis
    reads nothing twice along it. So all boxes whose lengths are multiples of a quarter of a shard are compared, and
    those that span an axis.

    Parameters
    ----------
    volume, halo : (z, y, x)
    region : Box
        What the tiles cover.
    block_voxels : int
        The largest read box that the memory allows. Where not even the smallest tile fits, it is one shard (the
        computing then splits it).
    seconds_per_voxel : float
        Tiles of more than two minutes are avoided, so that a kill costs little.
    edge : int
        Of a shard.
    """
    most = min(block_voxels, LOSS / seconds_per_voxel)
    lengths = [_lengths(length, edge) for length in volume]
    # Along each axis the reads are independent, so that products of three vectors are the reads of all boxes.
    along = [[_reads_along(volume, region, halo, axis, length) for length in lengths[axis]] for axis in range(3)]
    largest, total = (_products([[measure(reads) for reads in axis] for axis in along]) for measure in (max, sum))
    fitting = np.flatnonzero(largest <= most)
    if not fitting.size:
        return _three(min(edge, length) for length in volume)
    short = [[int(n < min(edge, length)) for n in lengths[axis]] for axis, length in enumerate(volume)]
    ranks = (_products(lengths), _sums(short), total)  # of equals the smallest without parts of shards
    best = fitting[np.lexsort([rank.ravel()[fitting] for rank in ranks])[0]]
    return _three(lengths[axis][place] for axis, place in enumerate(np.unravel_index(best, total.shape)))


def block_voxels(memory: int, bytes_per_voxel: float, channels: int, itemsize: int, stored: Stored) -> int:
    """How many voxels a task can read and compute at once.

    Parameters
    ----------
    memory : int
        Bytes that the task may use in all.
    bytes_per_voxel : float
        Of the network while it computes; measured.
    channels, itemsize : int
        Of the volume.
    stored : Stored
        What waits to be written.

    Raises
    ------
    BadOption
        Not even a block of 32 x 32 x 32 fits.
    """
    waiting = WAITING * (channels * itemsize + stored.channels * np.dtype(stored.dtype).itemsize)
    per_voxel = bytes_per_voxel + 4 * channels + waiting
    voxels = int((memory - BASE) / per_voxel)
    if voxels < 32**3:
        least = math.ceil((BASE + 32**3 * per_voxel) / 2**30 * 100) / 100
        raise BadOption(f"memory {memory / 2**30:.2g} GiB is too little for this network; give at least {least:.2f}G")
    return voxels


def read_per_written(grid: Grid, halo: Index) -> float:
    """Voxels read / voxels written of a grid, had it this halo."""
    return dataclasses.replace(grid, halo=halo).read_amplification


def check_tile(tile: Index, volume: Index, stride: Index) -> None:
    """Refuse a tile, given by hand, that cannot be used.

    Raises
    ------
    BadOption
    """
    text = ",".join(map(str, tile))
    if any(t > v for t, v in zip(tile, volume, strict=True)):
        most = ",".join(map(str, volume))
        raise BadOption(f"tile {text} is larger than the volume ({most} voxels); give at most that, or --tile auto")
    if any(t % s and t < v for t, s, v in zip(tile, stride, volume, strict=True)):
        step = ",".join(map(str, stride))
        raise BadOption(f"tile {text} is not a multiple of the network's stride {step}; round it, or --tile auto")


def _lengths(volume: int, edge: int) -> list[int]:
    """Lengths of tiles to compare along an axis, ascending; the last one spans the volume."""
    step = max(1, edge // STEP)
    return [*range(step, min(volume, LONGEST * edge + 1), step), volume]


def _reads_along(volume: Index, region: Box, halo: Index, axis: int, tile: int) -> list[int]:
    """Voxels that each tile reads along one axis."""
    line = Box((region.start[axis], 0, 0), (region.stop[axis], 1, 1))
    return Grid((volume[axis], 1, 1), (tile, 1, 1), (halo[axis], 0, 0), line).reads_along(0)


def _products(factors: Sequence[Sequence[int]]) -> np.ndarray:
    """Of each element of three vectors with each of the others."""
    z, y, x = (np.array(values, np.float64) for values in factors)
    return z[:, None, None] * y[:, None] * x


def _sums(terms: Sequence[Sequence[int]]) -> np.ndarray:
    """Of each element of three vectors with each of the others."""
    z, y, x = map(np.array, terms)
    return z[:, None, None] + y[:, None] + x


def _three(values: Iterable[int]) -> Index:
    z, y, x = map(int, values)
    return z, y, x
