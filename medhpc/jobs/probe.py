"""What runs in the job of `medhpc doctor`, in the place of a worker: it tells what it has, then waits for signals.

Everything is told by files in the folder that the doctor made, for that is how tasks of a run tell what they did.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

import medhpc

TOKEN, HELD, WORKER, USR1, TERM = "token", "held", "worker.json", "usr1.json", "term.json"
PATIENCE = 60  # seconds: the doctor may have died


def probe(folder: str | Path) -> None:
    """Tell, wait for SIGUSR1 and SIGTERM, tell when they came, end."""
    folder = Path(folder)
    ended = False

    def finish(*_: int | FrameType | None) -> None:
        tell(folder / USR1, {"time": time.time()})

    def abandon(*_: int | FrameType | None) -> None:
        nonlocal ended
        tell(folder / TERM, {"time": time.time()})
        ended = True

    signal.signal(signal.SIGUSR1, finish)
    signal.signal(signal.SIGTERM, abandon)
    tell(folder / WORKER, what_is_here(folder))
    deadline = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < deadline:
        time.sleep(0.1)


def what_is_here(folder: Path) -> dict[str, Any]:
    """Host, version, processors, GPUs, and whether the lock that the doctor holds is seen."""
    return {
        "host": socket.gethostname(),
        "medhpc": medhpc.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "gpus": list_gpus(),
        "lock": try_held_lock(folder / HELD),
    }


def try_held_lock(path: Path) -> str:
    """``"seen"`` if the lock that another host holds keeps us out, ``"not seen"`` if not, else what is wrong."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "seen"
    except OSError as error:
        return error.strerror or str(error)
    return "not seen"


def list_gpus() -> list[str]:
    """GPUs as NVIDIA's driver names them; none where there is no driver."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")]


def tell(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is whole as soon as it is there."""
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(content))
    os.replace(aside, path)
