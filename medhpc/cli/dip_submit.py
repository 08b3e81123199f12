"""``medhpc dip --submit``: the same command as a job of several ranks."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, show
from medhpc.errors import BadOption

if TYPE_CHECKING:
    from medhpc.dip.options import Options
    from medhpc.jobs.denoising import Denoising

LIBRARIES = 2 * 2**30  # Python, torch, and what SLURM counts besides
COPIES = 12  # of a rank's planes in float32, while they are read and scaled, and what is taken away is judged
MEASURED = 1  # of the whole volume, while its noise is

job_options = options.together(
    click.option("--submit", is_flag=True, help="Run as a job: a rank for each GPU, or for each node without GPUs."),
    click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="With --submit."),
    click.option(
        "--gpus", type=click.IntRange(0), default=0, show_default=True, metavar="M", help="With --submit: of a node."
    ),
    click.option(
        "--time", type=options.Duration(), default="4h", show_default=True, metavar="TIME", help="With --submit."
    ),
    click.option("--dry-run", is_flag=True, help="With --submit: print the sbatch file, submit nothing."),
)
OURS = ("submit", "nodes", "gpus", "time", "dry_run", "as_json")


def check_no_job() -> None:
    """Refuse options of a job where none was asked for."""
    context = click.get_current_context()
    for name in ("nodes", "gpus", "time", "dry_run"):
        if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT:
            raise BadOption(f"--{name.replace('_', '-')} is for jobs: add --submit")


def submit(noisy: str, clean: str, chosen: Options, given: dict[str, Any], as_json: bool) -> None:
    """Write the sbatch file and submit it, or print it."""
    from medhpc.jobs.denoising import submit, text_of
    from medhpc.jobs.site import load_site

    job, site = _job(noisy, clean, chosen, given), load_site()[0]
    if given["dry_run"]:
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
        ranks = show.count(job.nodes * job.ranks_per_node, "rank")
        click.echo(f"job {number}: {ranks}; {show.path(str(job.script))}, and its log beside it")


def _job(noisy: str, clean: str, chosen: Options, given: dict[str, Any]) -> Denoising:
    from medhpc.jobs.denoising import Denoising
    from medhpc.jobs.packing import Resources

    if given["parallel"] == "layers":
        raise BadOption("--submit starts ranks, and --parallel layers is one process with two GPUs: give one of them")
    gpus = given["gpus"]
    ranks = given["nodes"] * max(gpus, 1)
    return Denoising(
        volume=os.path.abspath(noisy),
        clean=os.path.abspath(clean),
        options=_words(),
        nodes=given["nodes"],
        ranks_per_node=max(gpus, 1),
        resources=Resources(
            cpus=given["threads"] or 0,
            memory=_memory(noisy, chosen, given, ranks),
            seconds=int(given["time"]),
            gpus=1 if gpus else 0,
        ),
    )


def _memory(noisy: str, chosen: Options, given: dict[str, Any], ranks: int) -> int:
    """Of one rank on its node; refuses more ranks than there are slabs."""
    from medhpc.dip.plan import image_shape, largest_share, need

    shape, _ = image_shape(noisy, given["channel"])
    share = largest_share(shape, chosen, ranks)
    part = 1.0 if given["whole"] else min(1.0, len(share.seen.of(share.ranks.rank)) / share.length)
    images = int(4 * math.prod(shape) * (COPIES * part + MEASURED))
    if given["gpus"]:
        return LIBRARIES + images
    precision = "fp32" if chosen.precision == "auto" else chosen.precision
    return LIBRARIES + images + int(1.2 * need(shape, chosen, precision, given["checkpoint"] or 0, ranks).peak)


def _words() -> list[str]:
    """The options of this command for the same command in a job, whose folder is another."""
    context = click.get_current_context()
    words: list[str] = []
    for option in context.command.params:
        value = context.params[str(option.name)]
        default = context.get_parameter_source(str(option.name)) == click.core.ParameterSource.DEFAULT
        if default or not isinstance(option, click.Option) or option.name in OURS:
            continue
        if option.is_flag:
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            words += [option.opts[0], os.path.abspath(value) if option.name in ("mask", "truth") else str(value)]
    return words
