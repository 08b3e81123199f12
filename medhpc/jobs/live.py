"""What SLURM knows of runs' jobs now: one question for all of them, and no more than one in half a minute."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
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
KINDS = ("plan", "infer", "repair", "stitch")  # of steps, in the order in which they wait for each other
COMMENT = re.compile(
    r"^medhpc (?:run=(?P<run>[0-9a-f]+) )?(?:submission=.* )?step=(?P<step>(?:plan|infer|repair|stitch)\S*)$", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The jobs of medhpc that wait or run, whatever their runs."""

    known: bool  # whether SLURM answered; if not, nothing can be said about jobs
    note: str  # why it did not; "" where nothing was submitted either
    jobs: tuple[Job, ...]
    asked_at: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class Found:
    """A job in the queue, and where it comes from."""

    job: Job
    name: str  # of its step
    chain: Submission | None  # None for what was submitted by hand, with the scripts of `medhpc script`
    step: Step | None

    @property
    def order(self) -> tuple[int, str, str]:
        """Of jobs, the order in which they wait for each other."""
        return KINDS.index(self.name.partition("-")[0]), self.name, self.job.id

    def concerns(self, place: str) -> bool:
        """Whether it is for the run at this path: an array that plans or stitches has a task for each."""
        if self.step is None or self.step.missing:
            return True
        return any(self.step.targets[index].run == place for index in self.job.indices or (0,))


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A job that is running or waiting; of an array that waits, all indices in one."""

    id: str
    step: str
    state: str
    hosts: str
    reason: str  # why it waits
    log: str  # path; "" before it has one
    by_hand: bool = False  # not by `medhpc submit`: which tiles it shares is not known

    @property
    def running(self) -> bool:
        """Whether it has begun."""
        return self.state in RUNNING

    @property
    def kind(self) -> str:
        """What it does: "plan", "infer", "repair" or "stitch"."""
        return self.step.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Live:
    """The live jobs of a run, as far as they are known."""

    known: bool
    note: str
    jobs: tuple[LiveJob, ...]
    running_tiles: NDArray[np.bool_]  # in the share of a task that runs
    waiting_tiles: NDArray[np.bool_]  # in the share of a task that waits
    asked_at: float
    cancelled: bool = False  # by `medhpc cancel`, and not submitted again


# --- the question --------------------------------------------------------------------------------


def slurm_is_here() -> bool:
    """Whether this machine has SLURM's programs."""
    return shutil.which("squeue") is not None


def forget(place: str | Path) -> None:
    """Let the next :func:`ask` ask anew: what jobs there are has just changed."""
    (Path(place) / JOBS / CACHE).unlink(missing_ok=True)


def ask(place: Path, chains: Sequence[Submission]) -> Queue:
    """What SLURM says, or said half a minute ago.

    Parameters
    ----------
    place : path
        A run, or a folder of several: the answer is kept there.
    chains : sequence of Submission
        What was submitted. Where nothing was, something may have been by hand: SLURM is asked if it is there, and if it
        does not answer, that is no matter.
    """
    submitted = any(one.cluster == "slurm" for one in chains)
    note = ""
    if submitted or slurm_is_here():
        try:
            jobs, asked_at = _answer(place / JOBS / CACHE)
            return Queue(known=True, note="", jobs=jobs, asked_at=asked_at)
        except MedhpcError as error:
            note = str(error) if submitted else ""
    return Queue(known=False, note=note, jobs=(), asked_at=time.time())


def _answer(cache: Path) -> tuple[tuple[Job, ...], float]:
    """The jobs, and when SLURM was asked for them."""
    try:
        content = json.loads(cache.read_text())
        if 0 <= time.time() - content["asked_at"] < FRESH:
            jobs = tuple(Job(**{**job, "indices": tuple(job["indices"])}) for job in content["jobs"])
            return jobs, content["asked_at"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer yet, or one that another version wrote: ask again
    now = time.time()
    jobs = tuple(job for job in my_jobs() if job.comment.startswith("medhpc "))
    with suppress(MedhpcError, OSError):  # who may only read the run can look at it all the same
        cache.parent.mkdir(exist_ok=True)
        write_durably(cache, json.dumps({"jobs": [asdict(job) for job in jobs], "asked_at": now}).encode())
    return jobs, now


def among(jobs: Iterable[Job], chains: Iterable[Submission], ids: Collection[str]) -> list[Found]:
    """The jobs of these submissions, and all others whose comment names a run of these ids."""
    ours = {one.comment(step): (one, step) for one in chains if one.cluster == "slurm" for step in one.steps}
    found = []
    for job in jobs:
        told = COMMENT.match(job.comment)
        chain, step = ours.get(job.comment, (None, None))
        if told and (step or told["run"] in ids):
            found.append(Found(job=job, name=told["step"], chain=chain, step=step))
    return found


# --- the answer for a run ------------------------------------------------------------------------


def live(run: Run) -> Live:
    """Ask for the live jobs of a run."""
    chains = submissions(run.folder)
    return live_of(run.folder, run, chains, ask(run.folder, chains))


def live_of(place: Path, run: Run | None, chains: Sequence[Submission], queue: Queue) -> Live:
    """What is in the queue for the run at `place`, whose plan (`run`) may not be there yet.

    Parameters
    ----------
    place : path
    run : Run or None
    chains : sequence of Submission
        Those that have to do with it.
    queue : Queue
    """
    ours = [each for each in among(queue.jobs, chains, {run.id} if run else ()) if not _is_being_cancelled(each)]
    found = sorted((each for each in ours if each.concerns(str(place.resolve()))), key=lambda each: each.order)
    running, waiting = _tiles(run, found) if run else (np.zeros(0, bool), np.zeros(0, bool))
    return Live(
        known=queue.known,
        note=queue.note,
        jobs=tuple(map(_live_job, found)),
        running_tiles=running,
        waiting_tiles=waiting,
        asked_at=queue.asked_at,
        cancelled=bool(chains) and bool(chains[-1].cancelled),
    )


def _is_being_cancelled(found: Found) -> bool:
    """Whether nothing comes of it any more: its processes are being ended."""
    return found.job.state == "COMPLETING" and found.chain is not None and bool(found.chain.cancelled)


def _live_job(found: Found) -> LiveJob:
    job = found.job
    # What waits has no log, and an array that waits may have an id longer than a file name may be.
    log = found.chain.log(found.name, job.id) if found.chain and job.state in RUNNING else None
    return LiveJob(
        id=job.id,
        step=found.name,
        state=job.state,
        hosts=job.hosts,
        reason=job.reason,
        log=str(log) if log and log.exists() else "",
        by_hand=found.chain is None,
    )


def _tiles(run: Run, found: Sequence[Found]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tiles are in the shares of tasks that run, and of tasks that wait."""
    running, waiting = (np.zeros(len(run.plan.grid), bool) for _ in range(2))
    shared = [(each.job, each.step) for each in found if each.step and each.step.missing]
    lists = {file: _list(Path(file)) for file in {step.missing for _, step in shared}}
    for job, step in shared:
        _mark(running if job.state in RUNNING else waiting, run, job, step, lists[step.missing])
    return running, waiting


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
