"""What was asked of the cluster, and what was used: from submissions and the ledger, without SLURM's accounting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhpc.jobs.chain import Step
from medhpc.jobs.submission import Submission, submissions
from medhpc.run import Run
from medhpc.run.tally import Tally, groups

NOT_SUBMITTED = "not by submit"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One round of tasks; None for what was not asked for or not measured. Tasks that stored no tile left no trace."""

    name: str  # as "infer" or "repair 1"; NOT_SUBMITTED for what no submission knows
    jobs: tuple[str, ...]
    tasks: int  # that stored a tile
    tasks_asked: int | None
    tiles: int
    memory: int  # bytes, the largest of its processes
    memory_asked: int | None
    seconds: float  # of the longest task, from its first tile's start to its last commit
    seconds_asked: int | None
    busy_seconds: float  # of all its tasks together
    cores: float | None  # processor seconds over seconds
    cores_asked: int | None


def use_of(run: Run, tally: Tally) -> list[Use]:
    """Round by round, in the order of their submission; what was started without `medhpc submit` last."""
    tiles = np.flatnonzero(tally.committed > 0)
    arrays = np.array([name.partition("_")[0] for name in tally.jobs] or [""])
    array_of_tile = arrays[tally.job[tiles]]
    uses, known = [], np.zeros(len(tiles), bool)
    for submission in submissions(run.folder):
        for name, steps in _rounds(submission):
            ids = tuple(submission.jobs[step.name] for step in steps if step.name in submission.jobs)
            mine = np.isin(array_of_tile, ids)
            known |= mine
            uses.append(_use(name, tally, tiles[mine], ids, steps))
    if not known.all():
        others = array_of_tile[~known]
        ids = tuple(sorted(set(others.tolist()) - {""}))
        uses.append(_use(NOT_SUBMITTED, tally, tiles[~known], ids, ()))
    return uses


def _rounds(submission: Submission) -> Iterator[tuple[str, list[Step]]]:
    """Infer arrays together, then each round of repair."""
    rounds: dict[str, list[Step]] = defaultdict(list)
    for step in submission.steps:
        if step.kind in ("infer", "repair"):
            rounds["infer" if step.kind == "infer" else step.name.replace("-", " ")].append(step)
    yield from rounds.items()


def _use(
    name: str, tally: Tally, tiles: NDArray[np.int64], jobs: tuple[str, ...], steps: tuple[Step, ...] | list[Step]
) -> Use:
    spans = [_span(tally, tiles[places]) for _, places in groups(tally.job[tiles])]
    measured = tiles[tally.cpu[tiles] > 0]
    wall = float(tally.seconds[measured].sum())
    asked = steps[0].resources if steps else None
    return Use(
        name=name,
        jobs=jobs,
        tasks=len(spans),
        tasks_asked=sum(step.tasks for step in steps) if steps else None,
        tiles=len(tiles),
        memory=int(tally.memory[tiles].max(initial=0)),
        memory_asked=asked.memory if asked else None,
        seconds=max(spans, default=0.0),
        seconds_asked=asked.seconds if asked else None,
        busy_seconds=float(tally.seconds[tiles].sum()),
        cores=float(tally.cpu[measured].sum()) / wall if wall > 0 else None,
        cores_asked=asked.cpus if asked else None,
    )


def _span(tally: Tally, tiles: NDArray[np.int64]) -> float:
    """Seconds from the start of the first to the commit of the last of a task's tiles."""
    ends = tally.committed[tiles]
    return float(ends.max() - (ends - tally.seconds[tiles]).min())
