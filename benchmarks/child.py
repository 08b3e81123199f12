"""Calls one function in a process of its own, which has imported that function's module and nothing else.

(A process of multiprocessing would import the script that started it, with all its libraries.)
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call took."""

    seconds: float  # of the call alone: interpreter and imports do not count
    cpu: float = 0.0  # processor seconds of the call, with those of programs that it started
    idle: int = 0  # bytes resident before the call
    peak: int = 0  # bytes resident at most, libraries included
    value: Any = None  # what the call returned


def in_child(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Call a module-level function in a fresh process."""
    return in_child_within(None, function, *args, **kwargs)


def in_child_within(seconds: float | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """The same; past so many seconds the process is ended, and subprocess.TimeoutExpired raised."""
    module = function.__module__
    if module == "__main__":
        module = f"benchmarks.{Path(sys.argv[0]).stem}"  # it was started by python -m
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child"],
        input=pickle.dumps((module, function.__name__, args, kwargs)),
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds,
    )
    outcome: dict[str, Any] = pickle.loads(done.stdout)
    return Outcome(**outcome)


def main() -> None:
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the function prints is not the result
    module, name, args, kwargs = pickle.load(sys.stdin.buffer)
    function = getattr(importlib.import_module(module), name)
    idle, cpu, began = _resident("VmRSS"), sum(os.times()[:4]), time.perf_counter()
    value = function(*args, **kwargs)
    seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - cpu
    with result:
        pickle.dump({"seconds": seconds, "cpu": cpu, "idle": idle, "peak": _resident("VmHWM"), "value": value}, result)


def _resident(what: str) -> int:
    """Memory that is resident (VmRSS) or was at most (VmHWM), in bytes; getrusage would count the parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
