"""Objects of a volume that is seen one slab at a time: label, measure, merge over the faces, split where they touch.

Arrays and tables only, no files. Objects are 26-connected; every sum is an exact integer, so that tables do not depend
on where the slabs are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CONNECTED = np.ones((3, 3, 3), bool)  # 26 neighbours


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measures of n objects (or of parts of objects); rows in any order.

    Attributes
    ----------
    first : (n,) int64
        Flat index, in the whole volume, of the first voxel in raster order: what ids are ordered by.
    voxels : (n,) int64
    sums : (n, 3) int64
        Sums of z, y and x over the voxels.
    weight : (n,) float64 or int64
        Sum of the stored probability over the voxels.
    low, high : (n, 3) int64
        Bounding box, half-open.
    """

    first: np.ndarray
    voxels: np.ndarray
    sums: np.ndarray
    weight: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> Table:
        """The rows of an index or a mask."""
        return Table(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """All rows, one table after the other."""
        return cls(**{name: np.concatenate([vars(table)[name] for table in tables]) for name in vars(tables[0])})

    def grouped(self, groups: np.ndarray, count: int) -> Table:
        """Rows of the same group as one row; `groups` (n,) holds numbers below `count`."""
        total = len(self)
        first = np.full(count, np.iinfo(np.int64).max)
        low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
        voxels, sums = np.zeros(count, np.int64), np.zeros((count, 3), np.int64)
        weight = np.zeros(count, self.weight.dtype)
        if total:
            np.minimum.at(first, groups, self.first)
            np.minimum.at(low, groups, self.low)
            np.maximum.at(high, groups, self.high)
            np.add.at(voxels, groups, self.voxels)
            np.add.at(sums, groups, self.sums)
            np.add.at(weight, groups, self.weight)
        return Table(first=first, voxels=voxels, sums=sums, weight=weight, low=low, high=high)


def label(mask: np.ndarray) -> np.ndarray:
    """Components of a block, numbered from 1: (z, y, x) bool -> (z, y, x) int32."""
    labels, _ = ndimage.label(mask, structure=CONNECTED)
    return labels


def measure(
    labels: np.ndarray, start: Sequence[int], volume: Sequence[int], weights: np.ndarray | None = None
) -> Table:
    """Measure the components 1..n of a block.

    Parameters
    ----------
    labels : ndarray of int, shape (z, y, x)
        Every number from 1 to the largest occurs.
    start : (z, y, x)
        Where the block lies in the volume.
    volume : (z, y, x)
        Shape of the whole volume.
    weights : ndarray, shape (z, y, x), optional
        What is summed as `weight`.

    Returns
    -------
    Table
        Row i measures component i + 1.
    """
    flat = np.flatnonzero(labels)
    ids = labels.ravel()[flat].astype(np.int64) - 1
    count = int(ids.max()) + 1 if len(ids) else 0
    where = np.stack(np.unravel_index(flat, labels.shape), axis=1) + np.asarray(start, np.int64)
    first = np.zeros(count, np.int64)
    first[ids[::-1]] = np.ravel_multi_index(tuple(where.T), tuple(volume))[::-1]  # the last one written is the first
    boxes = ndimage.find_objects(labels)
    offsets = np.asarray(start, np.int64)
    weighed = np.zeros(len(ids), np.int64) if weights is None else weights.ravel()[flat]
    total = np.bincount(ids, weighed, minlength=count)
    return Table(
        first=first,
        voxels=np.bincount(ids, minlength=count),
        sums=np.stack([_integers(np.bincount(ids, where[:, axis], minlength=count)) for axis in range(3)], axis=1),
        weight=_integers(total) if weighed.dtype.kind in "iu" else total,
        low=np.array([[s.start for s in box] for box in boxes], np.int64).reshape(-1, 3) + offsets,
        high=np.array([[s.stop for s in box] for box in boxes], np.int64).reshape(-1, 3) + offsets,
    )


def touching(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Components that touch across a face.

    Parameters
    ----------
    above, below : ndarray of int, shape (y, x)
        The last plane of a slab and the first of the next; each voxel touches the nine opposite it.

    Returns
    -------
    ndarray, shape (pairs, 2)
        Ids above and below, each pair once.
    """
    padded = np.pad(below, 1)
    height, length = above.shape
    found = []
    for dy in range(3):
        for dx in range(3):
            opposite = padded[dy : dy + height, dx : dx + length]
            both = (above > 0) & (opposite > 0)
            found.append(np.unique(np.stack([above[both], opposite[both]], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0).astype(np.int64)


def merge(counts: Sequence[int], faces: Sequence[np.ndarray]) -> np.ndarray:
    """Join components of consecutive slabs into objects.

    Parameters
    ----------
    counts : sequence of int
        Components per slab.
    faces : sequence of (pairs, 2) arrays
        What touches between slab k and k + 1, as :func:`touching` gives it; one fewer than slabs.

    Returns
    -------
    ndarray of int64, shape (sum of counts,)
        The object, from 0, of each component, slab after slab.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    joined = [pairs - 1 + offsets[[k, k + 1]] for k, pairs in enumerate(faces)]
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *joined])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    _, members = connected_components(graph, directed=False) if total else (0, np.zeros(0))
    return np.asarray(members, np.int64)


def split(mask: np.ndarray, voxel_size: Sequence[float], depth: float) -> np.ndarray:
    """Cut one object where it is thin: watershed of the distance to its border.

    Parameters
    ----------
    mask : ndarray of bool, shape (z, y, x)
        The object in its bounding box.
    voxel_size : (z, y, x)
        Any unit.
    depth : float
        How much shallower than both neighbours, as a fraction of the object's largest distance to the border, a neck
        must be to be cut (the h of the h-maxima transform).

    Returns
    -------
    ndarray of int32, shape (z, y, x)
        Parts 1..n, 0 outside the object; n is 1 where nothing was to be cut.
    """
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    padded = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(padded, sampling=voxel_size)
    # Voxels make the distance rough: a ridge would fall into many summits.
    smooth = ndimage.gaussian_filter(distance, 1.0) * padded
    lowered = reconstruction(np.maximum(smooth - depth * smooth.max(), 0), smooth)
    markers = label(local_maxima(lowered, connectivity=3) & padded)
    if markers.max() <= 1:
        return mask.astype(np.int32)
    parts: np.ndarray = watershed(-smooth, markers, mask=padded, connectivity=CONNECTED)
    return parts[1:-1, 1:-1, 1:-1].astype(np.int32)


def smallest_dtype(count: int) -> np.dtype:
    """The smallest unsigned dtype that holds ids up to `count`."""
    return np.dtype(
        next(dtype for dtype in (np.uint8, np.uint16, np.uint32, np.uint64) if count <= np.iinfo(dtype).max)
    )


def _integers(sums: np.ndarray) -> np.ndarray:
    """Sums of whole numbers, exact in float64 up to 2^53, as integers."""
    return np.rint(sums).astype(np.int64)
