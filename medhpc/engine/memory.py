"""How much memory a piece of work takes, measured from outside."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Growth:
    """Bytes by which the peak rose above the level at the start."""

    bytes: int = 0


@contextmanager
def peak_growth(device: torch.device) -> Iterator[Growth]:
    """Measure the peak of what is allocated inside the block: on the GPU, or resident in this process."""
    growth = Growth()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield growth
        growth.bytes = torch.cuda.max_memory_allocated(device) - before
    else:
        _release_free_memory()
        before = _reset_peak()
        yield growth
        growth.bytes = max(0, _peak() - before)


def _release_free_memory() -> None:
    """Give freed memory back to the system, or a second measurement would not see it grow again."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim:
        trim(0)


def _reset_peak() -> int:
    """Lower the recorded peak to what is resident now, where the kernel allows it; return that level."""
    with suppress(OSError):  # not Linux, or forbidden: growth over the all-time peak is all that can be seen
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
