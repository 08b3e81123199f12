"""``medhpc dip-plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import early, options, show
from medhpc.cli.dip import network, options_of

if TYPE_CHECKING:
    from medhpc.dip.plan import Need, Plan


class Numbers(click.ParamType):
    """Whole numbers above zero, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: D102
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(word.isdecimal() and int(word) for word in words):
            self.fail(f"'{value}' is not a list of numbers such as 1,2,4", param, ctx)
        return tuple(map(int, words))


@click.command("dip-plan", short_help="Say what `dip` needs, before it runs.")
@click.argument("volume")
@network
@click.option(
    "--ranks",
    type=Numbers(),
    default="1",
    show_default=True,
    metavar="N,...",
    help="Shared by so many: a list such as 1,2,4.",
)
@options.channel
@options.as_json
def dip_plan(volume: str, ranks: tuple[int, ...], channel: int | None, as_json: bool, **settings: Any) -> None:
    """Say how much memory and computing `dip` takes for VOLUME; no GPU is needed to know, and no voxel is read.

    Unless --precision or --checkpoint say which, several are told. A CPU takes as much memory as a GPU.

    \b
      medhpc dip-plan head.nii.gz
      medhpc dip-plan head.nii.gz --ranks 1,2,4,8
    """
    early.check_volume(volume, channel, series=True)
    from medhpc.dip.plan import plan

    checkpoint = settings.pop("checkpoint")
    found = plan(
        volume,
        options_of(settings),
        channel=channel,
        ranks=ranks,
        checkpointed=None if checkpoint is None else (checkpoint,),
    )
    if as_json:
        show.as_json(found.as_dict())
    else:
        _print_plan(found)


def _print_plan(plan: Plan) -> None:
    """Memory by precision and checkpointing, and what to ask SLURM for."""
    show.fields(
        {
            "volume": f"{plan.volume}\n{show.shape(plan.shape)} voxels, computed as {show.shape(plan.filled)}",
            "network": f"{plan.parameters:,} parameters on {plan.levels} levels",
            "work": f"{plan.flops / 1e12:.3g} TFLOP per iteration, {plan.flops * plan.iterations / 1e15:.3g} PFLOP in "
            f"{plan.iterations:,} iterations" + (f", for each of {plan.parts} volumes" if plan.parts > 1 else ""),
        }
    )
    click.echo(show.table([{**_plan_row(need), "ask for": need.ask} for need in plan.needs]))
    if any(need.ranks > 1 for need in plan.needs):
        click.echo("of the rank with the thickest slab; levels below the second are whole on each")
    halves = " + ".join(show.memory(held) for held in plan.halves)
    click.echo(f"--parallel layers would keep {halves} for the backward pass on its two GPUs (fp32)")
    click.echo("workspace of the GPU's libraries comes on top: " + show.memory(plan.workspace) + " is allowed for")


def _plan_row(need: Need) -> dict[str, str]:
    levels = {f"level {number}": show.memory(kept) for number, kept in enumerate(need.kept)}
    return {
        "ranks": f"{need.ranks}",
        "precision": need.precision,
        "--checkpoint": f"{need.checkpointed}",
        **levels,
        "peak": show.memory(need.peak),
    }
