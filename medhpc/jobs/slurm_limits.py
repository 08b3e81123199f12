"""What a cluster and its accounting allow, from what `scontrol` and `sacctmgr` print (SLURM 20.11 and later)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medhpc.jobs.slurm_times import seconds_of


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the whole cluster allows.

    Attributes
    ----------
    max_array_size : int
        The highest index of an array is one less.
    max_array_tasks : int or None
        Tasks in one array, where the site sets it apart from the size.
    max_job_count : int or None
        Jobs of all users that the controller holds, a task of an array counting as one.
    max_submit_jobs : int or None
        Jobs that this user may have in the queue, tasks counted; None where nothing is known of it.
    min_job_age : int or None
        Seconds for which the controller remembers a finished job.
    kill_wait : int
        Seconds between SIGTERM and SIGKILL when a job is ended.
    requeue : bool
        Whether jobs are requeued unless they ask not to be.
    memory_counts : bool
        Whether nodes are shared by memory too (else ``--mem`` chooses a node, and no more).
    accounting : bool
        Whether ``sacct`` and ``sacctmgr`` answer.
    """

    cluster: str
    version: str
    max_array_size: int
    max_array_tasks: int | None
    max_job_count: int | None
    max_submit_jobs: int | None
    min_job_age: int | None
    kill_wait: int
    requeue: bool
    memory_counts: bool
    accounting: bool


def parse_config(text: str) -> dict[str, str]:
    """``scontrol show config`` as a dictionary, its values as they stand."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def limits_of(config: dict[str, str]) -> Limits:
    """Limits from the configuration of :func:`parse_config`; the user's own are not in it."""

    def number(key: str) -> int | None:
        found = re.match(r"\d+", config.get(key, ""))
        return int(found[0]) if found else None

    array_tasks = re.search(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    size = number("MaxArraySize")
    return Limits(
        cluster=config.get("ClusterName", ""),
        version=config.get("SLURM_VERSION", ""),
        max_array_size=1001 if size is None else size,  # what SLURM sets by itself
        max_array_tasks=int(array_tasks[1]) if array_tasks else None,
        max_job_count=number("MaxJobCount"),
        max_submit_jobs=None,
        min_job_age=number("MinJobAge"),
        kill_wait=number("KillWait") or 0,
        requeue=config.get("JobRequeue") == "1",
        memory_counts="MEMORY" in config.get("SelectTypeParameters", "").upper(),
        accounting=config.get("AccountingStorageType", "").endswith("slurmdbd"),
    )


@dataclass(frozen=True, kw_only=True)
class Association:
    """An account that the user may charge jobs to."""

    account: str
    partition: str
    qos: tuple[str, ...]
    default_qos: str
    max_submit_jobs: int | None


@dataclass(frozen=True, kw_only=True)
class Qos:
    """A quality of service: a named set of limits."""

    name: str
    max_submit_jobs: int | None
    max_time_seconds: int | None


ASSOCIATION_FORMAT = "Account,Partition,QOS,DefaultQOS,MaxSubmitJobs"
QOS_FORMAT = "Name,MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount,GrpSubmitJobs,MaxWall"


def parse_associations(text: str) -> list[Association]:
    """Rows of ``sacctmgr --noheader --parsable2 show assoc format=ASSOCIATION_FORMAT``."""
    rows = (line.split("|") for line in text.splitlines())
    return [
        Association(
            account=row[0],
            partition=row[1],
            qos=tuple(filter(None, row[2].split(","))),
            default_qos=row[3],
            max_submit_jobs=int(row[4]) if row[4] else None,
        )
        for row in rows
        if len(row) == 5
    ]


def parse_qos(text: str) -> list[Qos]:
    """Rows of ``sacctmgr --noheader --parsable2 show qos format=QOS_FORMAT``."""
    rows = (line.split("|") for line in text.splitlines())
    return [
        Qos(
            name=row[0],
            max_submit_jobs=min((int(limit) for limit in row[1:4] if limit), default=None),
            max_time_seconds=seconds_of(row[4]),
        )
        for row in rows
        if len(row) == 5
    ]


def most_submitted(
    associations: Sequence[Association],
    qualities: Sequence[Qos],
    *,
    account: str,
    partition: str,
    qos: Sequence[str],
) -> int | None:
    """How many jobs a user may have in the queue: the tightest limit of association and qualities of service.

    Parameters
    ----------
    account : str
        Which association; that of the default account first in `associations` where it is empty.
    partition : str
        Associations for other partitions do not count.
    qos : sequence of str
        Those that the job asks for and that its partition sets; the association's default where there are none.
    """
    ours = [one for one in associations if account in ("", one.account) and one.partition in ("", partition)]
    names = {name for name in qos if name} or {one.default_qos or "normal" for one in ours[:1]}
    limits = [one.max_submit_jobs for one in ours[:1]] + [one.max_submit_jobs for one in qualities if one.name in names]
    return min((limit for limit in limits if limit is not None), default=None)
