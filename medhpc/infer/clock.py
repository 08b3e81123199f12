"""Where the time of a task goes.

::

    reader thread             read 0 | read 1 | read 2 |             reading
    this thread       start | wait   | compute 0 | exchange | compute 0 | wait | ...
    writer threads                                          | commit 0  |          writing

Each moment of this thread belongs to one part: first to the start, until all ranks have their network; then to talking
with other ranks, else to the innermost part that is open.
What other threads do meanwhile is counted beside it: it costs nothing until this thread waits for it.
"""

from __future__ import annotations

import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

if TYPE_CHECKING:
    from medhpc.ranks.group import Ranks

AHEAD = 2  # tiles, or steps of planes, waiting on either side of the computing
Part = Literal["start", "read", "compute", "write", "other"]
P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one rank, or one task, has spent: seconds, bytes, messages."""

    seconds: float  # all of them: the sum of the next six
    start: float  # loading the network, looking for what is done, until all ranks have come so far
    read: float  # waiting for tiles or planes
    compute: float
    exchange: float  # talking to other ranks and waiting for them
    write: float  # waiting for commits
    other: float
    cpu: float  # seconds of all cores, since the start was over
    reading: float  # of the reader thread, beside all this
    writing: float  # of the writer threads, added up
    sent: float  # bytes, to other ranks
    received: float
    exchanges: float
    peak_memory: float  # bytes, of the process


class Clock:
    """Measures, from now on, what one thread spends on which part.

    Parameters
    ----------
    ranks : Ranks, optional
        Count themselves how long they talk.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks
        self._parts: dict[str, float] = dict.fromkeys(("start", "read", "compute", "exchange", "write", "other"), 0.0)
        self._beside = {"reading": 0.0, "writing": 0.0}
        self._lock = threading.Lock()
        self._part: Part = "start"
        self._since, self._talked = time.perf_counter(), self._talks[0]
        self._before, self._cpu = self._talks, time.process_time()

    def begin(self) -> None:
        """The start is over."""
        if self._ranks:
            self._ranks.meet()
        self._turn_to("other")
        self._cpu = time.process_time()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """A block that is this part of the work, but for the parts within it."""
        outer = self._part
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(outer)

    def wait(self, name: Part, future: Future[T]) -> T:
        """What another thread has done, or does."""
        with self.part(name):
            return future.result()

    def beside(self, name: Literal["reading", "writing"], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work of another thread, in that thread."""
        began = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            with self._lock:
                self._beside[name] += time.perf_counter() - began

    def of_all_ranks(self) -> tuple[Spent, ...]:
        """What each rank has spent so far; all of them call it."""
        mine = self._spent()
        if self._ranks is None or self._ranks.size == 1:
            return (mine,)
        names = mine.__dataclass_fields__
        everyones = self._ranks.everyones_numbers(astuple(mine))
        return tuple(Spent(**dict(zip(names, numbers, strict=True))) for numbers in everyones)

    def _spent(self) -> Spent:
        self._turn_to(self._part)
        _, *counts = (now - before for now, before in zip(self._talks, self._before, strict=True))
        names = ("sent", "received", "exchanges")
        return Spent(
            seconds=sum(self._parts.values()),
            cpu=time.process_time() - self._cpu,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **self._parts,
            **self._beside,
            **dict(zip(names, counts, strict=True)),
        )

    @property
    def _talks(self) -> tuple[float, float, float, float]:
        ranks = self._ranks
        return (ranks.waited, ranks.sent, ranks.received, ranks.exchanges) if ranks else (0, 0, 0, 0)

    def _turn_to(self, part: Part) -> None:
        """Enter what has passed, and go on with another part."""
        now, talked = time.perf_counter(), self._talks[0]
        talking = talked - self._talked if self._part != "start" else 0.0
        self._parts["exchange"] += talking
        self._parts[self._part] += now - self._since - talking
        self._part, self._since, self._talked = part, now, talked


def read_ahead(
    reader: ThreadPoolExecutor, read: Callable[[Item], T], items: Iterable[Item], clock: Clock
) -> Generator[T, None, None]:
    """What `read` gives for each item, in order, read while earlier ones are computed."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(reader.submit(clock.beside, "reading", read, item))
            if len(waiting) > AHEAD:
                yield clock.wait("read", waiting.popleft())
        while waiting:
            yield clock.wait("read", waiting.popleft())
    finally:
        for future in waiting:
            future.cancel()
