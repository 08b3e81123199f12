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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from medhpc.errors import NoWorkers, SlurmDown, SubmissionRefused
from medhpc.stitch.where import Where, WorkerJobs

if TYPE_CHECKING:
    from distributed import Security

Check: TypeAlias = Callable[[], None]
"""Raises NoWorkers where none will come."""

DEATH = "60"  # seconds after which a worker ends that has lost its scheduler
ANSWER = 60  # seconds in which SLURM must answer
BETWEEN_LOOKS = 30.0  # seconds between two questions to SLURM, whether there are jobs left


@contextmanager
def started(where: Where, scratch: Path, comment: str) -> Iterator[tuple[Any, Check]]:
    """What a client connects to, while the block runs, and what tells that no worker will come.

    Workers of SLURM start in the folder above `scratch`, and write their logs there, as ``workers-*.log``; those that
    are jobs carry `comment`.

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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="worker.", dir=scratch)))
        cluster = stack.enter_context(LocalCluster(host="0.0.0.0", n_workers=0, **_scheduler(security)))
        script = folder / "worker.sh"
        script.write_text(worker_script(cluster.scheduler_address, _certificates(security, folder), where.jobs))
        logs = scratch.parent
        start = _jobs(where, script, logs, comment) if where.kind == "slurm" else _tasks(where, script, logs)
        yield cluster, stack.enter_context(start)


def worker_script(scheduler: str, certificates: Mapping[str, Path], jobs: WorkerJobs) -> str:
    """The text of what starts a worker on a node.

    Parameters
    ----------
    scheduler : str
        Address.
    certificates : mapping of str to Path
        Key of Dask's configuration -> the file that holds its value.
    jobs : WorkerJobs
    """
    settings = {"distributed.worker.http.routes": "'[]'", "distributed.comm.require-encryption": "True"}
    # Their text, not their paths: Dask takes a path with a line break for the text.
    settings |= {key: f'"$(< {shlex.quote(str(path))})"' for key, path in certificates.items()}
    exports = [f"export {_variable(key)}={value}" for key, value in settings.items()]
    options = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--death-timeout", DEATH]
    worker = shlex.join(["-m", "distributed.cli.dask_worker", scheduler, *options])
    python = jobs.python or shlex.quote(sys.executable)
    return "\n".join(["#!/bin/bash", *jobs.prologue, *exports, f"exec {python} {worker}"]) + "\n"


def _variable(key: str) -> str:
    return "DASK_" + key.upper().replace(".", "__").replace("-", "_")


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


def _certificates(security: Security, folder: Path) -> dict[str, Path]:
    """Write what a worker must show, each into a file."""
    texts, files = security.get_tls_config_for_role("worker"), {}
    for name, key in (("ca_file", "ca-file"), ("cert", "worker.cert"), ("key", "worker.key")):
        files[f"distributed.comm.tls.{key}"] = folder / name
        (folder / name).write_text(texts[name])
    return files


@contextmanager
def _tasks(where: Where, script: Path, logs: Path) -> Iterator[Check]:
    """Workers as tasks of the job that this process is in."""
    # One that ends must not end the others, and this process may be a task itself.
    srun = ["srun", f"--ntasks={where.workers}", "--kill-on-bad-exit=0", "--wait=0", "--overlap", "--label"]
    log = logs / f"workers-{os.environ['SLURM_JOB_ID']}.log"
    with log.open("ab") as output:
        tasks = subprocess.Popen(
            [*srun, "bash", script], cwd=logs, stdin=subprocess.DEVNULL, stdout=output, stderr=output
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
def _jobs(where: Where, script: Path, logs: Path, comment: str) -> Iterator[Check]:
    """Workers as jobs, all of one array: one call of sbatch; SLURM starts those again whose node fails."""
    jobs = where.jobs
    asked = {
        "array": f"0-{where.workers - 1}",
        "job-name": "medhpc-stitch-worker",
        "comment": comment,
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(jobs.cpus),
        "mem": f"{-(-jobs.memory // 2**20)}M",
        "time": jobs.time,
        "chdir": str(logs.absolute()),
        "output": "workers-%A_%a.log",
    }
    options = [f"--{name}={value}" for name, value in asked.items()]
    answer = _ask_slurm(["sbatch", "--parsable", "--requeue", "--open-mode=append", *options, *jobs.directives, script])
    job, looked = answer.partition(";")[0], time.monotonic()

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked > BETWEEN_LOOKS:
            looked = time.monotonic()
            if not _is_alive(job):
                raise NoWorkers(
                    f"all jobs of workers have ended (see {logs}/workers-{job}_*.log); what is done is kept: "
                    "mend that, or give them more time, and stitch again to go on"
                )

    try:
        yield check
    finally:
        subprocess.run(["scancel", job], capture_output=True, timeout=ANSWER)


def _is_alive(job: str) -> bool:
    """Whether SLURM knows of any job of an array that is not over; True where it does not answer."""
    squeue = ["squeue", "--me", "--noheader", "--format=%F"]
    answer = subprocess.run(squeue, capture_output=True, text=True, timeout=ANSWER)
    return answer.returncode != 0 or job in answer.stdout.split()


def _ask_slurm(command: list[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        raise SlurmDown(f"{command[0]} has not answered for {ANSWER} s; try again later") from None
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise SubmissionRefused(f"{command[0]} says: {words}; what is done is kept: mend that, and stitch again")
    return done.stdout.strip()
