"""Looking at runs, once or again and again, from their ledgers and from SLURM's queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from medhpc.errors import NotARun
from medhpc.jobs.live import Live, Queue, ask, forget, live_of
from medhpc.jobs.progress import Overview, Progress, Unplanned, View, tile_states
from medhpc.jobs.submission import Submission, of_run, submissions, submissions_in
from medhpc.jobs.why import why_failed
from medhpc.run import Run
from medhpc.run.state import status_of
from medhpc.run.tally import Tally, in_space

PATIENCE = 30.0  # seconds between two questions to SLURM: all users of a cluster ask the same controller

Report: TypeAlias = Callable[[int, int], None]


def runs_of(place: str | Path) -> list[Path]:
    """The runs that a path stands for: itself, planned or submitted, or those that were submitted to this folder.

    Raises
    ------
    NotARun
        None of these.
    """
    folder = Path(place)
    try:
        return [Run(folder).folder]
    except NotARun:
        if submissions(folder):
            return [folder]
        runs = {target.run for one in submissions_in(folder) for step in one.steps for target in step.targets}
        if not runs:
            raise
        return sorted(map(Path, runs))


def look(place: str | Path, *, verify: bool = False, report: Report | None = None) -> View:
    """How far a run is, or the runs of a folder, and what their jobs are doing.

    Parameters
    ----------
    place : path
        The run folder, or the folder that several volumes were submitted to.
    verify : bool
        Reread the stored bytes of every tile and compare their digests, instead of trusting the records.
    report : callable, optional
        Called with (tiles verified, tiles to verify), run by run.

    Raises
    ------
    NotARun
    """
    return Watch(place).look(verify=verify, report=report)


class Watch:
    """Runs that are looked at again and again: ledgers are read on from where they were, SLURM is asked rarely.

    Parameters
    ----------
    place : path
        As for :func:`look`.

    Raises
    ------
    NotARun
    """

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)
        self._runs = [_RunWatch(folder) for folder in runs_of(place)]
        self._queue: Queue | None = None
        self._chains: list[Submission] = []

    def look(self, *, verify: bool = False, report: Report | None = None) -> View:
        """How far they are now; parameters as for :func:`medhpc.jobs.watch.look`."""
        for run in self._runs:
            run.read()
        queue = self._ask()
        found = tuple(run.look(self._chains, queue, verify, report) for run in self._runs)
        if [self.place] == [run.folder for run in self._runs]:
            return found[0]
        return Overview(folder=str(self.place), runs=found)

    def _ask(self) -> Queue:
        if self._queue is None or time.time() - self._queue.asked_at >= PATIENCE or self._has_news(self._queue):
            # A submission of several volumes lies beside their runs.
            places = dict.fromkeys(
                (self.place.resolve(), self.place.resolve().parent, *(run.folder for run in self._runs))
            )
            self._chains = [one for place in places for one in submissions_in(place)]
            ours = [one for run in self._runs for one in of_run(run.folder.resolve(), self._chains)]
            self._queue = ask(self.place, ours)
            if self._has_news(self._queue):
                forget(self.place)
                self._queue = ask(self.place, ours)
        return self._queue

    def _has_news(self, queue: Queue) -> bool:
        """Whether a step has ended since SLURM was asked: its job is about to end, if it has not yet."""
        return any(queue.asked_at < when <= time.time() for run in self._runs for when in run.turns())


class _RunWatch:
    """One of them, planned or not yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._planned: tuple[Run, Tally] | None = None
        self._live: tuple[Queue, Live] | None = None

    def turns(self) -> list[float]:
        """When it was planned, when its last tile was stored, and when its result was, as far as they are."""
        files = [self.folder / name for name in ("plan.json", "results.json")]
        ended = [file.stat().st_mtime for file in files if file.exists()]
        if self._planned and (tally := self._planned[1]).done.all():
            ended.append(float(tally.committed.max()))
        return ended

    def read(self) -> None:
        """Read what is new in its folder."""
        if self._planned is None and (self.folder / "plan.json").exists():
            run = Run(self.folder)
            self._planned, self._live = (run, Tally(run)), None
        if self._planned:
            self._planned[1].update()

    def look(
        self, chains: Sequence[Submission], queue: Queue, verify: bool, report: Report | None
    ) -> Progress | Unplanned:
        ours = of_run(self.folder.resolve(), chains)
        if self._live is None or self._live[0] is not queue:
            self._live = queue, live_of(self.folder, self._planned and self._planned[0], ours, queue)
        live = self._live[1]
        if self._planned is None:
            log, why = _log_of_planning(self.folder, ours), why_failed(self.folder.resolve(), ours, "plan")
            return Unplanned(run=str(self.folder), live=live, log=log, why=why)
        run, tally = self._planned
        # The ledger last: a tile that gets done between the two questions is done.
        status = status_of(run, tally.update(), verify=verify, progress=report)
        states = tile_states(tally.done, tally.has_failed, live)
        found = Progress(
            status=status,
            live=live,
            states=in_space(states, run.plan.grid),
            submitted=frozenset(job for one in ours if one.cluster == "slurm" for job in one.jobs.values()),
            looked_at=time.time(),
        )
        if found.at_work or live.cancelled or status.cleaned or status.missing == status.failed > 0:
            return found
        place = self.folder.resolve()
        if status.missing:
            return replace(found, why=why_failed(place, ours, "infer", "repair"))
        if status.result:
            return found
        return replace(found, why=why_failed(place, ours, "stitch", since=status.recorded_at))


def _log_of_planning(folder: Path, chains: Sequence[Submission]) -> str:
    """What the last job that was to plan a run has printed; "" where there is none."""
    places = [
        one.log(step.name, f"{one.jobs[step.name]}_{index}" if step.is_array else one.jobs[step.name])
        for one in chains
        for step in one.steps
        if step.kind == "plan" and step.name in one.jobs
        for index, target in enumerate(step.targets)
        if target.run == str(folder.resolve())
    ]
    return next((str(log) for log in reversed(places) if log.exists()), "")
