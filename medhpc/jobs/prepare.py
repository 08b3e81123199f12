"""From a planned run to a chain of jobs that fits the cluster: everything is decided and checked, nothing submitted."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import medhpc
from medhpc.errors import BadOption
from medhpc.jobs.allowance import ceiling_of, check_engine, check_gpus, cost_of, notes, room
from medhpc.jobs.chain import Step, Target, chain
from medhpc.jobs.packing import MOST_REPAIR_TASKS, START, Ceiling, Cost, Packing, Resources, pack
from medhpc.jobs.site import Site, load_site
from medhpc.jobs.submission import JOBS, Submission, new_id, utc_now
from medhpc.run import Run
from medhpc.run.tally import Tally
from medhpc.volume import open_volume

CLUSTERS = ("slurm", "local", "debug")
HEADROOM = 1.15  # of memory: what the measure did not see
STITCH_SECONDS = 600  # at least, for a stitch
STITCH_RATE = 1e6  # voxels per second: a quarter of what two cores did
PLAN_SECONDS = 1800
TASKS_UNPLANNED = 64  # at most, where the number of tiles is not known yet
VOXELS_UNPLANNED = 2**26  # for one task, then
TASK_TIMES_UNPLANNED = 4  # ... nor what they cost: time limit over target time


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A submission before it is made, with what a user wants to know first."""

    submission: Submission
    site: Site
    partition: str  # "" where there is no cluster
    targets: tuple[Target, ...]
    tiles: int | None  # to be computed; None where the plan is still to be made
    total: int | None  # in all runs
    packing: Packing
    cost: Cost | None
    needed_bytes: int  # at most
    free_bytes: int
    notes: tuple[str, ...]  # what was cut down to what the cluster has


def prepare_run(
    run: str | Path,
    out: str | Path,
    *,
    objects: str | Path = "",
    stitch_options: Sequence[str] = (),
    stitch_workers: int = 1,
    target_seconds: float = 1800,
    rounds: int = 2,
    concurrent: int | None = None,
    cluster: str = "slurm",
    cpus: int | None = None,
    gpus: int | None = None,
    memory: int | None = None,
    folder: str | Path | None = None,
    site: Site | None = None,
) -> Prepared:
    """Decide on the jobs that finish a planned run.

    Parameters
    ----------
    run, out : path
        The run, and the result of its stitch.
    objects : path, optional
        CSV of the objects.
    stitch_options : sequence of str
        As for ``medhpc stitch``.
    stitch_workers : int
        Processes that stitch, in one job; it asks for as many times the cores and the memory.
    target_seconds : float
        How long a task should take.
    rounds : int
        Of repair.
    concurrent : int, optional
        Tasks at a time.
    cluster : {"slurm", "local", "debug"}
    cpus, gpus, memory : int, optional
        For a task; what the plan was made for unless given. Memory in bytes.
    folder : path, optional
        Of the submission; a new one in the run folder unless given.
    site : Site, optional
        As :func:`medhpc.jobs.site.load_site` finds it unless given.

    Raises
    ------
    NotARun, BadOption
    DiskFull
        The tiles that are missing may not fit.
    SlurmDown, NoSlurm
    """
    _check(cluster, target_seconds, rounds, concurrent)
    opened = Run(run)
    plan = opened.plan
    if not plan.network.path:
        raise BadOption(f"the network of {run} was given from Python, no job can load it; plan with a network file")
    site = load_site()[0] if site is None else site
    tally = Tally(opened).update()
    missing = int(np.count_nonzero(~tally.done))
    needed, free = room(opened, missing)
    partition, ceiling = ceiling_of(site, cluster)
    cost = cost_of(opened, tally)
    asked = Resources(
        cpus=cpus or site.cpus or plan.cost.threads,
        gpus=int(plan.cost.device.startswith("cuda")) if gpus is None else gpus,
        memory=memory or site.memory or int(HEADROOM * cost.memory),
        seconds=0,
    )
    check_engine(opened, asked, site)
    check_gpus(asked, ceiling, partition)
    given = ceiling.cut(asked)
    packing = pack(
        missing,
        cost,
        target_seconds=target_seconds,
        cpus=given.cpus,
        gpus=given.gpus,
        memory=given.memory,
        rounds=rounds,
        steps=1,
        ceiling=ceiling,
    )
    target = Target(run=_absolute(run), out=_absolute(out), objects=_absolute(objects) if objects else "")
    place = Path(folder).resolve() if folder else opened.jobs.resolve() / new_id()
    stitching = Resources(
        cpus=given.cpus * stitch_workers,
        memory=given.memory * stitch_workers,
        seconds=int(STITCH_SECONDS + plan.region.size / STITCH_RATE),
    )
    steps = chain(
        [target],
        packing,
        folder=place,
        ceiling=ceiling,
        stitch=ceiling.cut(stitching),
        rounds=rounds,
        concurrent=concurrent,
        infer_options=_machine(given),
        stitch_options=(*stitch_options, *_workers(stitch_workers)),
    )
    return Prepared(
        submission=_submission(place, cluster, steps, opened.id),
        site=site,
        partition=partition,
        targets=(target,),
        tiles=missing,
        total=len(plan.grid),
        packing=packing,
        cost=cost,
        needed_bytes=needed,
        free_bytes=free,
        notes=notes(asked, given, partition),
    )


def prepare_volumes(
    volumes: Sequence[str | Path],
    out_dir: str | Path,
    *,
    network: str | Path,
    suffix: str = ".ome.zarr",
    tables: bool = False,
    engine: str = "auto",
    tile_options: Sequence[str] = (),
    stitch_options: Sequence[str] = (),
    stitch_workers: int = 1,
    target_seconds: float = 1800,
    rounds: int = 2,
    concurrent: int | None = None,
    tasks: int | None = None,
    cluster: str = "slurm",
    cpus: int | None = None,
    gpus: int | None = None,
    memory: int = 8 * 2**30,
    folder: str | Path | None = None,
    site: Site | None = None,
) -> Prepared:
    """Decide on the jobs that plan, compute and stitch several volumes with one network; all share the job arrays.

    Results are ``out_dir/<name><suffix>``, runs ``out_dir/<name>.run``. A volume whose run is planned keeps its plan.

    Parameters
    ----------
    volumes : sequence of paths
    out_dir : path
    network : path
    suffix : str
        Of the results.
    tables : bool
        List the objects in ``out_dir/<name>.csv``.
    engine : str
        As for :func:`medhpc.tiling.tile`; ``auto`` is ``torch`` where tasks have GPUs.
    tile_options, stitch_options : sequence of str
        As for ``medhpc tile`` (without network, memory, engine, threads, device) and ``medhpc stitch``.
    tasks : int, optional
        How many tasks share the tiles; how many there are is known only when they are planned.
    stitch_workers, target_seconds, rounds, concurrent, cluster, cpus, gpus, memory, folder, site
        As for :func:`prepare_run`.

    Raises
    ------
    BadOption
        Two volumes of one name, or GPUs for an engine that computes on CPUs.
    VolumeNotFound, UnknownFormat, SlurmDown, NoSlurm
    """
    _check(cluster, target_seconds, rounds, concurrent)
    site = load_site()[0] if site is None else site
    partition, ceiling = ceiling_of(site, cluster)
    targets, voxels = _targets(volumes, Path(out_dir).resolve(), suffix, tables)
    asked = Resources(
        cpus=cpus or site.cpus or os.cpu_count() or 1,
        gpus=gpus or 0,
        memory=int(HEADROOM * memory),
        seconds=int(START + TASK_TIMES_UNPLANNED * target_seconds),
        warning=int(max(60, target_seconds / 10)),
    )
    check_gpus(asked, ceiling, partition)
    for target in targets:
        if not target.volume:
            check_engine(Run(target.run), asked, site)
    given = ceiling.cut(asked)
    sharing = _tasks_unplanned(tasks or _tasks_for(voxels, len(targets)), len(targets), rounds, ceiling)
    repairing = max(1, min(sharing // 4, MOST_REPAIR_TASKS, ceiling.array_size or MOST_REPAIR_TASKS))
    packing = Packing(tiles=0, tasks=sharing, tiles_per_task=0, repair_tasks=repairing, infer=given)
    place = Path(folder).resolve() if folder else Path(out_dir).resolve() / JOBS / new_id()
    machine, pinned = _machine(given), _engine_option(engine, given)
    steps = chain(
        targets,
        packing,
        folder=place,
        ceiling=ceiling,
        plan=ceiling.cut(Resources(cpus=given.cpus, gpus=given.gpus, memory=given.memory, seconds=PLAN_SECONDS)),
        stitch=ceiling.cut(replace(given, cpus=given.cpus * stitch_workers, memory=given.memory * stitch_workers)),
        rounds=rounds,
        concurrent=concurrent,
        plan_options=(
            "--network",
            _absolute(network),
            "--memory",
            f"{memory // 2**20}M",
            *pinned,
            *machine,
            *tile_options,
        ),
        infer_options=machine,
        stitch_options=(*stitch_options, *_workers(stitch_workers)),
    )
    return Prepared(
        submission=_submission(place, cluster, steps),
        site=site,
        partition=partition,
        targets=tuple(targets),
        tiles=None,
        total=None,
        packing=packing,
        cost=None,
        needed_bytes=0,
        free_bytes=shutil.disk_usage(_existing(Path(out_dir))).free,
        notes=notes(asked, given, partition),
    )


def _check(cluster: str, target_seconds: float, rounds: int, concurrent: int | None) -> None:
    if cluster not in CLUSTERS:
        raise BadOption(f"cluster '{cluster}' is not one of {', '.join(CLUSTERS)}")
    if target_seconds <= 0:
        raise BadOption(f"target time {target_seconds:g} s is not positive; give one such as 30m")
    if rounds < 0:
        raise BadOption(f"{rounds} retries, expected 0 or more")
    if concurrent is not None and concurrent < 1:
        raise BadOption(f"{concurrent} tasks at a time, expected 1 or more")


def _targets(volumes: Sequence[str | Path], out_dir: Path, suffix: str, tables: bool) -> tuple[list[Target], int]:
    names: dict[str, str] = {}
    targets, voxels = [], 0
    for volume in map(str, volumes):
        with open_volume(volume) as opened:  # now, not in a job at night
            voxels += math.prod(opened.shape)
        name = name_of(volume)
        if name in names:
            raise BadOption(
                f"{names[name]} and {volume} would both be {name}{suffix}; submit them to different folders"
            )
        names[name] = volume
        run = out_dir / f"{name}.run"
        targets.append(
            Target(
                run=str(run),
                out=str(out_dir / f"{name}{suffix}"),
                objects=str(out_dir / f"{name}.csv") if tables else "",
                volume="" if (run / "plan.json").exists() else _absolute(volume),
            )
        )
    return targets, voxels


def name_of(volume: str) -> str:
    """What a volume is called, without its suffixes: ``brain`` of ``/data/brain.ome.tif`` and of ``brain.h5:/raw``."""
    file, _, inside = volume.partition(":/")
    stem = Path(file.rstrip("/")).name
    for ending in (".ome.tif", ".ome.tiff", ".ome.zarr", ".nii.gz"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    else:
        stem = Path(stem).stem or stem
    return f"{stem}_{inside.replace('/', '_')}" if inside else stem


def _tasks_for(voxels: int, volumes: int) -> int:
    """How many tasks share volumes that are not planned yet: what a tile costs is not known."""
    return min(TASKS_UNPLANNED, max(volumes, math.ceil(voxels / VOXELS_UNPLANNED)))


def _tasks_unplanned(asked: int, volumes: int, rounds: int, ceiling: Ceiling) -> int:
    """As many tasks as asked for, as far as they fit into the limit on jobs."""
    most = asked if ceiling.jobs is None else ceiling.jobs - 2 * volumes - MOST_REPAIR_TASKS * rounds
    if most < 1:
        raise BadOption(f"only {ceiling.jobs} more jobs fit into your limit on jobs in the queue; submit fewer volumes")
    return min(asked, most)


def _machine(resources: Resources) -> tuple[str, ...]:
    return ("--threads", str(resources.cpus), *(("--device", "cuda") if resources.gpus else ()))


def _engine_option(engine: str, resources: Resources) -> tuple[str, ...]:
    """The engine that volumes are planned for: tasks with GPUs need one that computes on them."""
    if resources.gpus and engine not in ("auto", "torch"):
        raise BadOption(
            f"engine '{engine}' computes on CPUs, but {resources.gpus} GPU(s) a task would be asked for; "
            "use --engine torch, or leave the GPUs out"
        )
    if resources.gpus:
        return ("--engine", "torch")
    return () if engine == "auto" else ("--engine", engine)


def _workers(count: int) -> tuple[str, ...]:
    return ("--dask", f"local:{count}") if count > 1 else ()


def _submission(folder: Path, cluster: str, steps: tuple[Step, ...], run: str = "") -> Submission:
    return Submission(
        folder=folder, cluster=cluster, run=run, steps=steps, created=utc_now(), medhpc=medhpc.__version__
    )


def _absolute(path: str | Path) -> str:
    """Absolute, without following links: jobs start elsewhere, and a path is what its user calls it."""
    return os.path.abspath(path) if str(path) != "identity" else "identity"


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
