"""Two volumes side by side, block by block."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import BLOCK_VOXELS, blocks
from medhpc.geometry import Box, Index
from medhpc.volume import Volume

Progress: TypeAlias = Callable[[int, int], None]
THICK: Index = (32, 64, 64)
"""Least shape of blocks with a margin: the margin of thin ones would be larger than they are."""

Block: TypeAlias = tuple[Box, Box, list[NDArray[Any]]]


def stream(
    volumes: list[Volume], region: Box, *, margin: Index = (0, 0, 0), progress: Progress | None = None
) -> Iterator[Block]:
    """Read one or two volumes of one shape block by block, one block ahead.

    Yields
    ------
    box : Box
        Its voxels are in no other block.
    read : Box
        `box` grown by `margin`, inside `region`: what the arrays hold.
    arrays : list of arrays (z, y, x)
        One for each volume.
    """
    boxes = blocks(region, _common_chunks(volumes, least=THICK if any(margin) else (1, 1, 1)), BLOCK_VOXELS)
    ahead: deque[tuple[Box, Box, list[Future[NDArray[Any]]]]] = deque()
    done = 0
    with ThreadPoolExecutor(len(volumes)) as readers:
        for box in [*boxes, None]:
            if box is not None:
                read = box.grow(margin).intersection(region)
                ahead.append((box, read, [readers.submit(volume.read, read) for volume in volumes]))
            while len(ahead) > (box is not None):
                ready, read, arrays = ahead.popleft()
                yield ready, read, [array.result()[0] for array in arrays]
                done += ready.size
                if progress:
                    progress(done, region.size)


def share(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """The progress of one of several passes over the same voxels."""
    if progress is None:
        return None
    return lambda done, total: progress(part * total + done, parts * total)


def _common_chunks(volumes: list[Volume], least: Index) -> Index:
    """The longest chunk along each axis."""
    z, y, x = np.max([least, *(volume.chunks for volume in volumes if volume.chunks)], axis=0).tolist()
    return z, y, x
