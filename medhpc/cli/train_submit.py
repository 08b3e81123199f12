"""``medhpc train msd --submit``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, ranked
from medhpc.errors import BadOption

if TYPE_CHECKING:
    from medhpc.train.options import Options

MORE_SECONDS = 15 * 60
"""Beyond those of a training: to start, to read and to draw."""
STEPS_SECONDS = 4 * 3600
"""Where nobody says how long the steps take."""

job_options = options.together(
    ranked.submit_option,
    ranked.nodes_option,
    ranked.tasks_option,
    ranked.gpus_option,
    click.option(
        "--time",
        type=options.Duration(),
        metavar="TIME",
        help="With --submit; unless given, a quarter of an hour more than --minutes, 4h with --steps.",
    ),
    ranked.dry_run_option,
)


def submit(
    pairs: Sequence[tuple[str, str]],
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    chosen: Options,
    as_json: bool,
) -> None:
    """Submit this command, or print its sbatch file; `job` holds the options from above."""
    from medhpc.jobs.packing import Resources
    from medhpc.jobs.ranked import RankedJob

    gpus, per_node = job["gpus"], ranked.ranks_of_node(job)
    ranks = job["nodes"] * per_node
    if chosen.batch < ranks and settings["batch"]:
        raise BadOption(f"batch {chosen.batch} for {ranks} ranks: each needs a patch; start fewer")
    out = os.path.abspath(settings["out"])
    script = RankedJob(
        kind="train",
        out=out,
        values={
            "OPTIONS": ranked.words(apart=("out",)),
            "FILES": [os.path.abspath(file) for pair in pairs for file in pair],
            "NET": out,
        },
        nodes=job["nodes"],
        ranks_per_node=per_node,
        resources=Resources(
            cpus=settings["threads"] or 0,
            memory=_memory(pairs, chosen, on_gpu=bool(gpus)),
            seconds=int(job["time"] or _seconds(chosen)),
            gpus=1 if gpus else 0,
        ),
    )
    ranked.submit(script, job["dry_run"], as_json)


def _seconds(chosen: Options) -> float:
    return STEPS_SECONDS if chosen.seconds is None else chosen.seconds + MORE_SECONDS


def _memory(pairs: Sequence[tuple[str, str]], chosen: Options, *, on_gpu: bool) -> int:
    """Of one rank on its node."""
    from medhpc.train.planning import bytes_kept, bytes_of_maps

    return ranked.LIBRARIES + bytes_kept(pairs, chosen) + (0 if on_gpu else bytes_of_maps(pairs, chosen))
