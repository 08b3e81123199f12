"""The result of a stitch while it is being made, and its way into place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Run
from medhpc.stitch.labels import Labelling
from medhpc.stitch.reduce import to_mask
from medhpc.stitch.scratch import Scratch
from medhpc.stitch.slabs import ProvenTiles, store_slab, whole_planes
from medhpc.volume import build_pyramid, convert, create_ome_zarr, open_volume

Progress = Callable[[int, int], None]


class Stage:
    """An OME-Zarr that is filled slab by slab: the result itself, or what the result is exported from.

    Parameters
    ----------
    out : Path
        The result.
    scratch : Scratch
        Knows which slabs are done.
    kind : str
        As for :func:`medhpc.stitch.stitch`.
    levels : int, optional
        Of the pyramid.
    """

    def __init__(self, run: Run, out: Path, scratch: Scratch, kind: str, levels: int | None) -> None:
        self.run, self.out, self.scratch, self.kind = run, out, scratch, kind
        self.is_result = out.suffix == ".zarr"
        self.levels = levels if self.is_result else 1
        # Beside OUT a stage can be renamed into place; what is exported anyway stays in the run.
        aside = out.with_name(f".{out.name}.{scratch.folder.name}.partial")
        self.path = aside / out.name if self.is_result else scratch.folder / "result.ome.zarr"

    def write_blockwise(self, threshold: float, progress: Progress | None) -> None:
        """Write what needs no context: masks, probabilities, raw numbers."""
        plan, tiles = self.run.plan, ProvenTiles(self.run)
        stored = plan.stored
        reduce = None
        dtype, channels = np.dtype(stored.dtype), stored.channels if stored.channels > 1 else 0
        if self.kind == "mask":
            reduce = partial(to_mask, kind=stored.kind, threshold=threshold)
            dtype, channels = reduce(np.zeros((stored.channels, 1, 1, 1), dtype)).dtype, 0
        array = self._array(dtype, channels, stored.chunk, stored.shard)
        slabs = whole_planes(plan.region, plan.source.shape, (array.shards or array.chunks)[-3])
        self._each(slabs, lambda slab, number: store_slab(tiles, array, slab, reduce), progress)

    def write_labels(self, labelling: Labelling, progress: Progress | None) -> None:
        """Write the ids of objects."""
        thickness = labelling.slabs[0].shape[0]
        array = self._array(labelling.dtype, 0, (thickness, 64, 64), (thickness, 256, 256))

        def store(slab: Box, number: int) -> None:
            array[slab.slices] = labelling.ids(number)

        self._each(labelling.slabs, store, progress, before=1 if labelling.splitting is None else 2)

    def publish(self) -> tuple[tuple[int, ...], str]:
        """Put the result into place.

        Returns
        -------
        shape, dtype
        """
        group = zarr.open_group(self.path, mode="r+")
        array: Any = group["0"]
        described = tuple(array.shape), str(array.dtype)
        if self.is_result:
            build_pyramid(group, labels=self.kind in ("mask", "labels"))
            if self.out.exists():
                self.out.rename(self.path.with_name("replaced"))
            self.path.rename(self.out)
            shutil.rmtree(self.path.parent)
        else:
            affine = self.run.plan.source.affine
            with open_volume(self.path) as stage:
                convert(stage, self.out, affine=None if affine is None else np.array(affine))
        return described

    def _array(self, dtype: np.dtype, channels: int, chunk: Index, shard: Index) -> Any:
        """The full resolution, made new unless an earlier run made it."""
        if not (self.path.exists() and self.scratch.has("stage")):
            self.scratch.forget("stage", "written-*")
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.parent.mkdir(exist_ok=True)
            source = self.run.plan.source
            create_ome_zarr(
                self.path,
                source.shape,
                dtype,
                channels=channels,
                voxel_size=source.voxel_size,
                unit=source.unit,
                levels=self.levels,
                chunks=chunk,
                shards=shard,
                labels=self.kind in ("mask", "labels"),
            )
            self.scratch.mark("stage")
        return zarr.open_group(self.path, mode="r+")["0"]

    def _each(
        self, slabs: list[Box], store: Callable[[Box, int], None], progress: Progress | None, before: int = 0
    ) -> None:
        """Store each slab that an earlier run did not; all slabs were walked through `before` times already."""
        for number, slab in enumerate(slabs):
            if not self.scratch.has(f"written-{number}"):
                store(slab, number)
                self.scratch.mark(f"written-{number}")
            if progress:
                progress(before * len(slabs) + number + 1, (before + 1) * len(slabs))
