"""Reading what is proven, slab by slab."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from medhpc.geometry import Box, Index
from medhpc.run import Run

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProvenTiles:
    """The stored tiles of a run, whose damage since they were checked is told in our own words."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._array = run.shards.array

    def read(self, box: Box) -> np.ndarray:
        """A box of the run's region, (channels, z, y, x).

        Raises
        ------
        MissingTiles
            A shard has been damaged or removed; names its tiles.
        """
        try:
            block = np.asarray(self._array[(slice(None), *box.slices)])
        except Exception:  # zarr and its codecs agree on no error for bytes that cannot be decoded
            self._check(box)
            raise
        # Zarr takes an absent or empty file for zeros. Found sound afterwards, it was sound when it was read.
        if not all(_has_content(path) for path in self._run.shards.paths(box)):
            self._check(box)
        return block

    def _check(self, box: Box) -> None:
        self._run.require(self._run.plan.grid.touching(box))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def slabs_of(region: Box, thickness: int) -> list[Box]:
    """Slabs of a region, one after the other along z; their faces stand at multiples of `thickness`."""
    (low, *start), (high, *stop) = region.start, region.stop
    faces = [low, *range((low // thickness + 1) * thickness, high, thickness), high]
    return [Box((a, start[0], start[1]), (b, stop[0], stop[1])) for a, b in itertools.pairwise(faces)]


def cells_of(slab: Box, cell: Index) -> Iterator[Box]:
    """Cut a slab at whole multiples of `cell`, counted from the corner of the volume."""
    along = (
        [(max(a, start), min(a + length, stop)) for a in range(start // length * length, stop, length)]
        for start, stop, length in zip(slab.start, slab.stop, cell, strict=True)
    )
    for z, y, x in itertools.product(*along):
        yield Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None) -> list[Result]:
    """Work on all items in Dask's threads (all cores unless given); results in the order of the items."""
    from dask.threaded import get

    # Not by dask.delayed: that costs half a millisecond a task, and there may be as many tasks as objects.
    graph = {("work", number): (work, item) for number, item in enumerate(items)}
    return list(get(graph, list(graph), num_workers=threads))
