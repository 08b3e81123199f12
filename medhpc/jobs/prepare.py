"""From planned runs, or volumes, to a chain of jobs that fits the cluster: everything is decided, nothing submitted."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import medhpc
from medhpc.errors import BadOption
from medhpc.jobs.again import asked_in, unfinished_targets
from medhpc.jobs.allowance import (
    ceilings_of,
    check_asked,
    check_engine,
    check_gpus,
    check_inputs,
    check_networks,
    check_ranks,
    cost_of,
    dearest,
    notes,
    room,
)
from medhpc.jobs.chain import Step, Target, chain
from medhpc.jobs.network import trained_on
from medhpc.jobs.packing import HEADROOM, MOST_REPAIR_TASKS, START, Ceiling, Cost, Packing, Resources, pack
from medhpc.jobs.site import Site
from medhpc.jobs.submission import JOBS, Submission, new_id, utc_now
from medhpc.jobs.targets import Batch, absolute, batch_of, existing, targets_of
from medhpc.jobs.wishes import Wishes
from medhpc.run import Run
from medhpc.run.advice import advice
from medhpc.run.missing import broken_hosts
from medhpc.run.plan import BASE, GPU_ENGINES, Plan
from medhpc.run.tally import Tally

STITCH_VOXEL = 64  # bytes, of all that a stitch does with a voxel
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
    partitions: Mapping[str, str]  # of "plan", "infer" and "stitch"; "" where there is no cluster
    targets: tuple[Target, ...]
    tiles: int | None  # to be computed; None where a plan is still to be made
    total: int | None  # in all runs
    packing: Packing
    cost: Cost | None
    needed_bytes: int  # at most
    free_bytes: int
    notes: tuple[str, ...]  # what was cut down to what the cluster has, and what is left out


def prepare_run(
    run: str | Path, out: str | Path, *, objects: str | Path = "", wishes: Wishes | None = None
) -> Prepared:
    """Decide on the jobs that finish a planned run.

    Parameters
    ----------
    run, out : path
        The run, and the result of its stitch.
    objects : path, optional
        CSV of the objects.
    wishes : Wishes, optional

    Raises
    ------
    NotARun, BadOption
    NothingToDo
        The result is there already, as a submission with the same options made it.
    SourceChanged, VolumeNotFound
    DiskFull
        The tiles that are missing may not fit.
    SlurmDown, NoSlurm
    """
    opened, wishes = Run(run), wishes or Wishes()
    target = Target(run=absolute(run), out=absolute(out), objects=absolute(objects) if objects else "")
    targets = unfinished_targets([target], _stitch_options(wishes))
    return _planned([opened], targets, _folder(wishes, opened.folder), wishes, id=opened.id)


def prepare_volumes(
    volumes: Sequence[str | Path],
    out_dir: str | Path,
    *,
    network: str | Path,
    suffix: str = ".ome.zarr",
    tables: bool = False,
    engine: str = "auto",
    tile_options: Sequence[str] = (),
    memory: int = 8 * 2**30,
    channel: int | None = None,
    level: int = 0,
    skip_bad: bool = False,
    wishes: Wishes | None = None,
) -> Prepared:
    """Decide on the jobs that plan, compute and stitch several volumes with one network; all share the job arrays.

    Results are ``out_dir/<name><suffix>``, runs ``out_dir/<name>.run``. A volume whose run is planned keeps its plan,
    one whose result is there already is left out.

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
    tile_options : sequence of str
        As for ``medhpc tile`` (without network, memory, channel, level, engine, threads, device).
    memory : int
        What volumes are planned for, in bytes.
    channel, level : int, optional
        What is read of each volume.
    skip_bad : bool
        Leave out volumes that cannot be read.
    wishes : Wishes, optional

    Raises
    ------
    BadOption
        Two volumes of one name, several that cannot be read, or GPUs for an engine that computes on CPUs.
    NothingToDo
        All results are there already, made with the same options.
    BadNetwork, VolumeNotFound, UnknownFormat, BrokenFile, SourceChanged, DiskFull, SlurmDown, NoSlurm
    """
    wishes, place = wishes or Wishes(), Path(out_dir).resolve()
    reading = {"channel": channel, "level": level}
    targets = targets_of(volumes, place, suffix=suffix, tables=tables)
    batch = batch_of(targets, skip_bad=skip_bad, trained=trained_on(network), reading=reading)
    batch = replace(batch, targets=unfinished_targets(batch.targets, _stitch_options(wishes)))
    folder = _folder(wishes, place)
    if not any(target.volume for target in batch.targets):
        return _planned([Run(target.run) for target in batch.targets], batch.targets, folder, wishes, batch.notes)
    read = [word for name, value in reading.items() if value for word in (f"--{name}", str(value))]
    read = ["--channel", "0", *read] if channel == 0 else read
    options = ("--network", absolute(network), "--memory", f"{memory // 2**20}M", *read, *tile_options)
    options += _engine_option(engine, wishes.gpus or 0)
    return _unplanned(batch, int(HEADROOM * memory), options, folder, wishes)


def prepare_folder(folder: str | Path, *, skip_bad: bool = False, wishes: Wishes | None = None) -> Prepared:
    """Decide on the jobs that finish what was submitted to a folder of several volumes, with the options of then.

    Parameters
    ----------
    folder : path
        The `out_dir` of :func:`prepare_volumes`.
    skip_bad : bool
        Leave out volumes that cannot be read.
    wishes : Wishes, optional
        Its options of the stitch are not looked at.

    Raises
    ------
    NotARun, BadOption
        No submission there, or several with different options.
    NothingToDo
        All results are there.
    BadNetwork, VolumeNotFound, UnknownFormat, BrokenFile, SourceChanged, DiskFull, SlurmDown, NoSlurm
    """
    asked, wishes = asked_in(folder), wishes or Wishes()
    wishes = replace(
        wishes,
        stitch_options=asked.stitch_options,
        stitch_workers=max(wishes.stitch_workers, asked.stitch_workers),
        gpus=asked.gpus or None if wishes.gpus is None else wishes.gpus,
    )
    place = _folder(wishes, Path(folder).resolve())
    if asked.plan is None:
        return _planned([Run(target.run) for target in asked.targets], asked.targets, place, wishes)
    unplanned = [target for target in asked.targets if target.volume]
    planned = [target for target in asked.targets if not target.volume]
    batch = batch_of(unplanned, skip_bad=skip_bad, trained=trained_on(asked.network))
    batch = replace(batch, targets=(*planned, *batch.targets))
    return _unplanned(batch, asked.plan.resources.memory, asked.plan.options, place, wishes)


def _planned(
    runs: Sequence[Run],
    targets: Sequence[Target],
    folder: Path,
    wishes: Wishes,
    more_notes: Sequence[str] = (),
    id: str = "",
) -> Prepared:
    """Plans and ledgers say what there is to do, and what it costs."""
    check_networks(runs)
    tallies = [Tally(run).update() for run in runs]
    missing = [int(np.count_nonzero(~tally.done)) for tally in tallies]
    check_ranks([run for run, tiles in zip(runs, missing, strict=True) if tiles])
    check_inputs([run for run, tiles in zip(runs, missing, strict=True) if tiles])
    needed, free = room(runs, missing)
    ceilings = ceilings_of(wishes.site, wishes.cluster)
    costs = [cost_of(run, tally) for run, tally, tiles in zip(runs, tallies, missing, strict=True) if tiles]
    cost = dearest(costs or [cost_of(runs[0], tallies[0])])
    plans = [run.plan for run in runs]
    need = Resources(
        cpus=max(plan.cost.threads for plan in plans),
        gpus=int(any(plan.cost.device.startswith("cuda") for plan in plans)),
        memory=int(HEADROOM * cost.memory),
    )
    asked, given = _tasks(wishes, need, ceilings, runs)
    packing = pack(
        sum(missing),
        cost,
        given,
        target_seconds=_target_seconds(wishes, sum(missing), cost, plans),
        rounds=wishes.rounds,
        steps=len(targets),
        ceiling=ceilings["infer"],
    )
    largest = max(plan.region.size for plan in plans)
    # What a stitch needs is not measured: no more than all voxels at once take, and than tasks were allowed.
    stitching = int(HEADROOM * min(max(plan.cost.memory for plan in plans), BASE + STITCH_VOXEL * largest))
    steps = chain(
        targets,
        packing,
        folder=folder,
        ceiling=ceilings["infer"],
        stitch=_stitch(
            wishes, replace(need, memory=stitching), STITCH_SECONDS + largest / STITCH_RATE, ceilings["stitch"]
        ),
        rounds=wishes.rounds,
        concurrent=wishes.concurrent,
        infer_options=_machine(given),
        stitch_options=_stitch_options(wishes),
    )
    broken = broken_hosts(runs, tallies) if wishes.cluster == "slurm" else {}
    left_out = [f"no job runs on {host}: {tiles} tiles failed there, none was done" for host, tiles in broken.items()]
    return Prepared(
        submission=_submission(folder, wishes.cluster, steps, id),
        site=wishes.site.without_nodes(list(broken)),
        partitions={step: ceiling.partition for step, ceiling in ceilings.items() if step != "plan"},
        targets=tuple(targets),
        tiles=sum(missing),
        total=sum(len(plan.grid) for plan in plans),
        packing=packing,
        cost=cost,
        needed_bytes=needed,
        free_bytes=free,
        notes=(*notes(asked, given, ceilings["infer"].partition), *left_out, *more_notes, *_advice(runs)),
    )


def _unplanned(batch: Batch, memory: int, options: Sequence[str], folder: Path, wishes: Wishes) -> Prepared:
    """Some volumes are still to be planned: how many tiles there will be, and what they cost, is a guess."""
    targets = batch.targets
    ceilings = ceilings_of(wishes.site, wishes.cluster)
    need = Resources(cpus=os.cpu_count() or 1, memory=memory)
    runs = [Run(target.run) for target in targets if not target.volume]
    asked, given = _tasks(wishes, need, ceilings, runs)
    check_inputs(runs)
    given = ceilings["infer"].cut(
        replace(
            given,
            seconds=int(START + TASK_TIMES_UNPLANNED * wishes.target_seconds),
            warning=int(max(60, wishes.target_seconds / 10)),
        )
    )
    planning = ceilings["plan"].cut(wishes.resources("plan", replace(need, seconds=PLAN_SECONDS)))
    check_gpus("plan", planning, ceilings["plan"])
    packing = _packing_unplanned(batch.voxels, len(targets), given, wishes, ceilings["infer"])
    steps = chain(
        targets,
        packing,
        folder=folder,
        ceiling=ceilings["infer"],
        plan=planning,
        stitch=_stitch(wishes, need, given.seconds, ceilings["stitch"]),
        rounds=wishes.rounds,
        concurrent=wishes.concurrent,
        plan_options=(*options, *_machine(planning)),
        infer_options=_machine(given),
        stitch_options=_stitch_options(wishes),
    )
    return Prepared(
        submission=_submission(folder, wishes.cluster, steps),
        site=wishes.site,
        partitions={step: ceiling.partition for step, ceiling in ceilings.items()},
        targets=targets,
        tiles=None,
        total=None,
        packing=packing,
        cost=None,
        needed_bytes=0,
        free_bytes=shutil.disk_usage(existing(folder)).free,
        notes=(*notes(asked, given, ceilings["infer"].partition), *batch.notes, *_advice(runs)),
    )


def _advice(runs: Sequence[Run]) -> list[str]:
    """What may give a bad result, a line each."""
    return [f"{run.plan.source.path}: {line}" for run in runs for line in advice(run.plan)]


def _tasks(
    wishes: Wishes, need: Resources, ceilings: Mapping[str, Ceiling], runs: Sequence[Run]
) -> tuple[Resources, Resources]:
    """What a task that computes tiles of these runs asks for, and what it gets."""
    asked = wishes.resources("infer", need)
    check_asked(wishes, ceilings["infer"])
    check_gpus("infer", asked, ceilings["infer"])
    for run in runs:
        check_engine(run, asked, wishes.site.of("infer"))
    return asked, ceilings["infer"].cut(asked)


def _target_seconds(wishes: Wishes, tiles: int, cost: Cost, plans: Sequence[Plan]) -> float:
    """How long a task should take, so that there are as many as wished; of columns, as long as one takes at least.

    A task that begins within a column computes again what the network sees before its tiles.
    """
    if wishes.tasks is None:
        column = max(plan.grid.counts[0] if plan.sweep else 1 for plan in plans)
        return max(wishes.target_seconds, (column + 0.5) * cost.seconds)
    return (math.ceil(tiles / wishes.tasks) + 0.5) * cost.seconds


def _packing_unplanned(voxels: int, volumes: int, task: Resources, wishes: Wishes, ceiling: Ceiling) -> Packing:
    """As many tasks as wished, or as the volumes are large, as far as they fit into the limit on jobs."""
    wished = wishes.tasks or min(TASKS_UNPLANNED, max(volumes, math.ceil(voxels / VOXELS_UNPLANNED)))
    most = wished if ceiling.jobs is None else ceiling.jobs - 2 * volumes - MOST_REPAIR_TASKS * wishes.rounds
    if most < 1:
        raise BadOption(f"only {ceiling.jobs} more jobs fit into the limit on jobs in the queue; submit fewer volumes")
    tasks = min(wished, most)
    repairing = max(1, min(tasks // 4, MOST_REPAIR_TASKS, ceiling.array_size or MOST_REPAIR_TASKS))
    return Packing(tiles=0, tasks=tasks, tiles_per_task=0, repair_tasks=repairing, infer=task)


def _stitch(wishes: Wishes, need: Resources, seconds: float, ceiling: Ceiling) -> Resources:
    """What a stitch gets: for each of its processes, as much as a task."""
    one, workers = wishes.resources("stitch", need), wishes.stitch_workers
    return ceiling.cut(Resources(cpus=one.cpus * workers, memory=one.memory * workers, seconds=int(seconds)))


def _stitch_options(wishes: Wishes) -> tuple[str, ...]:
    workers = ("--dask", f"local:{wishes.stitch_workers}") if wishes.stitch_workers > 1 else ()
    return (*wishes.stitch_options, *workers)


def _machine(resources: Resources) -> tuple[str, ...]:
    return ("--threads", str(resources.cpus), *(("--device", "cuda") if resources.gpus else ()))


def _engine_option(engine: str, gpus: int) -> tuple[str, ...]:
    """The engine that volumes are planned for: tasks with GPUs need one that computes on them."""
    if gpus and engine not in ("auto", *GPU_ENGINES):
        raise BadOption(
            f"engine '{engine}' computes on CPUs, but {gpus} GPU(s) a task would be asked for; "
            "use --engine torch, or leave the GPUs out"
        )
    if gpus and engine == "auto":
        return ("--engine", "torch")
    return () if engine == "auto" else ("--engine", engine)


def _folder(wishes: Wishes, place: Path) -> Path:
    """Of the submission."""
    return Path(wishes.folder).resolve() if wishes.folder else place.resolve() / JOBS / new_id()


def _submission(folder: Path, cluster: str, steps: tuple[Step, ...], run: str = "") -> Submission:
    return Submission(
        folder=folder, cluster=cluster, run=run, steps=steps, created=utc_now(), medhpc=medhpc.__version__
    )
