"""The result of a stitch while it is being made, and its way into place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Plan
from medhpc.stitch.scratch import Scratch
from medhpc.volume import build_pyramid, check_writable, convert, create_ome_zarr, open_volume


class Stage:
    """An OME-Zarr of the whole volume, filled slab by slab: the result itself, or what the result is exported from.

    Parameters
    ----------
    plan : Plan
        Of the run: shape, voxel size.
    out : path
        The result.
    scratch : Scratch
        Knows which slabs are done.
    labels : bool
        Whether voxels are classes or ids, which have no mean.
    levels : int, optional
        Of the pyramid.
    """

    def __init__(self, plan: Plan, out: Path, scratch: Scratch, *, labels: bool, levels: int | None) -> None:
        self.plan, self.out, self.scratch, self.labels = plan, out, scratch, labels
        self.is_result = check_writable(out).suffix.lower() == ".zarr"
        self.levels = levels if self.is_result else 1
        # Beside OUT a stage can be renamed into place; what is exported anyway stays in the run.
        aside = out.with_name(f".{out.name}.{scratch.folder.name}.partial")
        self.path = aside / out.name if self.is_result else scratch.folder / "result.ome.zarr"

    def open(
        self, dtype: np.dtype, *, channels: int = 0, chunks: Index | None = None, shards: Index | None = None
    ) -> Any:
        """The zarr array of the full resolution, made new unless an earlier stitch made it."""
        if self.path.exists() and self.scratch.has("stage"):
            for partial in self.path.rglob("*.partial"):  # what zarr was writing when the earlier stitch was killed
                partial.unlink()
        else:
            self._create(dtype, channels, chunks, shards)
        return zarr.open_group(self.path, mode="r+")["0"]

    def is_written(self, slab: Box) -> bool:
        """Whether an earlier stitch wrote this slab."""
        return self.scratch.has(f"written-{slab.start[0]}")

    def mark_written(self, slab: Box) -> None:
        """Remember that this slab is written."""
        self.scratch.mark(f"written-{slab.start[0]}")

    def publish(self) -> tuple[tuple[int, ...], str]:
        """Put the result into place; whatever stood there is replaced by then, not before.

        Returns
        -------
        shape, dtype
        """
        group = zarr.open_group(self.path, mode="r+")
        full: Any = group["0"]
        if self.is_result:
            build_pyramid(group, labels=self.labels)
            self._move_into_place()
        else:
            affine = self.plan.source.affine
            with open_volume(self.path) as stage:
                convert(stage, self.out, affine=None if affine is None else np.array(affine))
        return tuple(full.shape), str(full.dtype)

    def _move_into_place(self) -> None:
        if self.out.exists():
            self.out.rename(self.path.with_name("replaced"))
        self.path.rename(self.out)
        shutil.rmtree(self.path.parent)

    def _create(self, dtype: np.dtype, channels: int, chunks: Index | None, shards: Index | None) -> None:
        self.scratch.forget("stage", "written-*")
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.parent.mkdir(exist_ok=True)
        source = self.plan.source
        create_ome_zarr(
            self.path,
            source.shape,
            dtype,
            channels=channels,
            voxel_size=source.voxel_size,
            unit=source.unit,
            levels=self.levels,
            chunks=chunks,
            shards=shards,
            labels=self.labels,
        )
        self.scratch.mark("stage")
