"""Objects against objects: which of the found ones are right, which of the annotated ones were found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import BadOption
from medhpc.geometry import Box
from medhpc.metrics import Detection, match_points
from medhpc.points import Points

MOST_PAIRS = 5 * 10**7
"""Possible pairs of points beyond which matching them would fill the memory."""


def detect(
    result: Points, truth: Points, tolerance_um: float, voxel_size_um: Sequence[float] | None, region: Box | None
) -> tuple[Detection, float | None]:
    """Pair the points of result and truth; also return the mean distance of the pairs in micrometres.

    A pair counts where its annotated point lies in the region, and a found point without a partner where it lies
    itself: a cell at the border of the region is not an error because its two centres lie on either side.
    """
    found, annotated = result.in_um(voxel_size_um), truth.in_um(voxel_size_um)
    _check_pairs(found, annotated, tolerance_um)
    matching = match_points(found, annotated, tolerance_um)
    in_result, in_truth = (_inside(points, voxel_size_um, region) for points in (result, truth))
    counted = in_truth[matching.truth]
    alone = np.setdiff1d(np.flatnonzero(in_result), matching.result)
    matched = int(counted.sum())
    distance = float(matching.distance[counted].mean()) if matched else None
    return Detection(found=matched + len(alone), annotated=int(in_truth.sum()), matched=matched), distance


def _inside(points: Points, voxel_size_um: Sequence[float] | None, region: Box | None) -> NDArray[np.bool_]:
    """Whether the voxel that each point lies in belongs to the region."""
    if region is None:
        return np.ones(len(points), bool)
    voxels = np.rint(points.in_voxels(voxel_size_um))
    return np.all((voxels >= region.start) & (voxels < region.stop), axis=1)


def _check_pairs(found: NDArray[np.float64], annotated: NDArray[np.float64], tolerance_um: float) -> None:
    from scipy.spatial import KDTree

    pairs = KDTree(found).count_neighbors(KDTree(annotated), tolerance_um)
    if pairs > MOST_PAIRS:
        raise BadOption(
            f"a tolerance of {tolerance_um:g} um makes {pairs:.1e} pairs of points possible, more than memory holds; "
            "expected about the radius of an object"
        )
