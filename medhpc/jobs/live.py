"""What SLURM knows of a run's jobs now."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhpc.run import Run


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
    note: str  # why it is not known
    jobs: tuple[LiveJob, ...]
    running_tiles: NDArray[np.bool_]  # in the share of a task that runs
    waiting_tiles: NDArray[np.bool_]  # in the share of a task that waits
    asked_at: float  # seconds since 1970


def live(run: Run) -> Live:
    """Ask for the live jobs of a run."""
    nowhere = np.zeros(len(run.plan.grid), bool)
    return Live(
        known=False, note="", jobs=(), running_tiles=nowhere, waiting_tiles=nowhere.copy(), asked_at=time.time()
    )
