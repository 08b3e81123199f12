"""The stitch step: proven tiles to one result, slab by slab; killed, it goes on at its last finished slab.

Every result is first made as an OME-Zarr: beside OUT where OUT is one, else in the run folder, from where it is
exported. So there is one way to write, and one way to resume.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhpc.run import Run
from medhpc.run.durable import room_and_rights
from medhpc.stitch.cluster import on_cluster
from medhpc.stitch.foreground import largest_stored
from medhpc.stitch.labels import Labels
from medhpc.stitch.order import Order, short_digest
from medhpc.stitch.request import SPLIT_DEPTH, SPLIT_LIMIT, Request
from medhpc.stitch.table import check_table
from medhpc.stitch.where import WorkerJobs, parse_where
from medhpc.stitch.work import Labelling, Reduction, work_of
from medhpc.stitch.write import Do, Progress, labelling_thickness, one_by_one, write_labels, write_reduction
from medhpc.volume import check_writable


@dataclass(frozen=True, kw_only=True)
class StitchResult:
    """What one call of :func:`stitch` wrote."""

    out: str
    kind: str
    shape: tuple[int, ...]  # with channels, where there are several
    dtype: str
    objects: int | None  # how many; None unless labels were made
    left_whole: int  # objects too large to be split
    table: str | None  # the CSV
    threshold: float | None  # in force; None where the stored numbers need none
    found: bool  # any object, or any voxel but 0
    largest: float | None  # probability (or raw number) of any voxel, looked for where nothing was found
    seconds: float

    @property
    def note(self) -> str:
        """Why there may be nothing in it, and what to try; "" where something was found."""
        if self.found:
            return ""
        if self.threshold is None or self.largest is None:
            return "every voxel is 0"
        if self.largest < self.threshold:
            nearest = f"the largest number of any voxel is {self.largest:.2g}, below the threshold {self.threshold:g}"
            return f"nothing found: {nearest}; try a lower --threshold, or train the network longer"
        return f"nothing found, though some voxels reach {self.largest:.2g}: try a lower --min-size or --smooth"

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return dataclasses.asdict(self)


def stitch(
    run: str | Path,
    out: str | Path,
    *,
    kind: str = "mask",
    threshold: float | None = None,
    smooth: float = 0.0,
    min_size: int = 0,
    split: bool = False,
    split_depth: float = SPLIT_DEPTH,
    split_limit: int = SPLIT_LIMIT,
    objects: str | Path | None = None,
    levels: int | None = None,
    dask: str | None = None,
    worker_jobs: WorkerJobs | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StitchResult:
    """Put the tiles of a run together.

    Parameters
    ----------
    run : path
        A run whose tiles are all done.
    out : path
        The result; its suffix says the format (``.ome.zarr``, ``.tif``, ``.nii.gz``, ``.h5``). It has the shape of the
        input volume, and is 0 outside the run's region.
    kind : {"mask", "labels", "probability", "raw"}
        ``mask``: 0, or the class. ``labels``: 26-connected objects of the foreground, numbered by first voxel.
        ``probability`` and ``raw``: what the tiles hold.
    threshold : float, optional
        Probability from which a voxel is foreground; 0.5 by default. Of raw numbers, the number, which must be given.
    smooth : float
        Standard deviation, in voxels, of a Gaussian over the probability before the threshold; for labels.
    min_size : int
        Objects of fewer voxels are left out.
    split : bool
        Cut touching objects apart, by watershed inside each object's bounding box.
    split_depth : float
        How deep a neck must be to be cut, as a fraction of the object's largest distance to its border.
    split_limit : int
        Objects with a bounding box of more voxels are left whole, and counted.
    objects : path, optional
        CSV of the objects (see :mod:`medhpc.stitch.table`); labels only.
    levels : int, optional
        Levels of an OME-Zarr's pyramid; 1 for none.
    dask : str, optional
        Dask cluster whose workers do the work; all cores of this machine unless given. ``local:N``: N processes of this
        machine (the calling script needs its ``if __name__ == "__main__":``), ``srun:N``: N tasks of the job that this
        is, ``slurm:N``: N jobs, ``tcp://HOST:PORT``: a scheduler that runs. The result is the same, byte by byte.
    worker_jobs : WorkerJobs, optional
        What each job of ``slurm:N`` asks for.
    progress : callable, optional
        Called with (steps done, steps).

    Raises
    ------
    MissingTiles
        Tiles are missing or damaged; says which, and the command that fills them.
    NotInPlan
        The tiles do not hold what was asked for.
    NoWorkers, NoSlurm
        There is no such Dask cluster, or it has lost its workers.
    BadOption, NoPermission, DiskFull
    """
    began = time.monotonic()
    opened, out = Run(run), Path(out)
    where = None if dask is None else parse_where(dask, worker_jobs)
    request = Request(
        kind=kind,
        threshold=threshold,
        smooth=smooth,
        min_size=min_size,
        split=split,
        split_depth=split_depth,
        split_limit=split_limit,
        objects=None if objects is None else str(objects),
        levels=levels,
    )
    request.check(opened.plan)
    file = check_writable(out, opened.plan.source.path)
    if objects is not None:
        check_table(Path(objects))
    opened.require_all()
    order = Order(
        run=str(opened.folder.absolute()),
        out=str(out.absolute()),
        result=short_digest(str(out.resolve())),
        request=request,
        plan=opened.ledger.plan,
        thickness=labelling_thickness(opened.plan.region),
    )
    work = work_of(order, opened)
    with work.scratch.locked(work.stage.path), room_and_rights(out):
        with nullcontext(one_by_one(work)) if where is None else on_cluster(where, order, work.scratch.folder) as do:
            labels = _write(work, do, progress)
        result = _result(work, labels, out, opened, time.monotonic() - began)
        opened.add_result(file, result.note)
    return result


def _result(work: Labelling | Reduction, labels: Labels | None, out: Path, run: Run, seconds: float) -> StitchResult:
    """What was written, and whether anything is in it."""
    request, found = work.request, work.found
    is_cut = request.kind in ("mask", "labels") and run.plan.stored.kind != "argmax"
    return StitchResult(
        out=str(out),
        kind=request.kind,
        shape=work.stage.shape,
        dtype=str(work.stage.dtype),
        objects=None if labels is None else len(labels.table),
        left_whole=0 if labels is None else labels.left_whole,
        table=request.objects,
        threshold=request.level if is_cut else None,
        found=found,
        largest=None if found else largest_stored(run),
        seconds=seconds,
    )


def _write(work: Labelling | Reduction, do: Do, progress: Progress | None) -> Labels | None:
    if isinstance(work, Labelling):
        return write_labels(work, do, progress)
    write_reduction(work, do, progress)
    return None
