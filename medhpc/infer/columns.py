"""Columns: planes are read ahead, stream through the network, and are written behind, tile after tile.

::

    read     0 1 2 | 3 4 5 | 6 7 8 | ...             by one thread, a step or two ahead
    sweep          |       | 0 1   | 2 3 4 | ...     lags by the receptive radius
    write                                  tile 0    by other threads, when all planes of a tile are there

Where some tiles of a column are done, planes are read from so far before the first that is missing that all get the
same bits as in one go: after a kill, about twice as much is computed again as the network sees.

Of several ranks each has some rows of the planes; the first gets what the others have finished, and writes.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from medhpc.engine import BlockTooLarge, Engine
from medhpc.errors import BadOption, DiskFull, NoPermission, RankLost
from medhpc.geometry import Box, Tile
from medhpc.infer.clock import AHEAD, Clock, read_ahead
from medhpc.infer.predict import ENGINE_KIND, encode
from medhpc.infer.results import WRITERS, Tally
from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.slabs import Slabs, divide
from medhpc.run import Run
from medhpc.run.blocks import normalize, read_block
from medhpc.run.plan import Plan
from medhpc.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Missing tiles of a column, and what is read for them."""

    tiles: tuple[Tile, ...]
    read: Box


def stretches(plan: Plan, missing: Sequence[int], around: int) -> list[Stretch]:
    """What is swept for these tiles, and `around` them: a stretch of each column, or several if they are far apart."""
    assert plan.sweep
    around, found = max(around, plan.halo.size[0] + plan.sweep.step), []
    tiles = [plan.grid[index] for index in sorted(missing)]
    for number, column in itertools.groupby(tiles, key=lambda tile: tile.index // plan.grid.counts[0]):
        whole = plan.columns[number].read
        for near in _split(list(column), 2 * around):
            low, high = near[0].write.start[0] - around, near[-1].write.stop[0] + around
            start = whole.start[0] + max(0, (low - whole.start[0]) // plan.sweep.step * plan.sweep.step)
            stop = min(high, whole.stop[0])
            read = Box((start, *whole.start[1:]), (stop, *whole.stop[1:]))
            found.append(Stretch(tiles=tuple(near), read=read))
    return found


def compute_columns(
    run: Run,
    source: Volume,
    chosen: Sequence[int],
    load: Callable[[], Engine],
    clock: Clock,
    keep_going: bool = False,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Tally:
    """Compute those of the `chosen` tiles that are missing, column by column; see :func:`medhpc.infer.infer`."""
    ranks, tally = ranks or ALONE, Tally()
    claims = run.digests(set(chosen)) if ranks.is_first else {}
    missing = _missing(run, chosen, claims, ranks)
    tally.finished = len(chosen) - len(missing)
    if not missing:
        return tally
    assert run.plan.sweep
    engine = load()
    clock.begin()
    run.sweep()
    todo = stretches(run.plan, missing, engine.sweep_warm_up(run.plan.sweep.step))
    total, before = sum(stretch.read.shape[0] for stretch in todo), 0
    if progress:
        progress(0, total)
    for stretch in todo:
        column = _Column(run=run, source=source, engine=engine, ranks=ranks, clock=clock, stretch=stretch)
        try:
            for tile in column.compute(_after(before, total, progress)):
                tally.add(tile, damaged=tile.index in claims)
                tally.finished += 1
                if stop and ranks.any(stop()):
                    return tally
        except (RankLost, DiskFull, NoPermission):
            raise
        except Exception as error:
            left = stretch.tiles[column.taken :]
            run.fail(left[0], error)
            if not keep_going:
                raise
            tally.finished += len(left)
            tally.fail(error, tiles=len(left))
        before += stretch.read.shape[0]
    return tally


@dataclass(kw_only=True)
class _Column:
    """A stretch on its way through the network."""

    run: Run
    source: Volume
    engine: Engine
    ranks: Ranks
    clock: Clock
    stretch: Stretch
    taken: int = 0  # tiles whose planes are all there

    def compute(self, progress: Callable[[int], None]) -> Iterator[Tile]:
        """Compute tile after tile; what is yielded is being stored."""
        read, slabs, clock = self.stretch.read, self._slabs(), self.clock
        with (
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(WRITERS, "write") as writer,
            closing(self._finished(reader, slabs)) as finished,
        ):
            planes = _Planes(self._gathered(values, slabs) for values in finished)
            writing: deque[Future[None]] = deque()
            try:
                for tile in self.stretch.tiles:
                    began = time.monotonic()
                    place = tile.write.relative_to(read)
                    with clock.part("compute"):
                        values = planes.take(place.start[0], place.stop[0], progress)
                    self.taken += 1
                    if self.ranks.is_first:
                        values = np.ascontiguousarray(values[:, :, *place.slices[1:]])
                        writing.append(writer.submit(clock.beside, "writing", self.run.commit, tile, values, began))
                    yield tile
                    while len(writing) > AHEAD:
                        clock.wait("write", writing.popleft())
            finally:
                for future in writing:
                    clock.wait("write", future)

    def _slabs(self) -> Slabs:
        """Which rows of what is read each rank has."""
        least = max(self.engine.network.dilations) if self.ranks.size > 1 else 1
        return divide(self.stretch.read.shape[1], self.ranks.size, least=least, what="rows")

    def _finished(self, reader: ThreadPoolExecutor, slabs: Slabs) -> Generator[np.ndarray, None, None]:
        """Planes of our rows as they are stored: (channels, n, rows, x)."""
        plan, (start, stop) = self.run.plan, (self.stretch.read.start, self.stretch.read.stop)
        assert plan.sweep
        rows = slabs.of(self.ranks.rank)
        own = Box((start[0], start[1] + rows.start, start[2]), (stop[0], start[1] + rows.stop, stop[2]))
        with closing(_blocks(reader, self.source, plan, own, self.clock)) as blocks:
            kind, step = ENGINE_KIND[plan.stored.kind], plan.sweep.step
            try:
                for values in self.engine.sweep(blocks, own.shape, kind, step, self.ranks):
                    yield encode(values, plan.stored.kind, plan.stored.dtype)
            except BlockTooLarge as error:
                raise BadOption(f"{error}: a column is too large; plan with less --memory, or use more ranks") from None

    def _gathered(self, values: np.ndarray, slabs: Slabs) -> np.ndarray:
        """On the first rank, planes with the rows of all; on the others, their own."""
        ranks = self.ranks
        if ranks.size == 1:
            return values
        own = torch.from_numpy(values)
        if not ranks.is_first:
            ranks.exchange([(own, 0)], [])()
            return values
        parts = [own.new_empty((*own.shape[:2], len(rows), own.shape[3])) for rows in slabs.all()[1:]]
        ranks.exchange([], [(part, rank) for rank, part in enumerate(parts, 1)])()
        return torch.cat([own, *parts], 2).numpy()


class _Planes:
    """Planes that come in blocks, taken in others."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._held: list[np.ndarray] = []  # from plane `_start` up to `_stop`
        self._start = self._stop = 0

    def take(self, start: int, stop: int, progress: Callable[[int], None]) -> np.ndarray:
        """Planes from `start` up to `stop`, (channels, planes, y, x); those before are forgotten."""
        while self._stop < stop:
            block = next(self._blocks)
            if self._stop + block.shape[1] > start:
                self._held.append(block)
            else:
                self._start += block.shape[1]
            self._stop += block.shape[1]
            progress(self._stop)
        values = np.concatenate(self._held, axis=1)
        self._held = [values[:, stop - self._start :]]
        taken = values[:, start - self._start : stop - self._start]
        self._start = stop
        return taken


def _blocks(
    reader: ThreadPoolExecutor, source: Volume, plan: Plan, box: Box, clock: Clock
) -> Generator[np.ndarray, None, None]:
    """The planes of a box in steps, normalised, (channels, n, y, x); read while earlier ones are computed."""
    assert plan.sweep
    step = plan.sweep.step

    def read(z: int) -> np.ndarray:
        part = Box((z, *box.start[1:]), (min(z + step, box.stop[0]), *box.stop[1:]))
        return normalize(read_block(source, part, plan.nan), plan.normalization)

    return read_ahead(reader, read, range(box.start[0], box.stop[0], step), clock)


def _missing(run: Run, chosen: Sequence[int], claims: dict[int, set[str]], ranks: Ranks) -> list[int]:
    """Tiles that are not done; the first rank knows."""
    flags = [int(ranks.is_first and not run.is_done(run.plan.grid[index], claims)) for index in chosen]
    wanted = ranks.total(torch.tensor(flags))
    return [index for index, flag in zip(chosen, wanted.tolist(), strict=True) if flag]


def _split(tiles: list[Tile], gap: int) -> Iterator[list[Tile]]:
    """Tiles of a column, cut where there are more planes than `gap` between two."""
    near: list[Tile] = []
    for tile in tiles:
        if near and tile.write.start[0] - near[-1].write.stop[0] > gap:
            yield near
            near = []
        near.append(tile)
    yield near


def _after(before: int, total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Count the planes of one stretch on top of those of the stretches before it."""
    return lambda planes: progress(before + planes, total) if progress else None
