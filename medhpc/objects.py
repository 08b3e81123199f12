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

from medhpc.geometry import Box

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

    def box(self, row: int) -> Box:
        """Bounding box of one row."""
        (z0, y0, x0), (z1, y1, x1) = self.low[row].tolist(), self.high[row].tolist()
        return Box((z0, y0, x0), (z1, y1, x1))

    def take(self, rows: np.ndarray) -> Table:
        """The rows of an index or a mask."""
        return Table(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """All rows, one table after the other."""
        return cls(**{name: np.concatenate([vars(table)[name] for table in tables]) for name in vars(tables[0])})

    def grouped(self, groups: np.ndarray) -> Table:
        """Rows of the same group as one row; `groups` (n,) holds every number from 0 to the largest."""
        order = np.argsort(groups, kind="stable")
        begins = np.flatnonzero(np.diff(groups[order], prepend=-1))

        def reduced(values: np.ndarray, over: np.ufunc) -> np.ndarray:
            return over.reduceat(values[order], begins, axis=0) if len(begins) else values[:0]

        return Table(
            first=reduced(self.first, np.minimum),
            voxels=reduced(self.voxels, np.add),
            sums=reduced(self.sums, np.add),
            weight=reduced(self.weight, np.add),
            low=reduced(self.low, np.minimum),
            high=reduced(self.high, np.maximum),
        )


def label(mask: np.ndarray) -> np.ndarray:
    """Components of a block, numbered from 1: (z, y, x) bool -> (z, y, x) int32."""
    labels, _ = ndimage.label(mask, structure=CONNECTED, output=np.int32)
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
    # Stretches of one component along x: far fewer than voxels.
    changes = np.ones(labels.shape, bool)
    np.not_equal(labels[..., 1:], labels[..., :-1], out=changes[..., 1:])
    begins = np.flatnonzero(changes)
    components = labels.ravel()[begins]
    mine = components > 0
    lengths = np.diff(begins, append=labels.size)[mine]
    low = np.stack(np.unravel_index(begins[mine], labels.shape), axis=1) + np.asarray(start, np.int64)
    sums = low * lengths[:, None]
    sums[:, 2] += lengths * (lengths - 1) // 2
    high = low + 1
    high[:, 2] += lengths - 1
    stretches = Table(
        first=np.ravel_multi_index(tuple(low.T), tuple(volume)),
        voxels=lengths,
        sums=sums,
        weight=np.zeros_like(lengths) if weights is None else _sums_between(weights, begins)[mine],
        low=low,
        high=high,
    )
    return stretches.grouped(components[mine] - 1)


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
    base = int(below.max(initial=0)) + 1
    found = [np.zeros(0, np.int64)]
    for dy in range(3):
        for dx in range(3):
            opposite = padded[dy : dy + height, dx : dx + length]
            both = (above > 0) & (opposite > 0)
            found.append(np.unique(above[both].astype(np.int64) * base + opposite[both]))
    return np.stack(np.divmod(np.unique(np.concatenate(found)), base), axis=1)


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

    whole = mask.astype(np.int32)
    if mask.size == 1:
        return whole
    # A flat object has no border above and below: its own thickness would hide where it is narrow.
    border = [(1, 1) if length > 1 else (0, 0) for length in mask.shape]
    padded = np.pad(mask, border)
    distance = ndimage.distance_transform_edt(padded, sampling=voxel_size).astype(np.float32)
    # Voxels make the distance rough: a ridge would fall into many summits.
    smooth = ndimage.gaussian_filter(distance, 1.0) * padded
    if label(local_maxima(smooth, connectivity=3)).max() <= 1:
        return whole
    lowered = reconstruction(np.maximum(smooth - depth * smooth.max(), 0), smooth)
    markers = label(local_maxima(lowered, connectivity=3) & padded)
    if markers.max() <= 1:
        return whole
    parts: np.ndarray = watershed(-smooth, markers, mask=padded, connectivity=CONNECTED)
    return parts[tuple(slice(before, -after or None) for before, after in border)].astype(np.int32)


def smallest_dtype(count: int) -> np.dtype:
    """The smallest unsigned dtype that holds ids up to `count`."""
    return np.dtype(
        next(dtype for dtype in (np.uint8, np.uint16, np.uint32, np.uint64) if count <= np.iinfo(dtype).max)
    )


def _sums_between(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Sum of the flat values from each place in `begins` to the next; exact for integers and for float16."""
    exact = np.int64 if values.dtype.kind in "iu" else np.float64
    return np.add.reduceat(values.ravel(), begins, dtype=exact) if len(begins) else np.zeros(0, exact)
