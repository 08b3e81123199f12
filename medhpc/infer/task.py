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
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medhpc.errors import BadOption, NetworkChanged
from medhpc.geometry import Tile
from medhpc.run import Run, select
from medhpc.run.blocks import read_block
from medhpc.volume import Volume

if TYPE_CHECKING:
    import torch

AHEAD = 2  # tiles waiting on either side of the computing
WRITERS = 2


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """What one call of :func:`infer` did."""

    run: str
    tiles: int  # in the range asked for
    computed: int
    skipped: int  # the ledger proved them done
    repaired: int  # of the computed: the ledger said done, the stored bytes were damaged or gone
    failed: int  # ended in an exception
    errors: tuple[str, ...]  # of these, each once
    left: int  # not begun: it was told to stop
    seconds: float
    voxels: int  # written

    @property
    def runs(self) -> tuple[InferResult, ...]:
        """Itself, as the result of a task that shares several runs has them."""
        return (self,)

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass
class _Read:
    """A tile on its way to the computing."""

    tile: Tile
    began: float
    done: bool = False  # the ledger proves it
    damaged: bool = False  # the ledger claims it, its stored bytes are others
    block: np.ndarray | None = None
    error: Exception | None = None  # it could not be read


@dataclass
class _Tally:
    """What has been done so far."""

    finished: int = 0
    computed: int = 0
    repaired: int = 0
    voxels: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, read: _Read) -> None:
        """Count a tile that was computed."""
        self.computed += 1
        self.repaired += read.damaged
        self.voxels += read.tile.write.size

    def result(self, run: str | Path, tiles: int, seconds: float) -> InferResult:
        """The sum, for `tiles` asked for."""
        return InferResult(
            run=str(run),
            tiles=tiles,
            computed=self.computed,
            skipped=self.finished - self.computed - len(self.errors),
            repaired=self.repaired,
            failed=len(self.errors),
            errors=tuple(dict.fromkeys(self.errors)),
            left=tiles - self.finished,
            seconds=seconds,
            voxels=self.voxels,
        )


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
        Called with (tiles finished, tiles in the range).
    note : callable, optional
        Called with a line on what could be better, before the first tile.

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
    began = time.monotonic()
    opened = Run(run)
    chosen = select(len(opened.plan.grid), task, tiles) if tiles is None or isinstance(tiles, str) else tiles
    tally = _Tally()
    with (
        opened.open_source() as source,
        closing(opened.ledger),
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(WRITERS, "write") as writer,
        closing(_read_ahead(reader, opened, source, chosen)) as reads,
    ):
        compute = _load(opened, network, device, threads, note)
        opened.sweep()
        writing: deque[Future[None]] = deque()
        for read in reads:
            if not read.done:
                try:
                    values = compute(read)
                except Exception as error:
                    opened.fail(read.tile, error)
                    if not keep_going:
                        raise
                    tally.errors.append(f"{type(error).__name__}: {error}")
                else:
                    writing.append(writer.submit(opened.commit, read.tile, values, read.began))
                    tally.add(read)
            while len(writing) > AHEAD or writing and writing[0].done():
                writing.popleft().result()
            tally.finished += 1
            if progress:
                progress(tally.finished - len(writing), len(chosen))
            if stop and stop():
                break
        for future in writing:
            future.result()
    if progress:
        progress(tally.finished, len(chosen))
    return tally.result(run, len(chosen), time.monotonic() - began)


def _load(
    run: Run,
    network: torch.nn.Module | None,
    device: str,
    threads: int | None,
    note: Callable[[str], None] | None,
) -> Callable[[_Read], np.ndarray]:
    """What turns a tile that was read into the values to store; torch is imported here, and not sooner."""
    import torch

    from medhpc import engine as engines
    from medhpc.infer.predict import predict

    engine = engines.load(_network(run, network), name=run.plan.cost.engine, device=device, threads=threads)
    if note and not run.plan.cost.can_use_gpus and torch.cuda.is_available():
        note(
            f"a GPU is here, but the plan is for CPUs (engine '{engine.name}'); to compute on GPUs, "
            "plan again with --engine torch"
        )

    def compute(read: _Read) -> np.ndarray:
        if read.error:
            raise read.error
        assert read.block is not None
        return predict(engine, run.plan, read.tile, read.block)

    return compute


def _network(run: Run, given: torch.nn.Module | None) -> torch.nn.Module:
    from medhpc import nets

    planned = run.plan.network
    if given is None and not planned.path:
        raise BadOption(f"the network of {run.folder} was given from Python; call infer(run, network=...) with it")
    source = planned.path if given is None else given
    if nets.digest(source) != planned.digest:
        raise NetworkChanged(
            f"{planned.path or 'the network'} is not the one that {run.folder} was planned for; "
            "put the old one back, or plan a new run"
        )
    return nets.load(planned.path) if given is None else given


def _read_ahead(
    reader: ThreadPoolExecutor, run: Run, source: Volume, chosen: Sequence[int]
) -> Generator[_Read, None, None]:
    """Tiles in order, each read while earlier ones are computed."""
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

    waiting: deque[Future[_Read]] = deque()
    try:
        for index in chosen:
            waiting.append(reader.submit(read, index))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
