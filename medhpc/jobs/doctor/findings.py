"""What was seen of the doctor's job, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import medhpc
from medhpc.jobs.doctor.check import Check
from medhpc.jobs.doctor.folder import USE_NO_LOCKS
from medhpc.jobs.slurm import Partition

SKEW = 2.0  # seconds
LAST = 3  # lines of a log that are shown


@dataclass
class Visit:
    """A job from its submission to its end.

    Attributes
    ----------
    job : str
        Its id; empty before it has one.
    gres : str
        What it asked for besides a processor.
    refused, trouble : str
        What SLURM said where it said no, or nothing.
    gone : bool
        It left the queue before it had told all.
    reason : str
        Why it waits.
    waited : float
        Seconds until its shell told that it runs.
    token, shell : str
        What was written for it to read, and what it read.
    worker, usr1, term : dict
        What medhpc told in the job; empty where it did not.
    sent, seen : float
        When SIGUSR1 was sent, and when its answer was here; seconds since 1970 by the clock of this host.
    log : str
        What it printed.
    """

    job: str = ""
    gres: str = ""
    refused: str = ""
    trouble: str = ""
    gone: bool = False
    reason: str = ""
    waited: float = 0.0
    token: str = ""
    shell: str = ""
    worker: dict[str, Any] = field(default_factory=dict)
    usr1: dict[str, float] = field(default_factory=dict)
    term: dict[str, float] = field(default_factory=dict)
    sent: float = 0.0
    seen: float = 0.0
    log: str = ""


def judge(visit: Visit, partition: Partition | None) -> list[Check]:
    """One check for each thing that could be seen."""
    if visit.refused or visit.trouble and not visit.shell:
        return [_refused(visit)]
    if not visit.shell:
        return [_shared(visit) if visit.gone else _waiting(visit)]
    checks = [_shared(visit), _started(visit)]
    if visit.worker:
        checks += [_signals(visit), _clock(visit), _locks(visit), _gpus(visit, partition)]
    return checks


def _refused(visit: Visit) -> Check:
    return Check(
        name="job",
        verdict="bad",
        found=visit.refused or visit.trouble,
        means="the jobs of a run will not be accepted either",
        mend="set what it names in site.toml ('medhpc site init' writes one with the names that there are)"
        if visit.refused
        else "try again when SLURM answers",
    )


def _waiting(visit: Visit) -> Check:
    return Check(
        name="job",
        verdict="unknown",
        found=f"it still waited after {visit.waited:.0f} s ({visit.reason or 'no reason given'}) and was taken back",
        means="what nodes are like was not seen",
        mend="try again when the cluster is less busy, or give --wait 600",
    )


def _shared(visit: Visit) -> Check:
    means = "jobs read their run and write their tiles and logs here"
    if visit.shell == visit.token:
        found = f"a job reads and writes here (seen {visit.waited:.0f} s after its submission)"
        return Check(name="shared folder", verdict="ok", found=found, means=means)
    return Check(
        name="shared folder",
        verdict="bad",
        found=f"job {visit.job} ended and left nothing here" + _last(visit.log),
        means=f"{means}: this cannot be done in a folder that nodes do not see, or may not write",
        mend="plan runs in a file system that login and compute nodes share, often /scratch or a project folder",
    )


def _started(visit: Visit) -> Check:
    name, version = "medhpc on a node", medhpc.__version__
    if not visit.worker:
        return Check(
            name=name,
            verdict="bad",
            found="it did not start" + _last(visit.log),
            means="no tile can be computed there",
            mend="set modules, venv, medhpc, or apptainer and bind in site.toml, so that a node finds it",
        )
    there = visit.worker["medhpc"]
    found = f"version {there} starts on {visit.worker['host']}"
    if there == version:
        return Check(name=name, verdict="ok", found=found, means="tasks run the version that plans them")
    return Check(
        name=name,
        verdict="warn",
        found=f"{found}, here is {version}",
        means="a node may not read what was planned here",
        mend="set venv, apptainer or medhpc in site.toml to one installation for both",
    )


def _signals(visit: Visit) -> Check:
    lost = [name for name, answer in (("SIGUSR1", visit.usr1), ("SIGTERM", visit.term)) if not answer]
    if not lost:
        means = "a task that runs out of time, or is preempted, ends well: its tiles are kept"
        return Check(name="signals", verdict="ok", found="SIGUSR1 and SIGTERM reach the worker", means=means)
    return Check(
        name="signals",
        verdict="warn",
        found=f"no {' and no '.join(lost)} reached the worker",
        means="a task that runs out of time loses the tile in work; the next round computes it again",
        mend="start medhpc by a command that does not stay in front of it (no shell script without 'exec')",
    )


def _clock(visit: Visit) -> Check:
    if not visit.usr1:
        return Check(
            name="clock", verdict="unknown", found="the job did not answer", means="no two clocks were compared"
        )
    early, late = visit.sent - visit.usr1["time"], visit.usr1["time"] - visit.seen
    skew = max(early, late)
    if skew <= SKEW:
        found = f"a node's clock is within {max(visit.seen - visit.sent, SKEW):.0f} s of this one's"
        return Check(name="clock", verdict="ok", found=found, means="rates and the time to go are right")
    return Check(
        name="clock",
        verdict="warn",
        found=f"{visit.worker['host']} is {skew:.0f} s {'behind' if early > 0 else 'ahead'}",
        means="rates and the time to go are wrong by as much; what is done does not depend on clocks",
        mend="tell the administrators: nodes should follow one time server",
    )


def _locks(visit: Visit) -> Check:
    lock, name = visit.worker["lock"], "locks in a job"
    if lock == "seen":
        return Check(name=name, verdict="ok", found="flock works between hosts", means="HDF5 opens files in jobs")
    if lock == "not seen":
        return Check(
            name=name,
            verdict="warn",
            found="a lock of this host does not keep a node out",
            means="HDF5 opens files; but do not write one file from two hosts, nor submit one run from two at a time",
            mend="none is needed; administrators can mount the file system with cluster-wide flock",
        )
    return Check(
        name=name,
        verdict="warn",
        found=f"flock does not work on a node: {lock}",
        means="HDF5 will not open files there",
        mend=USE_NO_LOCKS,
    )


def _gpus(visit: Visit, partition: Partition | None) -> Check:
    name, visible, gpus = "GPUs", visit.worker["visible"], visit.worker["gpus"]
    if not visit.gres:
        where = f"in partition {partition.name}" if partition else "that is known"
        means = "tiles are computed on processors; a partition that has GPUs is looked at with --partition"
        return Check(name=name, verdict="ok", found=f"there is none {where}", means=means)
    if visible and gpus:
        found = f"--gres={visit.gres} gives {gpus[0].partition(' (UUID')[0]}" + f" and {len(gpus) - 1} more" * (
            len(gpus) > 1
        )
        return Check(name=name, verdict="ok", found=found, means="tasks compute on them with --gpus 1")
    return Check(
        name=name,
        verdict="warn",
        found=f"--gres={visit.gres} sets CUDA_VISIBLE_DEVICES={visible or '(nothing)'}, and nvidia-smi shows no GPU",
        means="a task would not find its GPU, and compute on processors or fail",
        mend="with an image, set nv = true in site.toml; else ask for the --gres that the site's manual names",
    )


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return ": " + " / ".join(lines[-LAST:]) if lines else ", not even a log"
