"""How a volume larger than memory is walked through: box after box, each whole chunks of the file where it can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from medhpc.geometry import Box, Index

BLOCK_VOXELS = 2**22
"""Voxels per block: 34 MB in double precision, so that a dozen temporaries still fit a laptop."""


def blocks(region: Box, chunks: Sequence[int] | None = None, voxels: int = BLOCK_VOXELS) -> Iterator[Box]:
    """Cut `region` into boxes of about `voxels` voxels, each voxel in exactly one of them.

    A block is first made as long as it can be along x, then y, then z, so that files of planes are read in their own
    order. Its faces inside the region stand at multiples of `chunks`, so that every chunk is decoded once.

    Parameters
    ----------
    region : Box
        Voxels of the whole volume.
    chunks : (z, y, x), optional
        Shape of the file's chunks; None where any box is cheap. A single chunk larger than `voxels` is not cut.
    voxels : int
        Size of a block to aim at.
    """
    if not region.size:
        return
    chunks = tuple(chunks or (1, 1, 1))
    shape = _block_shape(region, chunks, voxels)
    axes = [_cuts(*along) for along in zip(region.start, region.stop, shape, chunks, strict=True)]
    for z, y, x in itertools.product(*axes):
        yield Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def _block_shape(region: Box, chunks: tuple[int, ...], voxels: int) -> Index:
    """Count as many whole chunks along x, then y, then z, as the region and the budget hold."""
    shape = list(chunks)
    for axis in (2, 1, 0):
        others = math.prod(shape[:axis] + shape[axis + 1 :])
        shape[axis] = chunks[axis] * max(1, voxels // (others * chunks[axis]))
        shape[axis] = min(shape[axis], region.stop[axis] - region.start[axis] // chunks[axis] * chunks[axis])
    return shape[0], shape[1], shape[2]


def _cuts(start: int, stop: int, step: int, chunk: int) -> list[tuple[int, int]]:
    """Ranges of `step` that cover start:stop, counted from the first face of a chunk at or before `start`."""
    faces = [start, *range(start // chunk * chunk + step, stop, step), stop]
    return list(itertools.pairwise(faces))
