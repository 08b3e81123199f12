"""Measures of agreement between a result and the truth: arrays in, numbers out.

Labels are compared through an :class:`Overlap`, the sparse table of how many voxels each pair of labels shares. Tables
of parts of a volume add up to the table of the whole, so a volume of any size is measured piece by piece.

Where a ratio is 0/0 because neither side holds anything, they agree and it is 1; where only its denominator is
empty (the precision of a result that found nothing though there was something), it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DENSE_PAIRS = 2**22
"""Distances in a component of points up to which a dense matrix is quicker than a sparse one."""

SSIM_WINDOW = 7
SSIM_RADIUS = SSIM_WINDOW // 2


def ratio(part: float, whole: float, otherwise: float = 1.0) -> float:
    """``part / whole``, or `otherwise` where `whole` is 0."""
    return part / whole if whole else otherwise


# --- masks and labels ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many voxels each pair of labels shares; pairs that share none are left out.

    Attributes
    ----------
    result, truth : ndarray of int64, shape (pairs,)
        Labels; 0 is background.
    voxels : ndarray of int64, shape (pairs,)
        Voxels that are `result` in the one and `truth` in the other.
    """

    result: NDArray[np.int64]
    truth: NDArray[np.int64]
    voxels: NDArray[np.int64]

    def result_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Labels of the result except 0, ascending, and their sizes in voxels."""
        return _sizes(self.result, self.voxels)

    def truth_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Labels of the truth except 0, ascending, and their sizes in voxels."""
        return _sizes(self.truth, self.voxels)

    def foreground(self) -> Overlap:
        """The table of two masks: every label but 0 becomes 1."""
        return overlap(self.result != 0, self.truth != 0, self.voxels)


def overlap(result: ArrayLike, truth: ArrayLike, voxels: ArrayLike | None = None) -> Overlap:
    """Count the voxels that each pair of labels shares.

    Parameters
    ----------
    result, truth : array of int or bool, of one shape
        Labels of the same voxels.
    voxels : array of int, optional
        How many voxels each element stands for; one each unless given.
    """
    result, truth = np.ravel(result), np.ravel(truth)
    if voxels is None:
        result, truth, voxels = _runs(result, truth)
    result_labels, result_at = np.unique(result, return_inverse=True)
    truth_labels, truth_at = np.unique(truth, return_inverse=True)
    pairs, at = np.unique(result_at * len(truth_labels) + truth_at, return_inverse=True)
    first, second = np.divmod(pairs, max(1, len(truth_labels)))
    return Overlap(
        result=result_labels[first].astype(np.int64),
        truth=truth_labels[second].astype(np.int64),
        voxels=_sums(at, np.ravel(voxels), len(pairs)),
    )


def sum_overlaps(tables: Sequence[Overlap]) -> Overlap:
    """The table of a whole, from the tables of its parts."""
    return overlap(
        np.concatenate([table.result for table in tables]),
        np.concatenate([table.truth for table in tables]),
        np.concatenate([table.voxels for table in tables]),
    )


def dice(table: Overlap, label: int = 1) -> float:
    """Dice coefficient of one label: ``2 |R & T| / (|R| + |T|)``."""
    shared, in_result, in_truth = _voxels_of(table, label)
    return ratio(2 * shared, in_result + in_truth)


def iou(table: Overlap, label: int = 1) -> float:
    """Intersection over union (Jaccard index) of one label: ``|R & T| / |R | T|``."""
    shared, in_result, in_truth = _voxels_of(table, label)
    return ratio(shared, in_result + in_truth - shared)


def matched_instances(table: Overlap) -> int:
    """Number of one-to-one pairs of objects whose intersection over union is at least 0.5.

    Above 0.5 an object has one partner at most. At exactly 0.5 it can have two, but these have no other: one partner
    each makes a largest matching, and nothing has to be solved.
    """
    (result_labels, result_sizes), (truth_labels, truth_sizes) = table.result_sizes(), table.truth_sizes()
    objects = (table.result != 0) & (table.truth != 0)
    result, truth, shared = table.result[objects], table.truth[objects], table.voxels[objects]
    both = result_sizes[np.searchsorted(result_labels, result)] + truth_sizes[np.searchsorted(truth_labels, truth)]
    good = 2 * shared >= both - shared
    _, first = np.unique(truth[good], return_index=True)
    return len(np.unique(result[good][first]))


def average_precision(table: Overlap) -> float:
    """Average precision of instances at an intersection over union of 0.5: ``TP / (TP + FP + FN)``.

    The definition of the 2018 Data Science Bowl (Caicedo et al., Nature Methods 16, 2019), StarDist and Cellpose.
    """
    matched = matched_instances(table)
    objects = len(table.result_sizes()[0]) + len(table.truth_sizes()[0])
    return ratio(matched, objects - matched)


def _runs(result: NDArray, truth: NDArray) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Replace each run of equal pairs by one pair and its length: label images are mostly long runs."""
    changes = np.flatnonzero((result[1:] != result[:-1]) | (truth[1:] != truth[:-1])) + 1
    starts = np.concatenate([np.zeros(min(1, result.size), np.int64), changes])
    return result[starts], truth[starts], np.diff(starts, append=result.size)


def _sizes(labels: NDArray[np.int64], voxels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    objects = labels != 0
    names, at = np.unique(labels[objects], return_inverse=True)
    return names, _sums(at, voxels[objects], len(names))


def _sums(at: NDArray[np.int64], values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    sums = np.zeros(length, np.int64)
    np.add.at(sums, at, values)
    return sums


def _voxels_of(table: Overlap, label: int) -> tuple[int, int, int]:
    """Voxels of `label` in both, in the result, in the truth."""
    in_result, in_truth = table.result == label, table.truth == label
    both, first, second = (table.voxels[chosen].sum() for chosen in (in_result & in_truth, in_result, in_truth))
    return int(both), int(first), int(second)


# --- points --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Matching:
    """One-to-one pairs of points.

    Attributes
    ----------
    result, truth : ndarray of int, shape (pairs,)
        Places of the two points of each pair in their lists.
    distance : ndarray of float, shape (pairs,)
        Between the two.
    """

    result: NDArray[np.integer]
    truth: NDArray[np.integer]
    distance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.distance)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How many objects were found, how many there are, and how many of these were found.

    Attributes
    ----------
    found, annotated, matched : int
        Objects of the result, objects of the truth, one-to-one pairs of them.
    """

    found: int
    annotated: int
    matched: int

    @property
    def precision(self) -> float:
        """Part of the found objects that are right."""
        return ratio(self.matched, self.found, otherwise=float(not self.annotated))

    @property
    def recall(self) -> float:
        """Part of the annotated objects that were found."""
        return ratio(self.matched, self.annotated, otherwise=float(not self.found))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return ratio(2 * self.matched, self.found + self.annotated)


def match_points(result: NDArray[np.float64], truth: NDArray[np.float64], tolerance: float) -> Matching:
    """Pair points one to one: as many pairs as there can be, and among such matchings one of least total distance.

    Exact. Every connected component of the graph of possible pairs is an assignment problem of its own, in which to
    leave a point alone costs more than any rearrangement can save. Time and memory grow with the number of possible
    pairs; 10^5 points take a second where the tolerance is shorter than the usual distance between neighbours.

    Parameters
    ----------
    result, truth : array of float, shapes (n, 3) and (m, 3)
        Positions in the same unit as `tolerance`.
    tolerance : float
        Points at this distance or closer can be a pair.
    """
    from scipy.spatial import KDTree

    close = KDTree(result).sparse_distance_matrix(KDTree(truth), tolerance, output_type="ndarray")
    first, second, distance = close["i"], close["j"], close["v"]
    kept = np.empty(0, np.int64)
    if len(close):
        components = _components(first, second)
        kept = np.concatenate([edges[_assign(first[edges], second[edges], distance[edges])] for edges in components])
    kept = kept[np.argsort(first[kept])]
    return Matching(result=first[kept], truth=second[kept], distance=distance[kept])


def _components(first: NDArray, second: NDArray) -> Iterator[NDArray[np.int64]]:
    """Edges of each connected component of a graph between two kinds of points."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_first, n_second = first.max() + 1, second.max() + 1
    edges = coo_array((np.ones(len(first), np.int8), (first, n_first + second)), shape=(n_first + n_second,) * 2)
    component = connected_components(edges, directed=False)[1][first]
    order = np.argsort(component, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(component[order])) + 1)


def _assign(first: NDArray, second: NDArray, distance: NDArray[np.float64]) -> NDArray[np.integer]:
    """Choose edges of one component: as many as can be without a common point, of least total distance."""
    if len(distance) == 1:
        return np.array([0])
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    alone = 1 + (min(len(rows), len(columns)) + 1) * distance.max()  # dearer than all pairs together
    if len(rows) * len(columns) <= DENSE_PAIRS:
        return _assign_dense(row, column, distance, alone)
    return _assign_sparse(row, column, distance, alone)


def _assign_dense(row: NDArray, column: NDArray, distance: NDArray[np.float64], alone: float) -> NDArray[np.integer]:
    from scipy.optimize import linear_sum_assignment

    cost = np.full((row.max() + 1, column.max() + 1), alone)
    edge = np.full(cost.shape, -1)
    cost[row, column], edge[row, column] = distance, np.arange(len(distance))
    chosen = edge[linear_sum_assignment(cost)]
    return chosen[chosen >= 0]


def _assign_sparse(row: NDArray, column: NDArray, distance: NDArray[np.float64], alone: float) -> NDArray[np.integer]:
    """The same from the edges only; a column of its own for each row stands for being alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n_rows, n_columns = row.max() + 1, column.max() + 1
    rows = np.concatenate([row, np.arange(n_rows)])
    columns = np.concatenate([column, n_columns + np.arange(n_rows)])
    cost = np.concatenate([distance, np.full(n_rows, alone)]) + 1  # the solver takes no weight of 0
    shape = (n_rows, n_columns + n_rows)
    pairs = min_weight_full_bipartite_matching(coo_array((cost, (rows, columns)), shape=shape).tocsr())
    return np.flatnonzero(np.isin(row * shape[1] + column, pairs[0] * shape[1] + pairs[1]))


# --- images --------------------------------------------------------------------------------------


def psnr(squared_error: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(range^2 / mean squared error)``; infinite where there is no error.

    Parameters
    ----------
    squared_error : float
        Mean over the voxels.
    data_range : float
        Difference between the largest and the smallest value that the truth can have.
    """
    return 10 * math.log10(data_range**2 / squared_error) if squared_error else math.inf


def ssim_map(result: NDArray, truth: NDArray, data_range: float) -> NDArray[np.float64]:
    """Structural similarity of the neighbourhood of each voxel whose window of 7 lies wholly inside the image.

    The mean of the map is the SSIM of scikit-image with its defaults (Wang et al., IEEE TIP 13, 2004): uniform window,
    sample covariance, K1 = 0.01, K2 = 0.03. Maps of parts that overlap by 6 voxels make up the map of the whole.

    Parameters
    ----------
    result, truth : array (z, y, x)
        Along each axis 7 voxels or more; one plane (z = 1) is compared in two dimensions.
    data_range : float
        Difference between the largest and the smallest value that the truth can have.

    Returns
    -------
    array (z - 6, y - 6, x - 6), or (1, y - 6, x - 6) of one plane
    """
    window = tuple(1 if length == 1 else SSIM_WINDOW for length in truth.shape)
    mean_r, mean_t, mean_rr, mean_tt, mean_rt = _window_means(result, truth, window)
    n = math.prod(window)
    unbiased = n / (n - 1)
    covariance = unbiased * (mean_rt - mean_r * mean_t)
    variances = unbiased * (mean_rr - mean_r**2 + mean_tt - mean_t**2)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_r * mean_t + c1) / (mean_r**2 + mean_t**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _window_means(result: NDArray, truth: NDArray, window: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Means of R, T, R^2, T^2 and R T over each whole window."""
    r, t = result.astype(np.float64), truth.astype(np.float64)
    means = []
    for image in (r, t, r * r, t * t, r * t):
        for axis in range(image.ndim):
            if window[axis] > 1:
                image = _sum_of_seven(image, axis)
        means.append(image / math.prod(window))
    return means


def _sum_of_seven(image: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Sums of 7 = 4 + 2 + 1 neighbours along an axis: four additions of whole arrays."""
    image = np.moveaxis(image, axis, 0)
    two = image[:-1] + image[1:]
    four = two[:-2] + two[2:]
    seven = four[:-3] + two[4:-1]
    seven += image[6:]
    return np.moveaxis(seven, 0, axis)
