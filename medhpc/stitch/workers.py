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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medhpc.stitch.where import Where

if TYPE_CHECKING:
    from distributed import Security

DEATH = "60"  # seconds after which a worker ends that has lost its scheduler
MODULE = "distributed.cli.dask_worker"
NO_PAGES = "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"


@contextmanager
def started(where: Where, scratch: Path) -> Iterator[Any]:
    """What a client connects to, while the block runs."""
    if where.kind == "address":
        yield where.address
        return
    from distributed import LocalCluster, Security

    security = Security.temporary()
    if where.kind == "local":
        workers = {"n_workers": where.workers, "threads_per_worker": 1, "memory_limit": 0}
        with LocalCluster(host="127.0.0.1", **_scheduler(security), **workers) as cluster:
            yield cluster
        return
    with ExitStack() as stack:  # the folder is for this user's eyes only
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certificates.", dir=scratch)))
        arguments = [*_certificates(security, folder), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        if where.kind == "slurm":
            cluster = stack.enter_context(_jobs(where, security, arguments, scratch))
        else:
            cluster = stack.enter_context(LocalCluster(n_workers=0, **_scheduler(security)))
            stack.enter_context(_tasks(where, cluster.scheduler_address, arguments, scratch))
        yield cluster


def _scheduler(security: Security) -> dict[str, Any]:
    return {
        "protocol": "tls://",
        "security": security,
        "dashboard_address": None,
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "silence_logs": logging.CRITICAL,
    }


@contextmanager
def _tasks(where: Where, scheduler: str, arguments: list[str], scratch: Path) -> Iterator[None]:
    """Workers as tasks of the job that this process is in."""
    # One that ends must not end the others, and this process may be a task itself.
    srun = ["srun", f"--ntasks={where.workers}", "--kill-on-bad-exit=0", "--wait=0", "--overlap", "--label"]
    worker = [sys.executable, "-m", MODULE, scheduler, "--death-timeout", DEATH, *arguments]
    with (scratch / "workers.log").open("ab") as log:
        tasks = subprocess.Popen(
            [*srun, *worker], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {NO_PAGES: "[]"}
        )
        try:
            yield
        finally:
            tasks.terminate()
            tasks.wait()


def _jobs(where: Where, security: Security, arguments: list[str], scratch: Path) -> Any:
    """Workers as jobs of their own."""
    from dask_jobqueue import SLURMCluster

    class Cluster(SLURMCluster):
        def _get_worker_security(self, security: Security) -> None:
            """Certificates are among our arguments: these would be written into bash without quotes."""

    log = shlex.quote(str(scratch / "worker-%j.log").replace("\\", "\\\\"))
    cluster = Cluster(
        security=security,
        protocol="tls://",
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
        job_name="medhpc-stitch-worker",
        cores=1,
        job_cpu=where.jobs.cpus,
        processes=1,
        memory=f"{where.jobs.memory}B",
        walltime=where.jobs.time,
        job_extra_directives=[f"--output={log}", *where.jobs.directives],
        job_script_prologue=[f"export {NO_PAGES}='[]'", *where.jobs.prologue],
        python=where.jobs.python or shlex.quote(sys.executable),
        death_timeout=DEATH,
        worker_extra_args=[*map(shlex.quote, arguments)],
    )
    cluster.scale(where.workers)
    return cluster


def _certificates(security: Security, folder: Path) -> list[str]:
    """Write what a worker must show, readable by this user only; the arguments that name it."""
    arguments = []
    for name, text in security.get_tls_config_for_role("worker").items():
        if name in ("ca_file", "cert", "key"):
            (folder / name).write_text(text)
            arguments += [f"--tls-{name.replace('_', '-')}", str(folder / name)]
    return arguments
