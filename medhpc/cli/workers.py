"""The workers of ``medhpc stitch --dask``, from options and from the settings of the site."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from medhpc.cli import options

if TYPE_CHECKING:
    from medhpc.jobs.site import Site
    from medhpc.stitch import WorkerJobs

dask_options = options.together(
    click.option(
        "--dask",
        metavar="ADDRESS|local:N|srun:N|slurm:N",
        help="Share the work among Dask workers: those of a scheduler at tcp://HOST:PORT, N processes here, "
        "N tasks of this job, N jobs.",
    ),
    click.option(
        "--worker-cpus", type=click.IntRange(1), metavar="N", help="Cores of each job of slurm:N; 1 unless given."
    ),
    click.option(
        "--worker-memory",
        type=options.Memory(),
        default="4G",
        show_default=True,
        metavar="SIZE",
        help="Memory of each job of slurm:N.",
    ),
    click.option(
        "--worker-time",
        type=options.Duration(),
        default="1h",
        show_default=True,
        metavar="TIME",
        help="Time limit of each job of slurm:N.",
    ),
)


def worker_jobs(cpus: int | None, memory: int, seconds: float) -> WorkerJobs:
    """What each job of ``slurm:N`` asks for.

    Raises
    ------
    BadOption
        The file of the site's settings is not sound.
    """
    from medhpc.jobs.site import load_site
    from medhpc.jobs.slurm_times import as_time
    from medhpc.stitch import WorkerJobs

    site = load_site()[0].of("stitch")
    return WorkerJobs(
        cpus=cpus or 1,
        memory=memory,
        time=as_time(seconds),
        directives=tuple(f"--{name}={value}" if value else f"--{name}" for name, value in site.directives.items()),
        prologue=tuple(_prologue(site)),
        python=_python(site),
    )


def _prologue(site: Site) -> list[str]:
    lines = [f"module load {shlex.quote(module)}" for module in site.modules]
    return [*lines, f"export TMPDIR={shlex.quote(site.scratch)}"] if site.scratch else lines


def _python(site: Site) -> str:
    """How bash starts the Python that has medhpc on a node; "" for the one that runs here."""
    if site.apptainer:
        binds = [word for bind in site.bind for word in ("--bind", bind)]
        return shlex.join(["apptainer", "exec", *binds, site.apptainer, "python3"])
    return shlex.quote(f"{site.venv.rstrip('/')}/bin/python") if site.venv else ""
