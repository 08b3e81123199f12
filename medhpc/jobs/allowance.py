"""What a run needs and what the cluster gives: asked before anything is submitted."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence

from medhpc.errors import BadOption, DiskFull
from medhpc.jobs.network import check_network
from medhpc.jobs.packing import Ceiling, Cost, Resources
from medhpc.jobs.site import STEPS, Site
from medhpc.jobs.slurm import Limits, Partition, associations, limits, my_jobs, partitions
from medhpc.jobs.wishes import Wishes
from medhpc.run import Run
from medhpc.run.durable import check_room
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
        seconds=plan.seconds / len(plan.grid),
        memory=plan.memory_bytes,
        source=f"measured on samples by 'medhpc tile' ({plan.cost.device}, {plan.cost.threads} threads)",
    )


def dearest(costs: Sequence[Cost]) -> Cost:
    """One cost for the tiles of several runs: enough for a task that has those of the dearest run only."""
    cost = max(costs, key=lambda one: one.seconds)
    source = cost.source if len(costs) == 1 else f"in the dearest run; {cost.source}"
    return Cost(seconds=cost.seconds, memory=max(one.memory for one in costs), source=source)


def room(runs: Sequence[Run], missing: Sequence[int]) -> tuple[int, int]:
    """Bytes that the missing tiles of runs on one file system may take, and that are free; one file a shard.

    Raises
    ------
    DiskFull
    """
    folder, needed, files = runs[0].folder, 0, 0
    for plan, tiles in zip([run.plan for run in runs], missing, strict=True):
        needed += int(plan.stored_bytes * tiles / len(plan.grid))
        files += tiles * math.prod(-(-t // s) for t, s in zip(plan.tile, plan.stored.shard, strict=True))
    free = check_room(folder, needed, "the missing tiles", "plan the run elsewhere")
    inodes = os.statvfs(folder).f_favail
    if 0 < inodes < files:
        raise DiskFull(f"{folder}: {inodes:,} inodes are free, {files:,} files will be written; make room")
    return needed, free


def check_ranks(runs: Sequence[Run]) -> None:
    """Refuse runs whose planes one process cannot hold: tasks compute by themselves.

    Raises
    ------
    BadOption
    """
    for run in runs:
        if run.plan.sweep and run.plan.sweep.ranks > 1:
            raise BadOption(
                f"{run.folder} was planned for {run.plan.sweep.ranks} ranks: compute it by  medhpc infer "
                f"{shlex.quote(str(run.folder))} --submit  first; submit then stitches it"
            )


def check_networks(runs: Sequence[Run]) -> None:
    """Refuse runs whose network no job can load.

    Raises
    ------
    BadOption
    """
    for run in runs:
        if not run.plan.network.path:
            raise BadOption(
                f"the network of {run.folder} was given from Python, no job can load it; plan with a network file"
            )


def check_inputs(runs: Sequence[Run]) -> None:
    """Refuse volumes and networks that are not those that were planned for: every task would.

    Raises
    ------
    SourceChanged, VolumeNotFound, BrokenFile, BadNetwork, NetworkChanged
    """
    for run in runs:
        check_network(run)
        run.open_source().close()


def ceilings_of(site: Site, cluster: str) -> dict[str, Ceiling]:
    """For each step, the partition that its jobs go to, and what it gives.

    Raises
    ------
    BadOption
        There is no such partition, or no such account for this user.
    SlurmDown, NoSlurm
    """
    if cluster != "slurm":
        return dict.fromkeys(STEPS, Ceiling())
    found, tasks = partitions(), site.of("infer")
    chosen = {step: _partition(found, site.of(step).partition) for step in STEPS}
    # Nearly all jobs are tasks that compute tiles: what they may is asked for, and taken for the others too.
    allowed = limits(account=tasks.account, qos=tasks.qos, partition=chosen["infer"])
    if tasks.account and allowed.accounting:
        _check_account(tasks.account)
    array_size = min(filter(None, (allowed.max_array_size, allowed.max_array_tasks)))
    jobs = _most_jobs(allowed)
    return {
        step: Ceiling(
            partition=partition.name,
            cpus=partition.cpus_per_node or None,
            gpus=partition.gpus_per_node,
            memory=partition.memory_per_node or None,
            seconds=partition.max_time_seconds,
            array_size=array_size,
            jobs=jobs,
        )
        for step, partition in chosen.items()
    }


def _most_jobs(allowed: Limits) -> int | None:
    """How many more jobs may be submitted, as far as it is known: the controller holds those of all users."""
    ours = allowed.max_submit_jobs
    if ours is not None:
        ours -= sum(max(1, len(job.indices)) for job in my_jobs())
    return min((most for most in (ours, allowed.max_job_count) if most is not None), default=None)


def _partition(found: Sequence[Partition], name: str) -> Partition:
    wanted = [one for one in found if one.name == name.partition(",")[0]] if name else found
    default = [one for one in wanted if one.is_default] or wanted
    if not default:
        names = ", ".join(one.name for one in found) or "none"
        raise BadOption(f"there is no partition '{name}' here; there are: {names}")
    return default[0]


def _check_account(account: str) -> None:
    """Refuse an account that the database does not give to this user; SLURM knows them in small letters."""
    names = {one.account for one in associations()}
    if names and account.lower() not in names:
        raise BadOption(f"there is no account '{account}' for you; there are: {', '.join(sorted(names))}")


def check_asked(wishes: Wishes, ceiling: Ceiling) -> None:
    """Refuse cores and memory that were asked for by hand and that no node of the partition has.

    Raises
    ------
    BadOption
    """
    where = f"nodes of '{ceiling.partition}' have"
    if wishes.cpus and ceiling.cpus and wishes.cpus > ceiling.cpus:
        raise BadOption(f"a task cannot have {wishes.cpus} cores: {where} {ceiling.cpus}; choose another partition")
    if wishes.memory and ceiling.memory and wishes.memory > ceiling.memory:
        got, most = wishes.memory / 2**30, ceiling.memory / 2**30
        raise BadOption(f"a task cannot have {got:.1f} GiB: {where} {most:.1f} GiB; choose another partition")


def check_gpus(step: str, asked: Resources, ceiling: Ceiling) -> None:
    """Refuse to ask for GPUs that no node of the partition has.

    Raises
    ------
    BadOption
    """
    if ceiling.gpus is not None and asked.gpus > ceiling.gpus:
        raise BadOption(
            f"a task cannot have {asked.gpus} GPU(s): nodes of '{ceiling.partition}' have {ceiling.gpus}; choose "
            f"another with --partition, or in site.toml for this step alone: {step} = {{ partition = ... }}"
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
