"""What SLURM's own configuration means for medhpc: pure functions of its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medhpc.jobs.doctor.check import Check
from medhpc.jobs.site import STEPS, Site
from medhpc.jobs.slurm import Limits, Partition, as_time

OLDEST = (20, 11)  # what this was written for
SHORT_MEMORY = 60  # seconds
SMALL_ARRAY = 100


def check_cluster(limits: Limits, partitions: Sequence[Partition], site: Site, sacct: bool) -> list[Check]:
    """All that can be said without a job; `sacct`: whether it answers."""
    return [
        _version(limits),
        *(_partition(partitions, one) for one in {site.of(step).partition: site.of(step) for step in STEPS}.values()),
        _arrays(limits),
        _queue(limits),
        _memory_of_jobs(limits),
        _requeue(limits),
        _memory(limits),
        _accounting(limits, sacct),
    ]


def partition_of(partitions: Sequence[Partition], site: Site) -> Partition | None:
    """Where a job of this site goes; None where that cannot be known."""
    name = site.partition.partition(",")[0]
    return next((one for one in partitions if (one.name == name if name else one.is_default)), None)


def _version(limits: Limits) -> Check:
    found = re.match(r"(\d+)\.(\d+)", limits.version)
    old = found is not None and (int(found[1]), int(found[2])) < OLDEST
    return Check(
        name="SLURM",
        verdict="warn" if old else "ok",
        found=f"version {limits.version or 'unknown'}, cluster {limits.cluster}",
        means="medhpc is not tried with so old a version" if old else "medhpc knows how it answers",
        mend="ask for SLURM 20.11 or later" if old else "",
    )


def _partition(partitions: Sequence[Partition], site: Site) -> Check:
    names = ", ".join(one.name for one in partitions) or "none that you may see"
    partition = partition_of(partitions, site)
    if partition is None:
        return Check(
            name="partition",
            verdict="bad",
            found=f"no partition '{site.partition}'; there are: {names}"
            if site.partition
            else f"there is no default partition; there are: {names}",
            means="jobs will be refused",
            mend="set partition in site.toml ('medhpc site init' writes it), or give --partition",
        )
    limit = partition.max_time_seconds
    size = f"{partition.cpus_per_node} CPUs and {partition.memory_per_node / 2**30:.3g} GiB"
    length = "without a time limit" if limit is None else f"for {as_time(limit)} at most"
    usable = partition.state == "UP" and partition.usable_nodes > 0
    return Check(
        name="partition",
        verdict="ok" if usable else "warn",
        found=f"{partition.name}: {partition.usable_nodes} of {partition.nodes} nodes usable, {partition.state}",
        means=f"a task gets {size}, {length}" if usable else "jobs will wait until there are nodes",
        mend="" if usable else "set another partition in site.toml, or wait",
    )


def _arrays(limits: Limits) -> Check:
    size = min(limits.max_array_size, limits.max_array_tasks or limits.max_array_size)
    if size < 2:
        return Check(
            name="MaxArraySize",
            verdict="bad",
            found=str(limits.max_array_size),
            means="there are no job arrays here, and medhpc submits nothing else",
            mend="ask the administrators for MaxArraySize=1001",
        )
    small = size < SMALL_ARRAY
    return Check(
        name="MaxArraySize",
        verdict="warn" if small else "ok",
        found=str(size),
        means=f"a run of more than {size} tasks is submitted as several arrays",
        mend="ask the administrators for a larger one if runs are large" if small else "",
    )


def _queue(limits: Limits) -> Check:
    most = limits.max_submit_jobs
    small = most is not None and most < SMALL_ARRAY
    return Check(
        name="jobs in the queue",
        verdict="warn" if small else "ok",
        found="no limit of yours is known" if most is None else f"{most} of yours at most, each task counted",
        means="tasks are made as long as the limit needs them"
        if small
        else "medhpc packs tiles into tasks accordingly",
        mend="choose another qos in site.toml if there is one" if small else "",
    )


def _memory_of_jobs(limits: Limits) -> Check:
    age = limits.min_job_age
    short = age is not None and age < SHORT_MEMORY
    means = "jobs that ended are forgotten at once; medhpc asks its ledger what is done, and nobody else"
    return Check(
        name="MinJobAge",
        verdict="ok",
        found="unknown" if age is None else f"{age} s",
        means=means if short else "jobs that ended are seen for so long; what is done stands in the ledger anyway",
    )


def _requeue(limits: Limits) -> Check:
    if limits.requeue:
        means = "a task whose node fails starts again by itself, and takes up what is missing"
        return Check(name="requeue", verdict="ok", found="allowed", means=means)
    return Check(
        name="requeue",
        verdict="warn",
        found="JobRequeue=0",
        means="a task whose node fails does not start again; the repair round does its tiles",
        mend="none is needed; with many node failures, give 'medhpc submit' more --retries",
    )


def _memory(limits: Limits) -> Check:
    if limits.memory_counts:
        means = "a task has the memory that it asks for, and no more"
        return Check(name="memory", verdict="ok", found="counted for each job", means=means)
    return Check(
        name="memory",
        verdict="warn",
        found="not counted",
        means="tasks on one node may together need more than it has",
        mend='ask for whole nodes: extra = ["--exclusive"] in site.toml',
    )


def _accounting(limits: Limits, answers: bool) -> Check:
    if limits.accounting and answers:
        means = "it tells how jobs ended; medhpc has its own figures from the ledger"
        return Check(name="sacct", verdict="ok", found="answers", means=means)
    return Check(
        name="sacct",
        verdict="warn",
        found="does not answer" if limits.accounting else "there is no database",
        means="why a job ended is told by its log only; progress, memory and times stand in the ledger",
        mend="none is needed",
    )
