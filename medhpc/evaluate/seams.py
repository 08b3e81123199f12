"""What tiles cost: the error beside their faces against the error elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import BadOption
from medhpc.evaluate.evaluation import SeamErrors
from medhpc.evaluate.streams import Progress, stream
from medhpc.evaluate.voxels import Rules
from medhpc.geometry import Box, Grid, Index
from medhpc.volume import Volume

LEAST_WIDTH = 8
"""Voxels on either side of a face that are looked at where a run has no halo: seams are worst there."""


def seam_errors(
    result: Volume,
    truth: Volume,
    grid: Grid,
    halo: Index,
    region: Box | None = None,
    *,
    kind: str = "image",
    rules: Rules | None = None,
    progress: Progress | None = None,
) -> SeamErrors:
    """Compare the error within a halo of the faces between tiles with the error elsewhere; streamed.

    Only faces inside the region of the grid count: a border of the volume is no seam.

    Parameters
    ----------
    result, truth : Volume
        One channel each, of one shape.
    grid : Grid
        The tiles that `result` was made of.
    halo : (z, y, x)
        Voxels on either side of a face that are near it; 8 where it is 0.
    region : Box, optional
        Look only here.
    kind : {"image", "mask", "labels"}
        The error is the absolute difference of an image, a different value of a mask (of classes), a different
        foreground of labels.
    rules : Rules, optional
        How the voxels of masks and labels are read.
    """
    region = (region or grid.region).intersection(grid.region)
    if not region.size:
        raise BadOption(f"no tile of the run lies in the region; it covers {grid.region}")
    z, y, x = (h or LEAST_WIDTH for h in halo)
    axes = [_near_faces(grid, axis, width) for axis, width in enumerate((z, y, x))]
    sums, counts = np.zeros(2), np.zeros(2, np.int64)
    for box, _, blocks in stream([result, truth], region, progress=progress):
        error, kept = _error(result, truth, blocks, kind, rules or Rules())
        in_z, in_y, in_x = (axis[a:b] for axis, a, b in zip(axes, box.start, box.stop, strict=True))
        near = in_z[:, None, None] | in_y[:, None] | in_x
        for i, chosen in enumerate((kept & ~near, kept & near)):
            sums[i] += error[chosen].sum(dtype=np.float64)
            counts[i] += np.count_nonzero(chosen)
    elsewhere, beside = (float(s / n) if n else None for s, n in zip(sums, counts, strict=True))
    return SeamErrors(
        measure="mean absolute difference" if kind == "image" else "part of the voxels that differ",
        near=beside,
        elsewhere=elsewhere,
        near_voxels=int(counts[1]),
        elsewhere_voxels=int(counts[0]),
        width=(z, y, x),
    )


def _near_faces(grid: Grid, axis: int, width: int) -> NDArray[np.bool_]:
    """For each voxel along an axis of the volume, whether it is among `width` on either side of a face."""
    near = np.zeros(grid.volume[axis], bool)
    start, stop, tile = grid.region.start[axis], grid.region.stop[axis], grid.tile[axis]
    for face in range((start // tile + 1) * tile, stop, tile):
        near[max(0, face - width) : face + width] = True
    return near


def _error(
    result: Volume, truth: Volume, blocks: Sequence[NDArray[Any]], kind: str, rules: Rules
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Error of each voxel, and which voxels count."""
    if kind == "image":
        error = np.abs(blocks[0].astype(np.float64) - blocks[1])
        return error, np.ones(error.shape, bool)
    found, wanted, counts = rules.read(result, truth, blocks)
    return found != wanted if kind == "mask" else (found != 0) != (wanted != 0), counts
