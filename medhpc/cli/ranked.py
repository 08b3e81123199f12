"""``--submit``: the same command as a job of several ranks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import show
from medhpc.errors import BadOption

if TYPE_CHECKING:
    from medhpc.jobs.ranked import RankedJob

LIBRARIES = 2 * 2**30
"""Bytes of a rank: Python, torch, and what SLURM counts besides."""
JOBS = ("nodes", "tasks_per_node", "gpus", "time", "dry_run")
OURS = ("submit", *JOBS, "as_json")


submit_option = click.option(
    "--submit", is_flag=True, help="Run as a job: a rank for each GPU, or for each node without GPUs."
)
nodes_option = click.option(
    "--nodes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="With --submit."
)
tasks_option = click.option(
    "--tasks-per-node",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="M",
    help="With --submit: ranks of a node without GPUs, such as one for each socket.",
)
gpus_option = click.option(
    "--gpus", type=click.IntRange(0), default=0, show_default=True, metavar="M", help="With --submit: of a node."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="With --submit: print the sbatch file, submit nothing.")


def check_no_job() -> None:
    """Refuse options of a job where none was asked for."""
    context = click.get_current_context()
    for name in JOBS:
        if name in context.params and not _is_default(context, name):
            raise BadOption(f"--{name.replace('_', '-')} is for jobs: add --submit")


def ranks_of_node(job: Mapping[str, Any]) -> int:
    """What --gpus and --tasks-per-node come to."""
    if job["gpus"] and job["tasks_per_node"] > 1:
        raise BadOption(
            "--gpus starts a rank for each GPU, and --tasks-per-node is for nodes without: give one of them"
        )
    return int(max(job["gpus"], job["tasks_per_node"]))


def submit(job: RankedJob, dry_run: bool, as_json: bool) -> None:
    """Write the sbatch file and submit it, or print it."""
    from medhpc.jobs.ranked import submit, text_of
    from medhpc.jobs.site import load_site

    site = load_site()[0]
    if dry_run:
        text = text_of(job, site)
        if as_json:
            show.as_json({"script": str(job.script), "text": text})
        else:
            click.echo(text, nl=False)
        return
    number = submit(job, site)
    if as_json:
        show.as_json({"script": str(job.script), "job": number})
    else:
        ranks = show.count(job.ranks, "rank")
        click.echo(f"job {number}: {ranks}; {show.path(str(job.script))}, and its log beside it")


def words(paths: Collection[str] = (), apart: Collection[str] = ()) -> list[str]:
    """The options of this command for the same command in a job, whose folder is another.

    `paths` are the names of those that are paths, `apart` of those that the job's script knows otherwise.
    """
    context = click.get_current_context()
    found: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        if not isinstance(option, click.Option) or name in (*OURS, *apart) or _is_default(context, name):
            continue
        value = context.params[name]
        if option.is_flag:
            found.append(option.opts[0] if value else option.secondary_opts[0])
        elif isinstance(value, tuple):
            found += [option.opts[0], ",".join(map(str, value))]
        else:
            found += [option.opts[0], os.path.abspath(value) if name in paths else str(value)]
    return found


def _is_default(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.DEFAULT
