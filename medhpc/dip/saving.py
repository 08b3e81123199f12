"""When a descent is kept: every minute, and when SIGUSR1 asks for it, as SLURM does before a job's time is up."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from medhpc.ranks.group import Ranks

CHECKPOINT_SECONDS = 60.0


class Saving:
    """All ranks save together: when the first one's minute is over, or any of them was asked."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._asked = False
        self._last = time.perf_counter()
        self._before: Any = None

    def __enter__(self) -> Saving:
        if threading.current_thread() is threading.main_thread():  # no other may listen
            self._before = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    def is_due(self) -> bool:
        """Whether it is time, on all ranks alike."""
        over = self.ranks.is_first and time.perf_counter() - self._last >= CHECKPOINT_SECONDS
        if not self.ranks.any(over or self._asked):
            return False
        self._asked, self._last = False, time.perf_counter()
        return True

    def _ask(self, signal_number: int, frame: FrameType | None) -> None:
        self._asked = True
