"""The result of a stitch while it is being made, and its way into place."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Run
from medhpc.run.durable import partial_suffix
from medhpc.run.shards import DurableStore
from medhpc.stitch.scratch import Scratch
from medhpc.volume import build_pyramid, check_writable, convert, create_ome_zarr, open_volume


class Stage:
    """An OME-Zarr of the whole volume, filled slab by slab: the result itself, or what the result is exported from.

    Parameters
    ----------
    run : Run
    out : path
        The result.
    labels : bool
        Whether voxels are classes or ids, which have no mean.
    levels : int, optional
        Of the pyramid.
    """

    def __init__(self, run: Run, out: Path, *, labels: bool, levels: int | None) -> None:
        self.source, self.out, self.labels = run.plan.source, out, labels
        self.scratch = Scratch(run.scratch / hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16])
        self.is_result = check_writable(out).suffix.lower() == ".zarr"
        self.levels = levels if self.is_result else 1
        # Beside OUT a stage can be renamed into place; what is exported anyway stays in the run.
        aside = out.absolute().with_name(f".{out.name}.{run.plan.digest}.partial")
        self.path = aside / out.name if self.is_result else self.scratch.folder / "result.ome.zarr"

    def open(
        self, dtype: np.dtype, *, channels: int = 0, chunks: Index | None = None, shards: Index | None = None
    ) -> None:
        """Open the `array` of the full resolution (zarr), made new unless an earlier stitch made it."""
        if not (self.path.exists() and self.scratch.has("stage")):
            self._create(dtype, channels, chunks, shards)
        self.array: Any = self._open_group()["0"]

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
            build_pyramid(self._open_group(), labels=self.labels)
            self._move_into_place()
        else:
            affine = self.source.affine
            with open_volume(self.path) as stage:
                convert(stage, self.out, affine=None if affine is None else np.array(affine))

    def _open_group(self) -> zarr.Group:
        """The stage for writing; after a crash of the machine too, its shards are whole or absent."""
        return zarr.open_group(DurableStore(self.path, aside=self.path.parent), mode="r+")

    def _move_into_place(self) -> None:
        if self.out.exists():
            self.out.rename(self.path.with_name(f"replaced.{partial_suffix()}"))
        self.path.rename(self.out)
        shutil.rmtree(self.path.parent)

    def _create(self, dtype: np.dtype, channels: int, chunks: Index | None, shards: Index | None) -> None:
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
