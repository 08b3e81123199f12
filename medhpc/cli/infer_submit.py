"""``medhpc infer --submit``: the columns of a run by the ranks of one job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, ranked
from medhpc.errors import BadOption

if TYPE_CHECKING:
    from medhpc.run import Plan

MORE_SECONDS = 15 * 60
"""Beyond those that the plan expects."""

job_options = options.together(
    ranked.submit_option,
    click.option("--nodes", type=click.IntRange(1), metavar="N", help="With --submit; for as many ranks as planned."),
    ranked.tasks_option,
    ranked.gpus_option,
    click.option(
        "--time", type=options.Duration(), metavar="TIME", help="With --submit; twice what is planned unless given."
    ),
    ranked.dry_run_option,
)


def submit(run: str, job: Mapping[str, Any], threads: int | None, parts: Sequence[str | None], as_json: bool) -> None:
    """Submit a job that computes all that is missing, or print its sbatch file; `job` holds the options from above."""
    from medhpc.jobs.packing import HEADROOM, SPARE, Resources
    from medhpc.jobs.ranked import RankedJob
    from medhpc.run import Run

    opened, per_node = Run(run), ranked.ranks_of_node(job)
    nodes, plan = _nodes(opened.plan, job["nodes"], per_node), opened.plan
    if any(parts):
        raise BadOption("--submit computes all that is missing, by ranks; leave --task, --tiles and --missing out")
    opened.jobs.mkdir(exist_ok=True)
    script = RankedJob(
        kind="sweep",
        out=str(opened.jobs.resolve() / "infer"),
        values={"OPTIONS": ranked.words(), "RUN": os.path.abspath(run)},
        nodes=nodes,
        ranks_per_node=per_node,
        resources=Resources(
            cpus=threads or plan.cost.threads,
            memory=int(HEADROOM * plan.memory_bytes),
            seconds=int(job["time"] or MORE_SECONDS + SPARE * plan.seconds / (nodes * per_node)),
            gpus=1 if job["gpus"] else 0,
        ),
    )
    ranked.submit(script, job["dry_run"], as_json)


def _nodes(plan: Plan, asked: int | None, per_node: int) -> int:
    """As many as asked for, or as the planned ranks need.

    Raises
    ------
    BadOption
        The run has no columns, or fewer ranks are asked for than have the memory.
    """
    if not plan.sweep:
        raise BadOption("this run has tiles by themselves, which tasks share: medhpc submit RUN --out OUT")
    planned = plan.sweep.ranks
    nodes = asked or -(-planned // per_node)
    if nodes * per_node < planned:
        raise BadOption(
            f"planned for {planned} ranks, {nodes * per_node} are asked for, which need more memory each; ask for as "
            "many, or plan again with --ranks"
        )
    return nodes
