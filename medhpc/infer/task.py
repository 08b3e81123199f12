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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medhpc import engine as engines
from medhpc import nets
from medhpc.errors import BadOption, NetworkChanged
from medhpc.geometry import Tile
from medhpc.infer.predict import predict
from medhpc.run import Run, select
from medhpc.run.blocks import read_block

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
    seconds: float
    voxels: int  # written

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass
class _Read:
    """A tile on its way to the computing; `block` is None where the ledger proves the tile done."""

    tile: Tile
    block: np.ndarray | None
    began: float
    damaged: bool = False


def infer(
    run: str | Path,
    *,
    network: torch.nn.Module | None = None,
    task: str | None = None,
    tiles: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    tiles : str, optional
        ``"A:B"``: tiles A to B - 1.
    device, threads
        As for :func:`medhpc.engine.load`.
    progress : callable, optional
        Called with (tiles finished, tiles in the range).

    Raises
    ------
    SourceChanged, NetworkChanged
        Input or network are not those of the plan.
    NonFinite, BrokenFile
        A tile's input cannot be used.
    DiskFull
        What is done is kept.
    """
    began = time.monotonic()
    opened = Run(run)
    chosen = select(len(opened.plan.grid), task, tiles)
    computed = repaired = voxels = finished = 0
    with (
        opened.open_source() as source,
        closing(opened.ledger),
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(WRITERS, "write") as writer,
    ):
        engine = engines.load(_network(opened, network), device=device, threads=threads)
        opened.sweep()
        writing: deque[Future[None]] = deque()
        for read in _read_ahead(reader, opened, source, chosen):
            if read.block is not None:
                values = _compute(opened, engine, read)
                writing.append(writer.submit(opened.commit, read.tile, values, read.began))
                computed, voxels = computed + 1, voxels + read.tile.write.size
                repaired += read.damaged
            while len(writing) > AHEAD or writing and writing[0].done():
                writing.popleft().result()
            finished += 1
            if progress:
                progress(finished - len(writing), len(chosen))
        for future in writing:
            future.result()
    if progress:
        progress(len(chosen), len(chosen))
    return InferResult(
        run=str(run),
        tiles=len(chosen),
        computed=computed,
        skipped=len(chosen) - computed,
        repaired=repaired,
        seconds=time.monotonic() - began,
        voxels=voxels,
    )


def _network(run: Run, given: torch.nn.Module | None) -> torch.nn.Module:
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


def _read_ahead(reader: ThreadPoolExecutor, run: Run, source: Any, chosen: range) -> Iterator[_Read]:
    """Tiles in order, each read while earlier ones are computed."""
    claims = run.digests()

    def read(index: int) -> _Read:
        began = time.monotonic()
        tile = run.plan.grid[index]
        if run.is_done(tile, claims):
            return _Read(tile, None, began)
        with _entering_failure(run, tile):
            block = read_block(source, run.plan.read_box(tile), run.plan.nan)
        return _Read(tile, block, began, damaged=index in claims)

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


def _compute(run: Run, engine: engines.TorchEngine, read: _Read) -> np.ndarray:
    assert read.block is not None
    with _entering_failure(run, read.tile):
        return predict(engine, run.plan, read.tile, read.block)


@contextmanager
def _entering_failure(run: Run, tile: Tile) -> Iterator[None]:
    """Enter what goes wrong with a tile in the ledger, for `status` to show."""
    try:
        yield
    except Exception as error:
        run.fail(tile, error)
        raise
