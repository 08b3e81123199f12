"""The result of a stitch while it is being made, and its way into place."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Plan
from medhpc.run.durable import partial_suffix
from medhpc.stitch.order import Order
from medhpc.stitch.scratch import FencedStore, Scratch, discard
from medhpc.volume import check_writable, convert, create_ome_zarr, open_volume


class Stage:
    """An OME-Zarr of the whole volume, filled slab by slab: the result itself, or what the result is exported from.

    Parameters
    ----------
    order : Order
        Says the result, its kind, and how many levels its pyramid has.
    plan : Plan
    scratch : Scratch
        Remembers what is written.
    """

    def __init__(self, order: Order, plan: Plan, scratch: Scratch) -> None:
        self.source, self.out, self.scratch = plan.source, Path(order.out), scratch
        self.labels = order.request.kind in ("mask", "labels")  # classes or ids, which have no mean
        self.is_result = check_writable(self.out).suffix.lower() == ".zarr"
        self.levels = order.request.levels if self.is_result else 1
        # Beside OUT a stage can be renamed into place; what is exported anyway stays in the run.
        aside = self.out.with_name(f".{self.out.name}.{order.digest}.partial")
        self.path = aside / self.out.name if self.is_result else scratch.folder / "result.ome.zarr"

    def make(
        self, dtype: np.dtype, *, channels: int = 0, chunks: Index | None = None, shards: Index | None = None
    ) -> None:
        """Make the empty stage, unless an earlier stitch made it; from then on its shape and dtype are known here."""
        self.shape = (*((channels,) if channels else ()), *self.source.shape)
        self.dtype = np.dtype(dtype)
        if self.path.exists() and self.scratch.has("stage"):
            return
        self.scratch.forget("stage", "written-*")
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.parent.mkdir(exist_ok=True)
        create_ome_zarr(
            self.path,
            self.source.shape,
            dtype,
            channels=channels,
            voxel_size=self.source.voxel_size,
            unit=self.source.unit,
            levels=self.levels,
            chunks=chunks,
            shards=shards,
            labels=self.labels,
        )
        self.scratch.mark("stage")

    # From here on the stage is made.

    @cached_property
    def group(self) -> zarr.Group:
        """The stage for writing; after a crash of the machine too, its shards are whole or absent."""
        return zarr.open_group(FencedStore(self.path, aside=self.path.parent), mode="r+")

    @cached_property
    def array(self) -> Any:
        """The full resolution, (z, y, x) or (c, z, y, x)."""
        return self.group["0"]

    @property
    def shard(self) -> Index:
        """What is written at once, (z, y, x): no two of them share a file."""
        z, y, x = (self.array.shards or self.array.chunks)[-3:]
        return z, y, x

    def is_written(self, slab: Box) -> bool:
        """Whether an earlier stitch wrote this slab."""
        return self.scratch.has(f"written-{slab.start[0]}")

    def mark_written(self, slab: Box) -> None:
        """Remember that this slab is written."""
        self.scratch.mark(f"written-{slab.start[0]}")

    def publish(self) -> None:
        """Put the result into place; whatever stood there is replaced by then, not before."""
        if self.is_result:
            self._move_into_place()
        else:
            affine = self.source.affine
            with open_volume(self.path) as stage:
                convert(stage, self.out, affine=None if affine is None else np.array(affine))

    def _move_into_place(self) -> None:
        if self.out.exists():
            self.out.rename(self.path.with_name(f"replaced.{partial_suffix()}"))
        self.path.rename(self.out)
        discard(self.path.parent)
