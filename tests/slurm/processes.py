"""Find and end processes by a variable of their environment; and do so once somebody is gone.

SLURM's job steps leave the family of the daemon that started them, so that neither a process group nor a signal at the
parent's death reaches them. What they keep is SLURM_CONF.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

OWNER = "owner"  # file with the number of the process that a folder belongs to


def marked(*marks: str) -> set[int]:
    """Processes that were started with all these variables, each as ``NAME=value``; never this one."""
    wanted = {mark.encode() for mark in marks}
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or belongs to somebody else
            if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                found.add(int(entry.name))
    return found - {os.getpid()}


def with_descendants(pids: Iterable[int]) -> set[int]:
    """These processes, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


def kill(find: Callable[[], set[int]], seconds: float = 10) -> None:
    """Kill what is found, and its descendants, until nothing is found."""
    end = time.monotonic() + seconds
    while (found := find()) and time.monotonic() < end:
        for pid in with_descendants(found):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def start_reaper(folder: Path, mark: str) -> subprocess.Popen[bytes]:
    """Start a process that ends the marked ones and removes a folder, when told by a line or when this one is gone.

    That holds whatever happens to this process: at a kill -9, too, the pipe between them closes.
    """
    (folder / OWNER).write_text(str(os.getpid()))
    command = [sys.executable, "-S", "-m", "processes", str(folder), mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parent)


def reap(folder: Path, mark: str) -> None:
    """End the marked processes and remove the folder."""
    kill(lambda: marked(mark))
    shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether who started a reaper for a folder is gone, and the folder is still there: the reaper was killed, too."""
    try:
        return not Path(f"/proc/{(folder / OWNER).read_text()}").exists()
    except OSError:
        return False


def _wait_and_reap() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # whoever ends the tests may mean this one, too
        signal.signal(number, signal.SIG_IGN)
    folder, mark = sys.argv[1:]
    sys.stdin.readline()
    reap(Path(folder), mark)


if __name__ == "__main__":
    _wait_and_reap()
