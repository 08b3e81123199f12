"""The steps of a stitch in their order, from the tiles to the result; units are done by whoever does them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from medhpc.geometry import Box
from medhpc.stitch.labels import Labels
from medhpc.stitch.table import write_table
from medhpc.stitch.work import Labelling, Reduction, Work

SLAB_VOXELS = 2**26  # of a slab whose voxels are labelled together
THICKEST = 64  # planes of such a slab

Do: TypeAlias = Callable[[str, Sequence[int]], Iterable[None]]
"""Does one step of the slabs of these numbers, and yields as often as one of them is done."""

Progress: TypeAlias = Callable[[int, int], None]


def one_by_one(work: Work) -> Do:
    """Units are done here, one after the other, each on all cores."""

    def do(step: str, numbers: Sequence[int]) -> Iterator[None]:
        for number in numbers:
            work.do(step, number)
            yield

    return do


def write_reduction(work: Reduction, do: Do, progress: Progress | None) -> None:
    """Make masks, probabilities, raw numbers."""
    work.make_stage()
    slabs = range(len(work.slabs))
    tick = _ticks(progress, len(slabs) + 1)
    for _ in do("reduce", slabs):
        tick()
    _publish(work, do)
    tick()


def write_labels(work: Labelling, do: Do, progress: Progress | None) -> Labels:
    """Find the objects, make the result of their ids, and the table where one is asked for."""
    request, source, labels = work.request, work.plan.source, work.labels
    slabs = range(len(work.slabs))
    tick = _ticks(progress, len(slabs) * (3 if request.split else 2) + 1)
    for _ in do("label", slabs):
        tick()
    work.components.merge()
    if request.split:
        for _ in do("cut", slabs):
            tick()
    labels.number()
    work.make_stage()
    for _ in do("paint", slabs):
        tick()
    if request.objects:
        write_table(Path(request.objects), labels.table, source.voxel_size_um, work.foreground.full)
    _publish(work, do)
    tick()
    return labels


def labelling_thickness(region: Box) -> int:
    """Planes of a slab that is labelled at once: a power of two, so that slabs are whole shards."""
    _, height, length = region.shape
    affordable = max(1, SLAB_VOXELS // (height * length))
    return min(THICKEST, 2 ** int(math.log2(affordable)))


def _publish(work: Work, do: Do) -> None:
    if work.stage.is_result:
        for level in work.levels:
            _exhaust(do("shrink", level))
    work.stage.publish()


def _exhaust(units: Iterable[None]) -> None:
    for _ in units:
        pass


def _ticks(progress: Progress | None, total: int) -> Callable[[], None]:
    """What is called after each of `total` steps."""
    done = itertools.count(1)
    return lambda: progress(next(done), total) if progress else None
