"""What a run needs and what the cluster gives: asked before anything is submitted."""

from __future__ import annotations

import os
import shutil

import numpy as np

from medhpc.errors import BadOption, DiskFull
from medhpc.jobs.packing import Ceiling, Cost, Resources
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import Partition, limits, my_jobs, partitions
from medhpc.run import Run
from medhpc.run.tally import Tally

ENOUGH = 3  # tiles in the ledger, from which their cost is taken instead of the plan's


def cost_of(run: Run, tally: Tally | None = None) -> Cost:
    """What a tile costs: as the ledger has it, where some tiles are done, else as the plan expects."""
    tally = tally or Tally(run).update()
    plan, done = run.plan, tally.done
    count = int(done.sum())
    if count >= ENOUGH:
        # The mean, for dear tiles count; the memory of the process that needed most.
        seconds, memory = float(tally.seconds[done].mean()), int(tally.memory[done].max())
        return Cost(seconds=seconds, memory=memory, source=f"measured on {count:,} tiles of this run")
    return Cost(
        seconds=plan.computed_voxels * plan.cost.seconds_per_voxel / len(plan.grid),
        memory=plan.cost.memory,
        source=f"measured on samples by 'medhpc tile' ({plan.cost.device}, {plan.cost.threads} threads)",
    )


def room(run: Run, missing: int) -> tuple[int, int]:
    """Bytes that the missing tiles may take, and that are free; one file a shard."""
    plan = run.plan
    needed = int(plan.stored_bytes * missing / len(plan.grid))
    free, inodes = shutil.disk_usage(run.folder).free, os.statvfs(run.folder).f_favail
    files = missing * int(np.prod([-(-t // s) for t, s in zip(plan.tile, plan.stored.shard, strict=True)]))
    if free < needed:
        raise DiskFull(
            f"{run.folder}: {free / 1e9:.1f} GB are free, the missing tiles take up to {needed / 1e9:.1f} GB; "
            "make room, or plan the run elsewhere"
        )
    if 0 < inodes < files:
        raise DiskFull(f"{run.folder}: {inodes:,} inodes are free, {files:,} files will be written; make room")
    return needed, free


def ceiling_of(site: Site, cluster: str) -> tuple[str, Ceiling]:
    """The partition that jobs go to, and what it gives."""
    if cluster != "slurm":
        return "", Ceiling()
    partition = _partition(site)
    allowed = limits(account=site.account, qos=site.qos, partition=partition)
    sizes = [allowed.max_array_size, *filter(None, [allowed.max_array_tasks])]
    most = allowed.max_submit_jobs
    if most is not None:
        most -= sum(max(1, len(job.indices)) for job in my_jobs())
    return partition.name, Ceiling(
        cpus=partition.cpus_per_node or None,
        gpus=partition.gpus_per_node,
        memory=partition.memory_per_node or None,
        seconds=partition.max_time_seconds,
        array_size=min(sizes),
        jobs=most,
    )


def _partition(site: Site) -> Partition:
    found = partitions()
    wanted = [one for one in found if one.name == site.partition.partition(",")[0]] if site.partition else found
    default = [one for one in wanted if one.is_default] or wanted
    if not default:
        names = ", ".join(one.name for one in found) or "none"
        raise BadOption(f"there is no partition '{site.partition}' here; there are: {names}")
    return default[0]


def check_gpus(asked: Resources, ceiling: Ceiling, partition: str) -> None:
    """Refuse to ask for GPUs that no node of the partition has.

    Raises
    ------
    BadOption
    """
    if ceiling.gpus is not None and asked.gpus > ceiling.gpus:
        raise BadOption(
            f"a task cannot have {asked.gpus} GPU(s): nodes of '{partition}' have {ceiling.gpus}; choose another"
        )


def check_engine(run: Run, asked: Resources, site: Site) -> None:
    """Refuse GPUs for a run whose engine would leave them idle.

    Raises
    ------
    BadOption
    """
    by_site = [option for option in site.extra if option.startswith("--gpus")]
    if run.plan.cost.can_use_gpus or not (asked.gpus or by_site):
        return
    got = f"{asked.gpus} GPU(s) a task" if asked.gpus else f"{by_site[0]} (site.toml)"
    raise BadOption(
        f"{run.folder} is planned for CPUs (engine '{run.plan.cost.engine}'), but {got} would be asked for; "
        "plan again with --engine torch, or leave the GPUs out"
    )


def notes(asked: Resources, given: Resources, partition: str) -> tuple[str, ...]:
    """What was cut down to what a node has, for the user."""
    notes = []
    if given.memory < asked.memory:
        wanted, has = asked.memory / 2**30, given.memory / 2**30
        notes.append(
            f"tasks get {has:.1f} GiB, all that a node of '{partition}' has; {wanted:.1f} GiB were planned for"
        )
    if given.cpus < asked.cpus:
        notes.append(f"tasks get {given.cpus} cores, all that a node of '{partition}' has; planned were {asked.cpus}")
    return tuple(notes)
