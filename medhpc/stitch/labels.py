"""Objects across slabs: each slab is labelled once, the faces tell what belongs together, ids go by first voxel.

::

    slab 0   label -> components 1..n0, table 0       |  merge by faces   |  slab 0   ids
    slab 1   label -> components 1..n1, table 1  ---> |  split what       | --------> ids
    slab 2   ...                                      |  touches, number  |

In memory: one slab, and the table of all objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medhpc import objects
from medhpc.geometry import Box, Index
from medhpc.objects import Table
from medhpc.stitch.scratch import Scratch

COLUMNS = tuple(Table.__dataclass_fields__)

Weights = Callable[[Box], np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How touching objects are cut apart."""

    depth: float  # fraction of the object's largest distance to its border; see medhpc.objects.split
    limit: int  # voxels of a bounding box; larger objects are left whole
    voxel_size: tuple[float, float, float]


class Labelling:
    """The objects of a volume, found slab by slab: :meth:`label` each slab, :meth:`split` each, then :meth:`ids`.

    Parameters
    ----------
    slabs : list of Box
        Whole planes, one slab after the other along z.
    volume : (z, y, x)
        Shape of the whole volume.
    components : array
        Where provisional labels are kept, (z, y, x) uint32; anything that is sliced like an array.
    scratch : Scratch
        Where tables are kept; steps that stand there are not done again.
    splitting : Splitting or None
    min_size : int
        Voxels; smaller objects are left out, after splitting.
    """

    def __init__(
        self,
        slabs: list[Box],
        volume: Index,
        components: Any,
        scratch: Scratch,
        *,
        splitting: Splitting | None,
        min_size: int,
    ) -> None:
        self.slabs, self.volume, self.components, self.scratch = slabs, volume, components, scratch
        self.splitting, self.min_size = splitting, min_size

    def label(self, number: int, mask: Callable[[Box], np.ndarray], weights: Weights) -> None:
        """Label one slab and measure its components.

        `mask` and `weights` give the foreground and the stored probability (or None) of a box.
        """
        if self.scratch.has(f"slab-{number}.npz"):
            return
        slab = self.slabs[number]
        labels = objects.label(mask(slab))
        self.components[slab.slices] = labels.astype(np.uint32)
        table = objects.measure(labels, slab.start, self.volume, weights(slab))
        self.scratch.save(f"slab-{number}.npz", vars(table) | {"first_plane": labels[0], "last_plane": labels[-1]})

    def split(self, number: int, weights: Weights) -> None:
        """Cut apart the objects that begin in one slab; all slabs are labelled."""
        if self.splitting is None or self.scratch.has(f"split-{number}.npz"):
            return
        arrays, tables, owners = {}, [self.merged.take(np.zeros(0, int))], [np.zeros(0, np.int64)]
        components = self.components[self.slabs[number].slices]
        # What is too small to be kept would only make parts that are smaller still.
        worth = (self._begins == number) & (self.merged.voxels >= self.min_size)
        for row in np.flatnonzero(worth):
            box = _box(self.merged, row)
            if box.size > self.splitting.limit:
                continue
            parts = objects.split(self._mask_of(row, box, components), self.splitting.voxel_size, self.splitting.depth)
            if parts.max() > 1:
                arrays[f"parts-{row}"] = parts
                tables.append(objects.measure(parts, box.start, self.volume, weights(box)))
                owners.append(np.full(len(tables[-1]), row))
        self.scratch.save(f"split-{number}.npz", arrays | vars(Table.join(tables)) | {"owner": np.concatenate(owners)})

    def ids(self, number: int) -> np.ndarray:
        """Final ids of the voxels of one slab, in the smallest dtype; all slabs are labelled and split."""
        slab = self.slabs[number]
        ids = np.concatenate([[0], self._numbers.whole]).astype(self.dtype)
        by_component = ids[np.concatenate([[0], self._members[number] + 1])]
        painted: np.ndarray = by_component[self.components[slab.slices]]
        for row, parts in self._parts_in(number):
            box = _box(self.merged, row)
            shared = box.intersection(slab)
            inside = parts[shared.relative_to(box).slices]
            numbers = np.concatenate([[0], self._numbers.parts[row]]).astype(self.dtype)
            np.copyto(painted[shared.relative_to(slab).slices], numbers[inside], where=inside > 0)
        return painted

    @property
    def table(self) -> Table:
        """The objects; row i has id i + 1."""
        return self._numbers.table

    @property
    def dtype(self) -> np.dtype:
        """The smallest that holds all ids."""
        return objects.smallest_dtype(len(self.table))

    @property
    def left_whole(self) -> int:
        """Objects too large to be split."""
        extents = self.merged.high - self.merged.low
        return 0 if self.splitting is None else int(np.count_nonzero(extents.prod(axis=1) > self.splitting.limit))

    @cached_property
    def merged(self) -> Table:
        """Objects before splitting."""
        members = np.concatenate(self._members)
        return Table.join(self._measured).grouped(members, int(members.max(initial=-1)) + 1)

    @cached_property
    def _measured(self) -> list[Table]:
        """The components of each slab."""
        numbers = range(len(self.slabs))
        return [_table(self.scratch.load(f"slab-{number}.npz", COLUMNS.__contains__)) for number in numbers]

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """For each slab, the object of each component."""
        counts = [len(table) for table in self._measured]
        members = objects.merge(counts, [self._face(number) for number in range(len(self.slabs) - 1)])
        return np.split(members, np.cumsum(counts)[:-1])

    def _face(self, number: int) -> np.ndarray:
        """The components that touch between a slab and the next."""
        above = self.scratch.load(f"slab-{number}.npz", "last_plane".__eq__)["last_plane"]
        below = self.scratch.load(f"slab-{number + 1}.npz", "first_plane".__eq__)["first_plane"]
        return objects.touching(above, below)

    @cached_property
    def _begins(self) -> np.ndarray:
        """Number of the slab in which each object begins."""
        starts = [slab.start[0] for slab in self.slabs]
        return np.searchsorted(starts, self.merged.low[:, 0], side="right") - 1

    @cached_property
    def _numbers(self) -> _Numbers:
        """Ids by first voxel in raster order, so that they depend neither on tiles nor on slabs."""
        tables, owners = [self.merged], [np.arange(len(self.merged))]
        if self.splitting is not None:
            for number in range(len(self.slabs)):
                found = self.scratch.load(f"split-{number}.npz", lambda name: not name.startswith("parts-"))
                tables.append(_table(found))
                owners.append(found["owner"])
        table, owner = Table.join(tables), np.concatenate(owners)
        is_part = np.arange(len(table)) >= len(self.merged)
        kept = (is_part | ~np.isin(owner, owner[is_part])) & (table.voxels >= self.min_size)
        order = np.flatnonzero(kept)[np.argsort(table.first[kept])]
        ids = np.zeros(len(table), np.int64)
        ids[order] = np.arange(1, len(order) + 1)
        rows, begins = np.unique(owner[is_part], return_index=True)  # the parts of an object follow each other
        in_turn = np.argsort(begins)
        groups = np.split(ids[is_part], begins[in_turn][1:])
        parts = dict(zip(rows[in_turn].tolist(), groups, strict=False))
        return _Numbers(table=table.take(order), whole=ids[: len(self.merged)], parts=parts)

    def _mask_of(self, row: int, box: Box, components: np.ndarray) -> np.ndarray:
        """One object in its bounding box; `components` are those of the slab in which it begins."""
        begins = int(self._begins[row])
        pieces = []
        for number, slab in enumerate(self.slabs[begins:], start=begins):
            piece = slab.intersection(box)
            if not piece.size:
                break
            known = components[piece.relative_to(slab).slices] if number == begins else self.components[piece.slices]
            pieces.append((known > 0) & (self._members[number][np.maximum(known, 1) - 1] == row))
        return np.concatenate(pieces)

    def _parts_in(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """The objects that were split and reach into a slab, with their parts."""
        rows = np.fromiter(self._numbers.parts, np.int64)
        slab, merged = self.slabs[number], self.merged
        reaching = rows[(merged.low[rows, 0] < slab.stop[0]) & (merged.high[rows, 0] > slab.start[0])]
        for begins in np.unique(self._begins[reaching]):
            names = {f"parts-{row}": int(row) for row in reaching[self._begins[reaching] == begins]}
            for name, parts in self.scratch.load(f"split-{begins}.npz", names.__contains__).items():
                yield names[name], parts


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """Final ids."""

    table: Table  # row i has id i + 1
    whole: np.ndarray  # of each merged object; 0 where it was split or is too small
    parts: dict[int, np.ndarray]  # of the parts of each object that was split


def _table(arrays: dict[str, np.ndarray]) -> Table:
    return Table(**{name: arrays[name] for name in COLUMNS})


def _box(table: Table, row: int) -> Box:
    (z0, y0, x0), (z1, y1, x1) = table.low[row].tolist(), table.high[row].tolist()
    return Box((z0, y0, x0), (z1, y1, x1))
