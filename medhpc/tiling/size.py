"""How large a tile should be: the fewest voxels read twice that the memory allows."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from medhpc.errors import BadOption
from medhpc.geometry import Box, Grid, Index
from medhpc.run.plan import Stored
from medhpc.run.shards import EDGE

LONGEST = 16  # shards a tile may be long, per axis
BASE = 800 * 2**20  # bytes of Python, torch and the libraries, before the first voxel
WAITING = 5  # tiles that wait before and behind the computing of a task
LOSS = 120.0  # seconds of work that a kill may cost, where smaller tiles allow it


def choose_tile(
    volume: Index, region: Box, halo: Index, *, block_voxels: int, seconds_per_voxel: float, edge: int = EDGE
) -> Index:
    """The tile, a whole number of shards, that makes all tiles together read the fewest voxels.

    Parameters
    ----------
    volume, halo : (z, y, x)
    region : Box
        What the tiles cover.
    block_voxels : int
        The largest read box that the memory allows. Where not even one shard fits, one shard it is (the computing then
        splits it).
    seconds_per_voxel : float
        Tiles of more than two minutes are avoided, so that a kill costs little.
    """
    lengths = [_candidates(length, edge) for length in volume]
    cost = [{t: _read_along(volume, region, halo, axis, t) for t in lengths[axis]} for axis in range(3)]
    most = min(block_voxels, LOSS / seconds_per_voxel)

    def largest_read(tile: Index) -> int:
        return math.prod(min(t + 2 * h, v) for t, h, v in zip(tile, halo, volume, strict=True))

    def read(tile: Index) -> int:
        return math.prod(cost[axis][tile[axis]] for axis in range(3))

    tiles = list(itertools.product(lengths[0], lengths[1], lengths[2]))
    fitting = [tile for tile in tiles if largest_read(tile) <= most]
    return min(fitting or tiles[:1], key=lambda tile: (read(tile), math.prod(tile), tile))


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


def _candidates(length: int, edge: int) -> list[int]:
    """Whole numbers of shards up to the length of the volume; the volume's own length is the last."""
    counts = range(1, min(LONGEST, math.ceil(length / edge)) + 1)
    return [min(n * edge, length) for n in counts]


def _read_along(volume: Index, region: Box, halo: Index, axis: int, tile: int) -> int:
    """Voxels that all tiles read along one axis."""

    def only(values: Index) -> Index:
        return (values[axis], 1, 1)

    line = Box((region.start[axis], 0, 0), (region.stop[axis], 1, 1))
    return Grid(only(volume), (tile, 1, 1), (halo[axis], 0, 0), line).read_voxels()
