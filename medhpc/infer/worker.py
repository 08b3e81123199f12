"""A task of a job array: its share of what is missing, in one run or several; it ends well when it is told to.

Nothing here imports torch before there is a tile to compute: a task with nothing to do ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from medhpc.errors import MedhpcError
from medhpc.infer.task import InferResult, infer
from medhpc.run import Run
from medhpc.run.missing import host_is_suspect, leave_share, missing_tiles, take_share
from medhpc.run.share import share


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """What one task did."""

    tiles: int  # in its share, and in those it took over
    runs: tuple[InferResult, ...]  # where it had something to do
    left: int  # tiles of its share for the next round: it was told to stop, or its host is suspect
    failed: int
    errors: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def work(
    runs: Sequence[str | Path],
    *,
    task: str,
    missing: str | Path,
    device: str = "auto",
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> WorkResult:
    """Compute a share of the tiles that are missing.

    A host on which several tiles have failed gets one tile as a trial; if that fails too, the rest is left: to tasks
    of this round on other hosts, which take such shares when their own are done, and to the next round.

    Parameters
    ----------
    runs : sequence of paths
        Run folders, the same for all tasks. One that is not planned (its plan failed) is passed over.
    task : str
        ``"K/N"``: the K-th (from 1) of N equal shares.
    missing : path
        The list of missing tiles that all tasks share; the first of them writes it. See
        :func:`medhpc.run.missing.missing_tiles`.
    device, threads, stop, progress, note
        As for :func:`medhpc.infer.infer`.

    Raises
    ------
    BadOption, NotARun
    SourceChanged, NetworkChanged, DiskFull
        Of one run; what is done is kept, and all that can be done of the other runs is done.
    """
    opened = [Run(run) for run in runs if len(runs) == 1 or (Path(run) / "plan.json").exists()]
    lists = missing_tiles(opened, Path(missing))
    compute = partial(infer, device=device, threads=threads, stop=stop, note=note)
    done: list[InferResult] = []
    refused: dict[str, MedhpcError] = {}  # runs that cannot be computed: their volume was changed, say
    mine: str | None = task
    total = 0
    while mine:
        shares = share(lists, mine)
        total += sum(map(len, shares))
        given_up = False
        for run, tiles in zip(opened, shares, strict=True):
            if not tiles or stop() or str(run.folder) in refused:
                continue
            counted = _after(sum(result.tiles for result in done), len(tiles), total, progress)
            try:
                results = _compute(run, tiles, partial(compute, progress=counted), stop)
            except MedhpcError as error:  # the other runs have their tiles computed all the same
                refused[str(run.folder)] = error
                continue
            given_up |= sum(result.tiles for result in results) < len(tiles)
            done += results
        if given_up:
            leave_share(Path(missing), mine)
        mine = None if given_up or stop() else take_share(Path(missing))
    _raise(list(refused.values()), note)
    finished = sum(result.computed + result.skipped + result.failed for result in done)
    return WorkResult(
        tiles=total,
        runs=tuple(done),
        left=total - finished,
        failed=sum(result.failed for result in done),
        errors=tuple(dict.fromkeys(error for result in done for error in result.errors)),
    )


def _raise(errors: list[MedhpcError], note: Callable[[str], None] | None) -> None:
    """End with the last error, if there is one; tell the others before."""
    for error in errors[:-1]:
        if note:
            note(str(error))
    if errors:
        raise errors[-1]


def _compute(
    run: Run, tiles: list[int], compute: Callable[..., InferResult], stop: Callable[[], bool]
) -> list[InferResult]:
    """Compute tiles; on a suspect host the first as a trial, and the others only if it does not fail."""
    pieces = [tiles[:1], tiles[1:]] if host_is_suspect(run) else [tiles]
    results: list[InferResult] = []
    for piece in filter(None, pieces):
        results.append(compute(run.folder, tiles=piece, keep_going=True))
        if results[-1].failed or stop():
            break
    return results


def _after(
    before: int, tiles: int, total: int, progress: Callable[[int, int], None] | None
) -> Callable[[int, int], None] | None:
    """Count the tiles of one run on top of those of the runs before it."""
    return None if progress is None else lambda done, of: progress(before + done * tiles // max(of, 1), total)


@contextmanager
def ending_on_signals() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGUSR1 asks to stop after the tile in work, and SIGTERM abandons it.

    SLURM sends the first some time before a time limit (``--signal=B:USR1@seconds``), and the second when a job is
    cancelled, preempted or out of time. The block gets what :func:`work` wants as `stop`. On SIGTERM, it is left by
    ``SystemExit(143)``; what is computed is committed on the way.
    """
    asked: list[int] = []

    def finish(number: int, _: FrameType | None) -> None:
        asked.append(number)

    def abandon(number: int, _: FrameType | None) -> None:
        asked.append(number)
        raise SystemExit(128 + number)

    before = {name: signal.signal(name, act) for name, act in ((signal.SIGUSR1, finish), (signal.SIGTERM, abandon))}
    try:
        yield lambda: bool(asked)
    finally:
        for name, act in before.items():
            signal.signal(name, act)
