"""Slab by slab from the tiles to the stage, passing over what an earlier stitch has done."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from medhpc.geometry import Box, Index
from medhpc.run import Run
from medhpc.run.shards import DurableStore
from medhpc.stitch.components import Components
from medhpc.stitch.foreground import Foreground
from medhpc.stitch.labels import Labels
from medhpc.stitch.parts import Parts, Splitting
from medhpc.stitch.reduce import to_mask
from medhpc.stitch.request import Request
from medhpc.stitch.scratch import Scratch
from medhpc.stitch.slabs import ProvenTiles, cells_of, in_parallel, slabs_of
from medhpc.stitch.stage import Stage
from medhpc.stitch.table import write_table
from medhpc.volume.codecs import codecs_for

SLAB_VOXELS = 2**26  # of a slab whose voxels are labelled together
THICKEST = 64  # planes of such a slab
SHARD_VOXELS = 2**22  # of labels

Progress = Callable[[int, int], None]


def write_blockwise(run: Run, request: Request, stage: Stage, progress: Progress | None) -> bool:
    """Make the result of what needs no context: masks, probabilities, raw numbers.

    Returns
    -------
    bool
        Whether there is any voxel but 0 in it; True, too, where an earlier stitch wrote a part.
    """
    stored, tiles, found = run.plan.stored, ProvenTiles(run), False

    def reduced(block: np.ndarray) -> np.ndarray:
        if request.kind == "mask":
            return to_mask(block, stored.kind, request.level)
        return block if stored.channels > 1 else block[0]

    sample = reduced(np.zeros((stored.channels, 1, 1, 1), stored.dtype))
    stage.open(sample.dtype, channels=stored.channels if sample.ndim == 4 else 0)

    def write(cell: Box) -> bool:
        values = reduced(tiles.read(cell))
        stage.array[..., *cell.slices] = values
        return bool(values.any())

    slabs = slabs_of(run.plan.region, stage.shard[0])
    tick = _ticks(progress, len(slabs) + 1)
    for slab in slabs:
        if stage.is_written(slab):
            found = True
        else:
            found |= any(in_parallel(write, cells_of(slab, stage.shard)))
            stage.mark_written(slab)
        tick()
    stage.publish()
    tick()
    return found


def write_labels(run: Run, request: Request, stage: Stage, thickness: int, progress: Progress | None) -> Labels:
    """Find the objects, make the result of their ids, and the table where one is asked for."""
    plan, scratch = run.plan, stage.scratch
    slabs = slabs_of(plan.region, thickness)
    tick = _ticks(progress, len(slabs) * (3 if request.split else 2) + 1)
    foreground = Foreground(ProvenTiles(run), plan, request.level, request.smooth)
    shard = _shard_of_labels(thickness)
    components = Components(slabs, plan.source.shape, _open_components(scratch, plan.source.shape, shard), scratch)
    for number in range(len(slabs)):
        components.label(number, foreground)
        tick()
    parts = None
    if request.split:
        parts = Parts(components, scratch, _splitting(run, request))
        for number in range(len(slabs)):
            parts.cut(number, foreground)
            tick()
    labels = Labels(components, parts, request.min_size)
    _, height, length = shard
    stage.open(labels.dtype, chunks=(thickness, height // 4, length // 4), shards=shard)
    for slab in slabs:
        if not stage.is_written(slab):
            _write_slab(stage, slab, labels.paint(slab))
            stage.mark_written(slab)
        tick()
    if request.objects:
        write_table(Path(request.objects), labels.table, plan.source.voxel_size_um, foreground.full)
    stage.publish()
    tick()
    return labels


def labelling_thickness(region: Box) -> int:
    """Planes of a slab that is labelled at once: a power of two, so that slabs are whole shards."""
    _, height, length = region.shape
    affordable = max(1, SLAB_VOXELS // (height * length))
    return min(THICKEST, 2 ** int(math.log2(affordable)))


def _shard_of_labels(thickness: int) -> Index:
    """As many planes as a slab has, and as wide as that leaves."""
    side = 2 ** int(math.log2(SHARD_VOXELS // thickness) / 2)
    return thickness, side, side


def _open_components(scratch: Scratch, volume: Index, chunk: Index) -> Any:
    """The array of provisional labels."""
    store = DurableStore(scratch.folder / "components.zarr", aside=scratch.folder)
    if not scratch.has("components"):
        chunks = tuple(map(min, chunk, volume))
        codecs = codecs_for("uint32", labels=True)
        zarr.create_array(store, shape=volume, dtype="uint32", chunks=chunks, compressors=codecs, overwrite=True)
        scratch.mark("components")
    return zarr.open_array(store, mode="r+")


def _write_slab(stage: Stage, slab: Box, voxels: np.ndarray) -> None:
    def write(cell: Box) -> None:
        stage.array[cell.slices] = voxels[cell.relative_to(slab).slices]

    in_parallel(write, cells_of(slab, stage.shard))


def _splitting(run: Run, request: Request) -> Splitting:
    return Splitting(
        depth=request.split_depth,
        limit=request.split_limit,
        voxel_size=run.plan.source.voxel_size or (1.0, 1.0, 1.0),
        min_size=request.min_size,
    )


def _ticks(progress: Progress | None, total: int) -> Callable[[], None]:
    """What is called after each of `total` steps."""
    done = itertools.count(1)
    return lambda: progress(next(done), total) if progress else None
