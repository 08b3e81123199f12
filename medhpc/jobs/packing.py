"""How many tasks, and what each asks of a node: from what a tile costs and what the cluster allows.

A task is a range of tiles that takes about the target time, longer only where there would be thousands of tasks. There
are many more tasks than nodes, so SLURM evens out slow nodes and dear tiles; nothing of ours has to.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from medhpc.errors import BadOption

START = 60  # seconds: to start Python, load the network, read the ledger, on a slow file system
HEADROOM = 1.15  # of memory: what the measure did not see
SPARE = 2.0  # a node may be half as fast as the one that was measured
MORE_MEMORY, MORE_TIME = 1.5, 2.0  # for each round of repair
LEAST_WARNING = 30  # seconds between the signal and the time limit
SHARE_OF_REPAIR = 8  # one repair task stands by for so many tasks
MOST_REPAIR_TASKS = 32
MOST_TASKS = 2000  # to compute tiles: a controller holds 10,000 jobs of all users, and each array is a call of it


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task asks of a node."""

    cpus: int
    memory: int  # bytes
    seconds: int = 0
    gpus: int = 0
    warning: int = 0  # seconds before the time limit at which SIGUSR1 comes; 0 for none

    def again(self, ceiling: Ceiling) -> Resources:
        """What the next round asks for: more memory, more time, as far as the cluster has it."""
        return ceiling.cut(replace(self, memory=int(self.memory * MORE_MEMORY), seconds=int(self.seconds * MORE_TIME)))


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The most that one job can ask for; None where nothing is known or set."""

    partition: str = ""  # where the job goes
    cpus: int | None = None
    gpus: int | None = None
    memory: int | None = None  # bytes
    seconds: int | None = None
    array_size: int | None = None  # tasks in one array
    jobs: int | None = None  # that may be submitted, tasks counted

    def cut(self, wanted: Resources) -> Resources:
        """No more than there is."""
        return replace(
            wanted,
            cpus=min(wanted.cpus, self.cpus or wanted.cpus),
            memory=min(wanted.memory, self.memory or wanted.memory),
            seconds=min(wanted.seconds, self.seconds or wanted.seconds),
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a tile costs."""

    seconds: float
    memory: int  # bytes that a task needs
    source: str  # where these numbers come from, for the user


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Tiles as tasks."""

    tiles: int
    tasks: int
    tiles_per_task: int  # at most
    repair_tasks: int
    infer: Resources

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def pack(
    tiles: int,
    cost: Cost,
    task: Resources,
    *,
    target_seconds: float,
    rounds: int,
    steps: int,
    ceiling: Ceiling,
) -> Packing:
    """Divide tiles into tasks.

    Parameters
    ----------
    tiles : int
        How many there are to compute.
    cost : Cost
    task : Resources
        What one asks for; its time follows from its tiles.
    target_seconds : float
        How long a task should take; longer where there would be more than :data:`MOST_TASKS`, and a job may.
    rounds : int
        Of repair.
    steps : int
        Jobs besides infer and repair: they count where the number of jobs is limited.
    ceiling : Ceiling

    Raises
    ------
    BadOption
        A single tile takes longer than any job may, or no task fits into the limit on jobs.
    """
    most_seconds = math.inf if ceiling.seconds is None else (ceiling.seconds - START - LEAST_WARNING) / SPARE
    if cost.seconds > most_seconds:
        raise BadOption(
            f"a tile takes {cost.seconds:.0f} s, more than a job of at most {ceiling.seconds} s can promise; "
            "plan smaller tiles ('medhpc tile --tile'), or use a partition with a longer limit"
        )
    seconds = max(cost.seconds, 1e-9)
    enough = max(target_seconds / seconds, math.ceil(tiles / MOST_TASKS))
    per_task = max(1, int(min(enough, most_seconds / seconds)))
    tasks = math.ceil(tiles / min(per_task, tiles)) if tiles else 0
    repair = min(MOST_REPAIR_TASKS, math.ceil(tasks / SHARE_OF_REPAIR), ceiling.array_size or MOST_REPAIR_TASKS)
    if ceiling.jobs is not None and tasks + repair * rounds + steps > ceiling.jobs:
        tasks, repair = _within(ceiling.jobs - steps, tasks, repair, rounds)
    per_task = math.ceil(tiles / tasks) if tasks else 0
    work = per_task * cost.seconds
    warning = max(LEAST_WARNING, math.ceil(SPARE * cost.seconds))
    wanted = replace(task, seconds=math.ceil(START + SPARE * work + warning), warning=warning)
    return Packing(
        tiles=tiles,
        tasks=tasks,
        tiles_per_task=per_task,
        repair_tasks=repair,
        infer=ceiling.cut(wanted),
    )


def _within(jobs: int, tasks: int, repair: int, rounds: int) -> tuple[int, int]:
    """Fewer tasks, so that they and one repair task for each of some of them are no more than `jobs`."""
    repair = max(1, min(repair, jobs // (4 * max(rounds, 1))))
    fitting = min(tasks, jobs - repair * rounds)
    if fitting < 1:
        raise BadOption(f"only {jobs} more jobs fit into the limit on jobs in the queue; wait until others have ended")
    return fitting, repair


def split_array(tasks: int, array_size: int | None) -> list[range]:
    """Tasks as arrays of at most `array_size`; each starts at index 0 and adds its offset."""
    size = array_size or tasks
    return [range(start, min(start + size, tasks)) for start in range(0, tasks, max(size, 1))]
