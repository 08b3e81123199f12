"""What SLURM knows of a run's jobs now: one question for all of them, and no more than one in half a minute."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import MedhpcError
from medhpc.jobs.chain import Step
from medhpc.jobs.slurm import Job, my_jobs
from medhpc.jobs.submission import JOBS, Submission, submissions
from medhpc.run import Run
from medhpc.run.durable import write_durably
from medhpc.run.missing import listed
from medhpc.run.share import share

FRESH = 30.0  # seconds for which an answer is not asked for again, by any process
CACHE = "squeue.json"
RUNNING = ("RUNNING", "COMPLETING", "STOPPED", "SUSPENDED")


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A job that is running or waiting; of an array that waits, all indices in one."""

    id: str
    step: str
    state: str
    hosts: str
    reason: str  # why it waits
    log: str  # path; "" before it has one


@dataclass(frozen=True, kw_only=True)
class Live:
    """The live jobs of a run, as far as they are known."""

    known: bool  # whether SLURM answered; if not, nothing can be said about jobs
    note: str  # why it is not known; "" where nothing was submitted
    jobs: tuple[LiveJob, ...]
    running_tiles: NDArray[np.bool_]  # in the share of a task that runs
    waiting_tiles: NDArray[np.bool_]  # in the share of a task that waits
    asked_at: float  # seconds since 1970


def forget(run: str | Path) -> None:
    """Let the next :func:`live` ask anew: what jobs there are has just changed."""
    (Path(run) / JOBS / CACHE).unlink(missing_ok=True)


def live(run: Run) -> Live:
    """Ask for the live jobs of a run."""
    running, waiting = (np.zeros(len(run.plan.grid), bool) for _ in range(2))
    ours = {
        one.comment(step): (one, step)
        for one in submissions(run.folder)
        if one.cluster == "slurm" and not (one.cancelled and one.complete)
        for step in one.steps
    }
    answer, note = _Answer(jobs=(), asked_at=time.time()), ""
    if ours:
        try:
            answer = _asked(run.jobs / CACHE)
        except MedhpcError as error:
            note = str(error)
    found = [(job, *ours[job.comment]) for job in answer.jobs if job.comment in ours]
    lists = {file: _list(Path(file)) for file in {step.missing for _, _, step in found if step.missing}}
    for job, _, step in found:
        if step.missing:
            _mark(running if job.state in RUNNING else waiting, run, job, step, lists[step.missing])
    return Live(
        known=bool(ours) and not note,
        note=note,
        jobs=tuple(_live_job(*each) for each in found),
        running_tiles=running,
        waiting_tiles=waiting,
        asked_at=answer.asked_at,
    )


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """The user's jobs of medhpc, and when SLURM was asked for them."""

    jobs: tuple[Job, ...]
    asked_at: float


def _asked(cache: Path) -> _Answer:
    """What SLURM says, or said half a minute ago."""
    try:
        content = json.loads(cache.read_text())
        if 0 <= time.time() - content["asked_at"] < FRESH:
            jobs = tuple(Job(**{**job, "indices": tuple(job["indices"])}) for job in content["jobs"])
            return _Answer(jobs=jobs, asked_at=content["asked_at"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer yet, or one that another version wrote: ask again
    now = time.time()
    answer = _Answer(jobs=tuple(job for job in my_jobs() if job.comment.startswith("medhpc ")), asked_at=now)
    with suppress(MedhpcError, OSError):  # who may only read the run can look at it all the same
        cache.parent.mkdir(exist_ok=True)
        write_durably(cache, json.dumps(asdict(answer)).encode())
    return answer


def _live_job(job: Job, submission: Submission, step: Step) -> LiveJob:
    # What waits has no log, and an array that waits may have an id longer than a file name may be.
    log = submission.log(step.name, job.id) if job.state in RUNNING else None
    return LiveJob(
        id=job.id,
        step=step.name,
        state=job.state,
        hosts=job.hosts,
        reason=job.reason,
        log=str(log) if log and log.exists() else "",
    )


def _list(file: Path) -> dict[str, list[int]] | None:
    """The tiles that the tasks of an array share, by run; None before there is a list."""
    try:
        return listed(file)
    except FileNotFoundError:
        return None


def _mark(tiles: NDArray[np.bool_], run: Run, job: Job, step: Step, lists: dict[str, list[int]] | None) -> None:
    """Mark the tiles of this run in the share of a job's tasks; before there is a list, all may be in it."""
    place = str(run.folder.resolve())
    if lists is None:
        tiles[:] = True
    elif place in lists:
        tiles[list(_shared(list(lists), list(lists.values()), place, job.indices or (0,), step))] = True


def _shared(
    runs: Sequence[str], lists: Sequence[list[int]], run: str, indices: Iterable[int], step: Step
) -> Iterable[int]:
    for index in indices:
        yield from share(lists, f"{step.offset + index + 1}/{step.of}")[runs.index(run)]
