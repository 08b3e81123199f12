"""The work of a stitch, cut into units: one step of one slab each.

======== ================================ ======================================== =================
step     reads                            writes                                   finished by
======== ================================ ======================================== =================
reduce   tiles of the slab                its shards of the result                 written-*
label    tiles of the slab                its chunk row of components.zarr         slab-*.npz
(merge)  slab-*.npz                                                                merged.npz
cut      tiles and components near it                                              parts-*.npz
(number) slab-*.npz, parts-*.npz                                                   ids.npz
paint    components of the slab, ids.npz  its shards of the result                 written-*
shrink   the level before                 a row of shards of a level of pyramid    (the shards)
======== ================================ ======================================== =================

Steps in parentheses look at all slabs at once. No two units write the same file, every file is written aside and
renamed, and what is finished is passed over: a unit can be done twice, or by two processes at once, and nothing
changes. So a worker may be lost at any moment, and its units be given to others.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Run
from medhpc.stitch.components import Components
from medhpc.stitch.foreground import Foreground
from medhpc.stitch.labels import Labels
from medhpc.stitch.order import Order
from medhpc.stitch.parts import Parts, Splitting
from medhpc.stitch.reduce import to_mask
from medhpc.stitch.scratch import FencedStore, Scratch
from medhpc.stitch.slabs import ProvenTiles, cells_of, in_parallel, slabs_of
from medhpc.stitch.stage import Stage
from medhpc.volume.codecs import codecs_for
from medhpc.volume.ome_zarr import fill_row, rows_of_levels

SHARD_VOXELS = 2**22  # of labels


class Work:
    """What all kinds of results have in common.

    Parameters
    ----------
    order : Order
    run : Run, optional
        That of the order, where it is open already.
    """

    def __init__(self, order: Order, run: Run | None = None) -> None:
        self.order, self.run = order, run or Run(order.run)
        self.plan, self.request = self.run.plan, order.request
        self.scratch = Scratch(self.run.scratch, order.result, order.digest)
        self.stage = Stage(order, self.plan, self.scratch)
        self.tiles = ProvenTiles(self.run)

    def do(self, step: str, number: int) -> None:
        """Do one unit: "reduce", "label", "cut" or "paint" a slab, "shrink" a row of the pyramid's shards."""
        getattr(self, step)(number)

    @property
    def slabs(self) -> list[Box]:
        """One after the other along z; whole shards of the result."""
        raise NotImplementedError

    @property
    def found(self) -> bool:
        """Whether there is any voxel but 0 in the result, once it is written."""
        raise NotImplementedError

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Level and row of shards, of all levels of the pyramid above the full resolution."""
        return rows_of_levels(self.stage.group)

    @property
    def levels(self) -> list[list[int]]:
        """Level by level, the numbers of its rows; a level must be whole before the next one reads it."""
        numbers = range(len(self.rows))
        return [list(group) for _, group in itertools.groupby(numbers, key=lambda number: self.rows[number][0])]

    def shrink(self, number: int) -> None:
        """Fill one row of shards of one level from the level before."""
        level, row = self.rows[number]
        fill_row(self.stage.group, level, row, labels=self.stage.labels)


class Reduction(Work):
    """What needs no context: masks, probabilities, raw numbers."""

    @cached_property
    def slabs(self) -> list[Box]:  # noqa: D102
        return slabs_of(self.plan.region, self.stage.shard[0])

    def make_stage(self) -> None:
        """Make the stage, for what the tiles are reduced to."""
        channels = self.plan.stored.channels
        sample = self._reduced(np.zeros((channels, 1, 1, 1), self.plan.stored.dtype))
        self.stage.make(sample.dtype, channels=channels if sample.ndim == 4 else 0)

    def reduce(self, number: int) -> None:
        """Write one slab of the result."""
        slab = self.slabs[number]
        if self.stage.is_written(slab):
            return
        in_parallel(self._write, cells_of(slab, self.stage.shard), threads=self.order.threads)
        self.stage.mark_written(slab)

    @property
    def found(self) -> bool:
        """Whether any voxel but 0 has been written."""
        return self.scratch.has("found")

    def _write(self, cell: Box) -> None:
        values = self._reduced(self.tiles.read(cell))
        self.stage.array[..., *cell.slices] = values
        if values.any() and not self.found:
            self.scratch.mark("found")

    def _reduced(self, block: np.ndarray) -> np.ndarray:
        stored = self.plan.stored
        if self.request.kind == "mask":
            return to_mask(block, stored.kind, self.request.level)
        return block if stored.channels > 1 else block[0]


class Labelling(Work):
    """Numbered objects."""

    @cached_property
    def slabs(self) -> list[Box]:  # noqa: D102
        return slabs_of(self.plan.region, self.order.thickness)

    @cached_property
    def foreground(self) -> Foreground:
        """What objects are made of."""
        return Foreground(self.tiles, self.plan, self.request.level, self.request.smooth)

    @cached_property
    def components(self) -> Components:
        """What each slab holds."""
        return Components(self.slabs, self.plan.source.shape, self._open_components(), self.scratch)

    @cached_property
    def parts(self) -> Parts | None:
        """What objects are cut into, where they are to be cut."""
        if not self.request.split:
            return None
        return Parts(self.components, self.scratch, self._splitting, self.order.threads)

    @cached_property
    def labels(self) -> Labels:
        """The objects of the result."""
        return Labels(self.components, self.parts, self.request.min_size)

    @property
    def found(self) -> bool:
        """Whether there is any object."""
        return len(self.labels.table) > 0

    def make_stage(self) -> None:
        """Make the stage, for the ids that were given."""
        thickness, height, length = self._shard
        self.stage.make(self.labels.dtype, chunks=(thickness, height // 4, length // 4), shards=self._shard)

    def label(self, number: int) -> None:
        """Find the components of one slab."""
        self.components.label(number, self.foreground)

    def cut(self, number: int) -> None:
        """Cut the objects that begin in one slab."""
        assert self.parts is not None
        self.parts.cut(number, self.foreground)

    def paint(self, number: int) -> None:
        """Write one slab of the result."""
        slab = self.slabs[number]
        if self.stage.is_written(slab):
            return
        voxels = self.labels.paint(slab)

        def write(cell: Box) -> None:
            self.stage.array[cell.slices] = voxels[cell.relative_to(slab).slices]

        in_parallel(write, cells_of(slab, self.stage.shard), threads=self.order.threads)
        self.stage.mark_written(slab)

    @property
    def _shard(self) -> Index:
        """As many planes as a slab has, and as wide as that leaves."""
        side = 2 ** int(math.log2(SHARD_VOXELS // self.order.thickness) / 2)
        return self.order.thickness, side, side

    @property
    def _splitting(self) -> Splitting:
        return Splitting(
            depth=self.request.split_depth,
            limit=self.request.split_limit,
            voxel_size=self.plan.source.voxel_size or (1.0, 1.0, 1.0),
            min_size=self.request.min_size,
        )

    def _open_components(self) -> Any:
        """The array of provisional labels, made unless it is there."""
        store, shape = FencedStore(self.scratch.folder / "components.zarr", aside=self.scratch.folder), self._shape
        if not self.scratch.has("components"):
            chunks = tuple(map(min, self._shard, shape))
            codecs = codecs_for("uint32", labels=True)
            zarr.create_array(store, shape=shape, dtype="uint32", chunks=chunks, compressors=codecs, overwrite=True)
            self.scratch.mark("components")
        return zarr.open_array(store, mode="r+")

    @property
    def _shape(self) -> Index:
        return self.plan.source.shape


def work_of(order: Order, run: Run | None = None) -> Labelling | Reduction:
    """The work of an order; `run` is the order's, where it is open already."""
    return Labelling(order, run) if order.request.kind == "labels" else Reduction(order, run)
