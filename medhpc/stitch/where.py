"""Where the units of a stitch are done, as ``--dask`` says it; imports no Dask."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from medhpc.errors import BadOption, NoSlurm, NoWorkers

CONNECT = 10  # seconds in which a scheduler must answer
NEEDED = ("distributed", "cryptography")
PROGRAM = {"srun": "srun", "slurm": "sbatch"}


@dataclass(frozen=True, kw_only=True)
class WorkerJobs:
    """What each worker of ``slurm:N`` asks SLURM for."""

    cpus: int = 1
    memory: int = 4 * 2**30  # bytes
    time: str = "01:00:00"
    directives: tuple[str, ...] = ()  # further options of sbatch: "--partition=long"
    prologue: tuple[str, ...] = ()  # lines of bash before the worker starts, such as "module load x"
    python: str = ""  # how bash starts the Python that has medhpc; this one unless given


@dataclass(frozen=True, kw_only=True)
class Where:
    """A Dask cluster that runs, or is to be started."""

    kind: str  # "address", "local", "srun" or "slurm"
    address: str = ""
    workers: int = 0
    jobs: WorkerJobs = field(default_factory=WorkerJobs)

    @property
    def at(self) -> str:
        """For messages."""
        return f" at {self.address}" if self.address else ""

    @property
    def threads(self) -> int:
        """Threads of one unit; workers at an address do as many units at once as they have threads."""
        if self.kind == "local":
            return max(1, len(os.sched_getaffinity(0)) // self.workers)
        if self.kind == "srun":
            return int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        return self.jobs.cpus if self.kind == "slurm" else 1


def parse_where(text: str, jobs: WorkerJobs | None = None) -> Where:
    """Read ``ADDRESS``, ``local:N``, ``srun:N`` or ``slurm:N``, and see whether it can be had here.

    Raises
    ------
    BadOption
        None of these, or a package is not installed.
    NoWorkers
        Nothing listens at the address.
    NoSlurm
    """
    started = re.fullmatch(r"(local|srun|slurm):([1-9]\d{0,4})", text)
    url = urlsplit(text)
    if not started and not _is_address(url):
        raise BadOption(f"'{text}' is no Dask cluster; expected local:N, srun:N, slurm:N or tcp://HOST:PORT")
    kind = started[1] if started else "address"
    _check_installed()
    if not started:
        _knock(url)
        return Where(kind=kind, address=text)
    if kind in PROGRAM and not shutil.which(PROGRAM[kind]):
        raise NoSlurm(f"--dask {text} needs SLURM's {PROGRAM[kind]}, which is not on this machine; use local:N")
    if kind == "srun" and "SLURM_JOB_ID" not in os.environ:
        raise BadOption(f"--dask {text} starts workers inside a job, and this is none; use slurm:N or local:N")
    return Where(kind=kind, workers=int(started[2]), jobs=jobs or WorkerJobs())


def _is_address(url: SplitResult) -> bool:
    try:
        return url.scheme in ("tcp", "tls") and bool(url.hostname) and bool(url.port)
    except ValueError:  # a port that is no number
        return False


def _check_installed() -> None:
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise BadOption(f"--dask needs {package}, which is not installed: pip install 'medhpc[cluster]'")


def _knock(url: SplitResult) -> None:
    """See whether a scheduler answers: Dask's client would wait for ever for one that accepts and says nothing."""
    try:
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=CONNECT) as connection:
            if url.scheme == "tcp" and not _is_greeting(connection.recv(8)):
                raise OSError("what listens there is something else")
    except OSError as error:
        reason = error.strerror or error
        raise NoWorkers(
            f"no Dask scheduler answers at {url.geturl()} ({reason}); look whether it runs, and at its address"
        ) from None


def _is_greeting(word: bytes) -> bool:
    """Whether bytes begin what a scheduler says first: the length of a short message."""
    return len(word) == 8 and 0 < int.from_bytes(word, "little") < 2**16
