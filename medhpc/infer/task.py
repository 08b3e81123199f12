"""One task: a range of tiles, read ahead, computed one after the other, written behind.

::

    reader thread     read 0 | read 1 | read 2 | ...
    this thread              | predict 0 | predict 1 | ...
    writer threads                       | commit 0 | commit 2 | ...
                                                     | commit 1 | ...

At most two tiles wait before and behind the computing, whatever the number of tiles. There are two writers, so that
one encodes while the other waits for the disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medhpc.geometry import Tile
from medhpc.infer.clock import AHEAD, Clock, read_ahead
from medhpc.infer.results import WRITERS, InferResult, Tally
from medhpc.run import Run, select
from medhpc.run.blocks import read_block
from medhpc.volume import Volume

if TYPE_CHECKING:
    import torch

    from medhpc.engine import Engine
    from medhpc.ranks.group import Ranks


@dataclass
class _Read:
    """A tile on its way to the computing."""

    tile: Tile
    began: float
    done: bool = False  # the ledger proves it
    damaged: bool = False  # the ledger claims it, its stored bytes are others
    block: np.ndarray | None = None
    error: Exception | None = None  # it could not be read


def infer(
    run: str | Path,
    *,
    network: torch.nn.Module | None = None,
    task: str | None = None,
    tiles: str | Sequence[int] | None = None,
    device: str = "auto",
    threads: int | None = None,
    keep_going: bool = False,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
    ranks: Ranks | None = None,
) -> InferResult:
    """Compute the tiles of a run that are not done yet; calling it again is the resume.

    Parameters
    ----------
    run : path
        A run folder made by :func:`medhpc.tiling.tile`.
    network : torch.nn.Module, optional
        The network of the plan, where it was given from Python and has no file.
    task : str, optional
        ``"K/N"``: the K-th (from 1) of N equal parts of all tiles, for array jobs.
    tiles : str or sequence of int, optional
        ``"A:B"``: tiles A to B - 1; or their numbers.
    device, threads
        As for :func:`medhpc.engine.load`; the engine is the plan's.
    keep_going : bool
        Go on with the other tiles where one ends in an exception (which the ledger keeps); else it is raised.
    stop : callable, optional
        Asked before each tile; once it says True, the tiles in work are finished and no other is begun.
    progress : callable, optional
        Called with (tiles finished, tiles in the range); of columns with (planes finished, planes to do).
    note : callable, optional
        Called with a line on what could be better, before the first tile.
    ranks : Ranks, optional
        Processes that share the planes of columns; see :func:`medhpc.ranks.group.joined`.

    Raises
    ------
    SourceChanged, NetworkChanged
        Input or network are not those of the plan.
    NonFinite, BrokenFile
        A tile's input cannot be used.
    NoEngine
        The plan's engine cannot be had here.
    DiskFull
        What is done is kept.
    """
    began, clock = time.monotonic(), Clock(ranks)
    opened = Run(run)
    chosen = select(len(opened.plan.grid), task, tiles) if tiles is None or isinstance(tiles, str) else tiles

    def load() -> Engine:
        from medhpc.infer.loading import load_engine

        return load_engine(opened, network, device, threads, note)

    with opened.open_source() as source, closing(opened.ledger):
        if opened.plan.sweep:
            from medhpc.infer.columns import compute_columns

            tally = compute_columns(opened, source, chosen, load, clock, keep_going, stop, progress, ranks)
        else:
            tally = _compute(opened, source, chosen, load, clock, keep_going, stop, progress)
    return tally.result(run, len(chosen), time.monotonic() - began, clock.of_all_ranks())


def _compute(
    run: Run,
    source: Volume,
    chosen: Sequence[int],
    load: Callable[[], Engine],
    clock: Clock,
    keep_going: bool,
    stop: Callable[[], bool] | None,
    progress: Callable[[int, int], None] | None,
) -> Tally:
    """Compute tiles by themselves."""
    tally = Tally()
    with (
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(WRITERS, "write") as writer,
        closing(read_ahead(reader, _reading(run, source, chosen), chosen, clock)) as reads,
    ):
        compute = _computing(load(), run)
        clock.begin()
        run.sweep()
        writing: deque[Future[None]] = deque()
        for read in reads:
            if not read.done:
                try:
                    with clock.part("compute"):
                        values = compute(read)
                except Exception as error:
                    run.fail(read.tile, error)
                    if not keep_going:
                        raise
                    tally.fail(error)
                else:
                    writing.append(writer.submit(clock.beside, "writing", run.commit, read.tile, values, read.began))
                    tally.add(read.tile, damaged=read.damaged)
            while len(writing) > AHEAD or writing and writing[0].done():
                clock.wait("write", writing.popleft())
            tally.finished += 1
            if progress:
                progress(tally.finished - len(writing), len(chosen))
            if stop and stop():
                break
        for future in writing:
            clock.wait("write", future)
    if progress:
        progress(tally.finished, len(chosen))
    return tally


def _computing(engine: Engine, run: Run) -> Callable[[_Read], np.ndarray]:
    """What turns a tile that was read into the values to store."""
    from medhpc.infer.predict import predict

    def compute(read: _Read) -> np.ndarray:
        if read.error:
            raise read.error
        assert read.block is not None
        return predict(engine, run.plan, read.tile, read.block)

    return compute


def _reading(run: Run, source: Volume, chosen: Sequence[int]) -> Callable[[int], _Read]:
    """What reads a tile, unless it is done."""
    claims = run.digests(set(chosen))  # a task holds its own part of a large run

    def read(index: int) -> _Read:
        began = time.monotonic()
        tile = run.plan.grid[index]
        if run.is_done(tile, claims):
            return _Read(tile, began, done=True)
        damaged = index in claims
        try:
            block = read_block(source, run.plan.read_box(tile), run.plan.nan)
        except Exception as error:
            return _Read(tile, began, damaged=damaged, error=error)
        return _Read(tile, began, damaged=damaged, block=block)

    return read
