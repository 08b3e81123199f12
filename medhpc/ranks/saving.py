"""When long computing is kept: now and then, and when a signal asks for it; no torch.

SIGUSR1 is what SLURM sends before a job's time is up. SIGINT (Ctrl-C) and SIGTERM end the process behind the iteration,
when all is kept; said twice, at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medhpc.ranks.group import Ranks

SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)


class Saving:
    """All ranks save together: when the first one's time is over, or any of them was asked."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._asked = False
        self._end: int | None = None  # the signal that ends it
        self._last = time.perf_counter()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Saving:
        if threading.current_thread() is threading.main_thread():  # no other may listen
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def is_due(self, seconds: float) -> bool:
        """Whether it is time, on all ranks alike: so many seconds after the last time, or asked for."""
        over = self.ranks.is_first and time.perf_counter() - self._last >= seconds
        if not self.ranks.any(over or self._asked):
            return False
        self._asked, self._last = False, time.perf_counter()
        return True

    def end_if_told(self) -> None:
        """End this process if a signal has told any rank to end; call it when :meth:`is_due` and all is kept."""
        if self.ranks.any(self._end is not None):
            number = self._end or signal.SIGTERM
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number != signal.SIGUSR1:
            self._end = number
            signal.signal(number, self._before[number])


@contextmanager
def no_end_by_signal() -> Iterator[None]:
    """SIGUSR1 asks for a checkpoint; where there is nothing to save yet, or any more, it is nothing."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
