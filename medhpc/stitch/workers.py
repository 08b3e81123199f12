"""Dask workers that are started for one stitch: processes of this machine, tasks of this job, or jobs of SLURM.

Each does one unit at a time, on all its cores: it needs the memory of one slab, as a stitch on one machine does.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from medhpc.errors import NoWorkers, SlurmDown, SubmissionRefused
from medhpc.stitch.where import Where

if TYPE_CHECKING:
    from distributed import Security

Check: TypeAlias = Callable[[], None]
"""Raises NoWorkers where none will come."""

DEATH = "60"  # seconds after which a worker ends that has lost its scheduler
ANSWER = 60  # seconds in which SLURM must answer
NO_PAGES = "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"


@contextmanager
def started(where: Where, scratch: Path) -> Iterator[tuple[Any, Check]]:
    """What a client connects to, while the block runs, and what tells that no worker will come.

    Logs of workers are written beside `scratch`, as ``workers-*.log``.

    Raises
    ------
    SubmissionRefused, SlurmDown
    """
    if where.kind == "address":
        yield where.address, _no_news
        return
    from distributed import LocalCluster, Security

    security = Security.temporary()
    if where.kind == "local":
        workers = {"n_workers": where.workers, "threads_per_worker": 1, "memory_limit": 0}
        with LocalCluster(host="127.0.0.1", **_scheduler(security), **workers) as cluster:
            yield cluster, _no_news
        return
    with ExitStack() as stack:  # the folder is for this user's eyes only
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certificates.", dir=scratch)))
        cluster = stack.enter_context(LocalCluster(host="0.0.0.0", n_workers=0, **_scheduler(security)))
        worker = ["-m", "distributed.cli.dask_worker", cluster.scheduler_address, *_certificates(security, folder)]
        worker += ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--death-timeout", DEATH]
        start = _jobs if where.kind == "slurm" else _tasks
        yield cluster, stack.enter_context(start(where, worker, scratch.parent))


def worker_script(where: Where, worker: list[str]) -> str:
    """The text of the job of one worker of ``slurm:N``."""
    python = where.jobs.python or shlex.quote(sys.executable)
    command = f"exec {python} {shlex.join(worker)}"
    return "\n".join(["#!/bin/bash", *where.jobs.prologue, f"export {NO_PAGES}='[]'", command]) + "\n"


def _no_news() -> None:
    """Workers may come."""


def _scheduler(security: Security) -> dict[str, Any]:
    return {
        "protocol": "tls://",
        "security": security,
        "dashboard_address": None,
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "silence_logs": logging.CRITICAL,
    }


def _certificates(security: Security, folder: Path) -> list[str]:
    """Write what a worker must show; the arguments that name it."""
    arguments = []
    for name, text in security.get_tls_config_for_role("worker").items():
        if name in ("ca_file", "cert", "key"):
            (folder / name).write_text(text)
            arguments += [f"--tls-{name.replace('_', '-')}", str(folder / name)]
    return arguments


@contextmanager
def _tasks(where: Where, worker: list[str], logs: Path) -> Iterator[Check]:
    """Workers as tasks of the job that this process is in."""
    # One that ends must not end the others, and this process may be a task itself.
    srun = ["srun", f"--ntasks={where.workers}", "--kill-on-bad-exit=0", "--wait=0", "--overlap", "--label"]
    log = logs / f"workers-{os.environ['SLURM_JOB_ID']}.log"
    with log.open("ab") as output:
        tasks = subprocess.Popen(
            [*srun, sys.executable, *worker],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {NO_PAGES: "[]"},
        )

    def check() -> None:
        if tasks.poll() is not None:
            raise NoWorkers(f"srun ended with {tasks.returncode} (see {log}); mend that, and stitch again to go on")

    try:
        yield check
    finally:
        tasks.terminate()
        tasks.wait()


@contextmanager
def _jobs(where: Where, worker: list[str], logs: Path) -> Iterator[Check]:
    """Workers as jobs, all of one array: one call of sbatch; SLURM starts those again whose node fails."""
    jobs = where.jobs
    asked = {
        "array": f"0-{where.workers - 1}",
        "job-name": "medhpc-stitch-worker",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(jobs.cpus),
        "mem": f"{-(-jobs.memory // 2**20)}M",
        "time": jobs.time,
        "chdir": str(logs.absolute()),
        "output": "workers-%A_%a.log",
    }
    options = [f"--{name}={value}" for name, value in asked.items()]
    answer = _ask_slurm(
        ["sbatch", "--parsable", "--requeue", "--open-mode=append", *options, *jobs.directives],
        worker_script(where, worker),
    )
    try:
        yield _no_news
    finally:
        _ask_slurm(["scancel", answer.partition(";")[0]])


def _ask_slurm(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        raise SlurmDown(f"{command[0]} has not answered for {ANSWER} s; try again later") from None
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise SubmissionRefused(f"{command[0]} says: {words}; what is done is kept: mend that, and stitch again")
    return done.stdout.strip()
