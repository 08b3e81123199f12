"""``medhpc dip --submit``."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, ranked
from medhpc.errors import BadOption

if TYPE_CHECKING:
    from medhpc.dip.options import Options

COPIES = 12  # of a rank's planes in float32, while they are read and scaled, and what is taken away is judged
MEASURED = 1  # of the whole volume, while its noise is

job_options = options.together(
    ranked.submit_option,
    ranked.nodes_option,
    ranked.gpus_option,
    click.option(
        "--time", type=options.Duration(), default="4h", show_default=True, metavar="TIME", help="With --submit."
    ),
    ranked.dry_run_option,
)


def submit(noisy: str, clean: str, chosen: Options, given: dict[str, Any], as_json: bool) -> None:
    """Submit this command, or print its sbatch file."""
    from medhpc.jobs.packing import Resources
    from medhpc.jobs.ranked import RankedJob

    if given["parallel"] == "layers":
        raise BadOption("--submit starts ranks, and --parallel layers is one process with two GPUs: give one of them")
    nodes, gpus = given["nodes"], given["gpus"]
    words = ranked.words(paths=("mask", "truth"))
    job = RankedJob(
        kind="dip",
        out=os.path.abspath(clean),
        values={"OPTIONS": words, "VOLUME": os.path.abspath(noisy), "CLEAN": os.path.abspath(clean)},
        nodes=nodes,
        ranks_per_node=max(gpus, 1),
        resources=Resources(
            cpus=given["threads"] or 0,
            memory=_memory(noisy, chosen, given, nodes * max(gpus, 1)),
            seconds=int(given["time"]),
            gpus=1 if gpus else 0,
        ),
    )
    ranked.submit(job, given["dry_run"], as_json)


def _memory(noisy: str, chosen: Options, given: dict[str, Any], ranks: int) -> int:
    """Of one rank on its node; refuses more ranks than there are slabs."""
    from medhpc.dip.plan import image_shape, largest_share, need

    shape, _ = image_shape(noisy, given["channel"])
    share = largest_share(shape, chosen, ranks)
    part = 1.0 if given["whole"] else min(1.0, len(share.seen.of(share.ranks.rank)) / share.length)
    images = int(4 * math.prod(shape) * (COPIES * part + MEASURED))
    if given["gpus"]:
        return ranked.LIBRARIES + images
    precision = "fp32" if chosen.precision == "auto" else chosen.precision
    return ranked.LIBRARIES + images + int(1.2 * need(shape, chosen, precision, given["checkpoint"] or 0, ranks).peak)
