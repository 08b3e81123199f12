"""The parts into which objects that touch are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medhpc import objects
from medhpc.geometry import Box
from medhpc.objects import Table
from medhpc.stitch.components import COLUMNS, Components
from medhpc.stitch.foreground import Foreground
from medhpc.stitch.scratch import Scratch
from medhpc.stitch.slabs import in_parallel

LARGE = 2**20  # voxels of a bounding box: to cut one takes about 100 bytes a voxel, so larger ones take turns


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How touching objects are cut apart."""

    depth: float  # fraction of the object's largest distance to its border; see medhpc.objects.split
    limit: int  # voxels of a bounding box; larger objects are left whole
    voxel_size: tuple[float, float, float]
    min_size: int  # voxels; smaller objects are not worth the work, their parts would be smaller still


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One object that fell into parts."""

    row: int  # of the object
    parts: np.ndarray  # in its bounding box, 0 outside the object
    table: Table  # of the parts


class Parts:
    """Every object is cut by itself in its bounding box, whatever slabs it crosses.

    In memory: the slab in which the objects begin, and as much of the next as they reach into.

    Parameters
    ----------
    components : Components
        Of all slabs.
    scratch : Scratch
        Where parts are kept; slabs that stand there are not looked at again.
    splitting : Splitting
    threads : int, optional
        All cores unless given.
    """

    def __init__(
        self, components: Components, scratch: Scratch, splitting: Splitting, threads: int | None = None
    ) -> None:
        self.components, self.scratch, self.splitting, self.threads = components, scratch, splitting, threads

    @property
    def left_whole(self) -> np.ndarray:
        """Objects that are too large to be cut."""
        table = self.components.table
        return (table.high - table.low).prod(axis=1) > self.splitting.limit

    def cut(self, number: int, foreground: Foreground) -> None:
        """Cut the objects that begin in one slab."""
        if self.scratch.has(f"parts-{number}.npz"):
            return
        worth = (self.components.table.voxels >= self.splitting.min_size) & ~self.left_whole
        rows = np.flatnonzero(worth & (self.components.begins == number))
        cuts = self._cut_all(rows, number, foreground) if len(rows) else []
        none = self.components.table.take(np.zeros(0, int))
        arrays = {
            "rows": np.array([cut.row for cut in cuts], np.int64),
            "counts": np.array([len(cut.table) for cut in cuts], np.int64),
            "boxes": np.concatenate([np.zeros(0, np.uint8), *(cut.parts.ravel() for cut in cuts)]),
        }
        self.scratch.save(f"parts-{number}.npz", arrays | vars(Table.join([none, *(cut.table for cut in cuts)])))

    def _cut_all(self, rows: np.ndarray, number: int, foreground: Foreground) -> list[Cut]:
        slabs, deepest = self.components.slabs, int(self.components.table.high[rows, 0].max())
        slab, following = slabs[number], slabs[min(number + 1, len(slabs) - 1)]
        planes = max(slab.stop[0], min(deepest, following.stop[0]))
        near = _Near(self.components, foreground, Box(slab.start, (planes, *slab.stop[1:])))
        large = (self.components.table.high - self.components.table.low)[rows].prod(axis=1) > LARGE
        cuts = in_parallel(lambda row: self._cut(row, near), rows[~large].tolist(), threads=self.threads)
        cuts += [self._cut(row, near) for row in rows[large].tolist()]
        return sorted((cut for cut in cuts if cut), key=lambda cut: cut.row)

    def _cut(self, row: int, near: _Near) -> Cut | None:
        box = self.components.table.box(row)
        parts = objects.split(near.rows_in(box) == row, self.splitting.voxel_size, self.splitting.depth)
        count = int(parts.max())
        if count == 1:
            return None
        table = objects.measure(parts, box.start, self.components.volume, near.probability_in(box))
        return Cut(row=row, parts=parts.astype(objects.smallest_dtype(count)), table=table)

    # From here on all slabs are cut.

    @cached_property
    def table(self) -> Table:
        """All parts; those of an object in turn."""
        numbers = range(len(self.components.slabs))
        return Table.join([Table(**self.scratch.load(f"parts-{number}.npz", *COLUMNS)) for number in numbers])

    @cached_property
    def owners(self) -> np.ndarray:
        """For each part, the row of the object that it is cut from."""
        return np.concatenate([np.repeat(rows, counts) for rows, counts in self._cuts])

    def inside(self, slab: Box) -> Iterator[tuple[int, Box, np.ndarray]]:
        """The objects in parts that reach into a slab: row, shared box, parts in it (0 outside the object)."""
        table = self.components.table
        for number, (rows, _) in enumerate(self._cuts):
            if not np.any((table.low[rows, 0] < slab.stop[0]) & (table.high[rows, 0] > slab.start[0])):
                continue
            voxels = self.scratch.load(f"parts-{number}.npz", "boxes")["boxes"]
            for row in rows.tolist():
                box = table.box(row)
                shared, (parts, voxels) = box.intersection(slab), np.split(voxels, [box.size])
                if shared.size:
                    yield row, shared, parts.reshape(box.shape)[shared.relative_to(box).slices]

    @cached_property
    def _cuts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Slab by slab, the rows of the objects that are in parts, and in how many."""
        loaded = (self.scratch.load(f"parts-{n}.npz", "rows", "counts") for n in range(len(self.components.slabs)))
        return [(arrays["rows"], arrays["counts"]) for arrays in loaded]


class _Near:
    """Objects and their probability, read once where most of them lie; those that reach further are read by themselves.

    A read costs whole chunks, so a read for each of many small objects would cost the volume many times.
    """

    def __init__(self, components: Components, foreground: Foreground, box: Box) -> None:
        self._components, self._foreground, self._box = components, foreground, box
        self._rows, self._probability = self._read_rows(box), foreground.probability(box)

    def rows_in(self, box: Box) -> np.ndarray:
        """The row of the object at each voxel; -1 where there is none."""
        return self._rows[box.relative_to(self._box).slices] if self._box.contains(box) else self._read_rows(box)

    def probability_in(self, box: Box) -> np.ndarray | None:
        if self._probability is not None and self._box.contains(box):
            return self._probability[box.relative_to(self._box).slices]
        return self._foreground.probability(box)

    def _read_rows(self, box: Box) -> np.ndarray:
        rows = np.arange(self._components.count + 1, dtype=np.int32)
        rows[-1] = -1
        return self._components.paint(box, rows)
