"""How far runs are: first their ledgers, which are the truth about tiles, then their live jobs, which are hearsay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medhpc.jobs.live import Live
from medhpc.jobs.why import Why
from medhpc.run import Status
from medhpc.run.folder import ranges

LATELY = 60.0  # seconds for which a record tells that somebody is at work; longer where tiles take longer


class TileState(IntEnum):
    """What is known of a tile, in the order of how bad that is."""

    DONE = 0  # says the ledger
    RUNNING = 1  # in the share of a task that runs
    WAITING = 2  # in the share of a task that waits
    MISSING = 3  # not done, and no job is known to be at it
    FAILED = 4  # its last record is a failure, and no task is at it again


class Phase(StrEnum):
    """Where a run is on its way."""

    TO_PLAN = "to be planned"
    PLANNING = "being planned"
    NO_PLAN = "not planned"  # and no job is there that will
    PLAN_FAILED = "planning failed"
    NOT_BEGUN = "not begun"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"  # tiles are missing, and nobody is seen at work
    CANCELLED = "cancelled"  # the same, by `medhpc cancel`
    UNKNOWN = "unknown"  # something is missing, and SLURM does not say whether there are jobs
    TO_STITCH = "to be stitched"
    STITCHING = "being stitched"
    COMPUTED = "all tiles done"  # and no job is there that stitches them
    READY = "ready"
    CLEANED = "cleaned"


def tile_states(done: NDArray[np.bool_], failed: NDArray[np.bool_], jobs: Live) -> NDArray[np.uint8]:
    """The :class:`TileState` of every tile; all arrays have one element a tile."""
    states = np.full(len(done), TileState.MISSING, np.uint8)
    states[jobs.waiting_tiles] = TileState.WAITING
    states[failed] = TileState.FAILED
    states[jobs.running_tiles] = TileState.RUNNING
    states[done] = TileState.DONE
    return states


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A planned run and its jobs at one moment."""

    status: Status
    live: Live
    states: NDArray[np.uint8]  # TileState of every tile, (z, y, x) of the tile grid
    submitted: frozenset[str]  # ids of the jobs that were ever submitted to SLURM for it
    looked_at: float  # seconds since 1970
    why: Why | None = None  # what the logs of its jobs say, where nobody is at work and the ledger does not tell

    @property
    def run(self) -> str:
        """Its folder."""
        return self.status.run

    def count(self, state: TileState) -> int:
        """How many tiles are in that state."""
        return int(np.count_nonzero(self.states == state))

    def tiles(self, state: TileState, most: int = 12) -> str:
        """Which tiles are in that state, as ranges."""
        return ranges(np.flatnonzero(self.states == state), most)

    @property
    def at_work(self) -> bool:
        """Whether jobs run or wait, or a tile was recorded lately, as where `medhpc infer` was started by hand."""
        return bool(self.live.jobs) or self.is_recent

    @property
    def is_recent(self) -> bool:
        """Whether tiles are missing, and one was recorded lately, by a job that was not submitted or may still run."""
        status, live = self.status, self.live
        is_submitted = status.seen_in.partition("_")[0] in self.submitted
        has_ended = live.known and (live.cancelled or status.seen_at < live.asked_at)
        if status.done == status.total or (is_submitted and has_ended):
            return False
        slowest = max((host.seconds for host in status.hosts), default=0.0)
        return self.looked_at - status.seen_at < max(LATELY, 3 * slowest)

    @property
    def eta_seconds(self) -> float | None:
        """Until all tiles are done; None while none is computed."""
        is_computed = self.is_recent or any(job.running for job in self.live.jobs)
        return self.status.eta_seconds if is_computed else None

    @property
    def phase(self) -> Phase:
        """Where the run is."""
        status, jobs = self.status, self.live.jobs
        if status.cleaned:
            return Phase.CLEANED
        if status.done == status.total:
            return self._phase_of_stitch
        if self.is_recent or any(job.running for job in jobs):
            return Phase.RUNNING
        if jobs:
            return Phase.WAITING
        if self.live.note:
            return Phase.UNKNOWN
        if self.live.cancelled:
            return Phase.CANCELLED
        return Phase.STOPPED if self.submitted or status.recorded_at or self.why else Phase.NOT_BEGUN

    @property
    def _phase_of_stitch(self) -> Phase:
        stitches = [job.running for job in self.live.jobs if job.kind == "stitch"]
        if stitches:
            return Phase.STITCHING if any(stitches) else Phase.TO_STITCH
        if self.status.result:
            return Phase.READY
        return Phase.UNKNOWN if self.live.note else Phase.COMPUTED

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; tiles as ranges."""
        states = {
            f"{state.name.lower()}_tiles": self.tiles(state)
            for state in (TileState.RUNNING, TileState.WAITING, TileState.FAILED)
        }
        told = {"planned": True, "phase": self.phase, "eta_seconds": self.eta_seconds, "live": _told(self.live)}
        return self.status.as_dict() | states | told | {"why": self.why and vars(self.why)}


@dataclass(frozen=True, kw_only=True)
class Unplanned:
    """A run that was submitted before it has a plan."""

    run: str
    live: Live
    log: str  # of the job that was to plan it; "" where there is none
    why: Why | None = None  # what that log says

    @property
    def at_work(self) -> bool:
        """Whether jobs of it run or wait."""
        return bool(self.live.jobs)

    @property
    def phase(self) -> Phase:
        """Where the run is."""
        planning = [job.running for job in self.live.jobs if job.kind == "plan"]
        if planning:
            return Phase.PLANNING if any(planning) else Phase.TO_PLAN
        if self.live.note:
            return Phase.UNKNOWN
        if self.live.cancelled:
            return Phase.CANCELLED
        return Phase.PLAN_FAILED if self.log else Phase.NO_PLAN

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        known = {"run": self.run, "planned": False, "phase": self.phase, "log": self.log}
        return known | {"why": self.why and vars(self.why), "live": _told(self.live)}


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The runs of a folder that several volumes were submitted to."""

    folder: str
    runs: tuple[Progress | Unplanned, ...]

    @property
    def live(self) -> Live:
        """The jobs of all."""
        jobs = {job.id: job for run in self.runs for job in run.live.jobs}
        first, none = self.runs[0].live, np.zeros(0, bool)
        return Live(
            known=first.known,
            note=first.note,
            jobs=tuple(jobs.values()),
            running_tiles=none,
            waiting_tiles=none,
            asked_at=first.asked_at,
        )

    @property
    def at_work(self) -> bool:
        """Whether any is worked at."""
        return any(run.at_work for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"folder": self.folder, "runs": [run.as_dict() for run in self.runs], "live": _told(self.live)}


def failed(found: View) -> bool:
    """Whether it ended without a result, of which somebody was to take care: a script must not go on."""
    if isinstance(found, Overview):
        return any(map(failed, found.runs))
    if found.phase == Phase.COMPUTED:
        return isinstance(found, Progress) and bool(found.submitted)
    return found.phase in (Phase.STOPPED, Phase.CANCELLED, Phase.NO_PLAN, Phase.PLAN_FAILED)


View: TypeAlias = Progress | Unplanned | Overview


def _told(live: Live) -> dict[str, Any]:
    jobs = [vars(job) for job in live.jobs]
    return {"known": live.known, "note": live.note, "asked_at": live.asked_at, "jobs": jobs}
