"""How far a run is: first its ledger, which is the truth about tiles, then its live jobs, which are hearsay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.jobs.live import Live, live
from medhpc.run import Run, Status
from medhpc.run.folder import ranges
from medhpc.run.state import status_of
from medhpc.run.tally import Tally

PATIENCE = 30.0  # seconds between two questions to SLURM: all users of a cluster ask the same controller


class TileState(IntEnum):
    """What is known of a tile, in the order of how bad that is."""

    DONE = 0  # says the ledger
    RUNNING = 1  # in the share of a task that runs
    WAITING = 2  # in the share of a task that waits
    MISSING = 3  # not done, and no job is known to be at it
    FAILED = 4  # its last record is a failure, and no task is at it again


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run and its jobs at one moment."""

    status: Status
    live: Live
    states: NDArray[np.uint8]  # TileState of every tile, (z, y, x) of the tile grid

    def count(self, state: TileState) -> int:
        """How many tiles are in that state."""
        return int(np.count_nonzero(self.states == state))

    @property
    def at_work(self) -> bool:
        """Whether jobs of this run are known to run or to wait."""
        return bool(self.live.jobs)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; tiles as ranges."""
        jobs = [vars(job) for job in self.live.jobs]
        states = {
            state.name.lower(): ranges(np.flatnonzero(self.states == state).tolist())
            for state in (TileState.RUNNING, TileState.WAITING, TileState.FAILED)
        }
        told = {"known": self.live.known, "note": self.live.note, "asked_at": self.live.asked_at, "jobs": jobs}
        return self.status.as_dict() | {f"{name}_tiles": tiles for name, tiles in states.items()} | {"live": told}


class Watch:
    """A run that is looked at again and again: the ledger is read on from where it was, SLURM is asked rarely.

    Parameters
    ----------
    run : path

    Raises
    ------
    NotARun
    """

    def __init__(self, run: str | Path) -> None:
        self.run = Run(run)
        self._tally = Tally(self.run)
        self._live: Live | None = None

    def look(self, *, verify: bool = False, report: Callable[[int, int], None] | None = None) -> Progress:
        """How far the run is now; parameters as for :func:`progress`."""
        if self._live is None or time.time() - self._live.asked_at >= PATIENCE:
            self._live = live(self.run)
        # The ledger last: a tile that gets done between the two questions is done.
        self._tally.update()
        status = status_of(self.run, self._tally, verify=verify, progress=report)
        states = tile_states(self._tally.done, self._tally.has_failed, self._live)
        return Progress(status=status, live=self._live, states=states.reshape(self.run.plan.grid.counts))


def progress(run: str | Path, *, verify: bool = False, report: Callable[[int, int], None] | None = None) -> Progress:
    """How far a run is, and what its jobs are doing.

    Parameters
    ----------
    run : path
        The run folder.
    verify : bool
        Reread the stored bytes of every tile and compare their digests, instead of trusting the records.
    report : callable, optional
        Called with (tiles verified, tiles to verify).

    Raises
    ------
    NotARun
    """
    return Watch(run).look(verify=verify, report=report)


def tile_states(done: NDArray[np.bool_], failed: NDArray[np.bool_], jobs: Live) -> NDArray[np.uint8]:
    """The :class:`TileState` of every tile; all arrays have one element a tile."""
    states = np.full(len(done), TileState.MISSING, np.uint8)
    states[jobs.waiting_tiles] = TileState.WAITING
    states[failed] = TileState.FAILED
    states[jobs.running_tiles] = TileState.RUNNING
    states[done] = TileState.DONE
    return states
