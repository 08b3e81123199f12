"""``medhpc bench``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import early, options, run_options, show

if TYPE_CHECKING:
    from medhpc.scaling import Scaling

PARTS = ("read", "compute", "exchange", "write", "other")


class Counts(click.ParamType):
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: D102
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"'{value}' is not a list of whole numbers such as 1,2,4", param, ctx)
        return tuple(map(int, parts))


@click.group(short_help="Measure how a run scales.")
def bench() -> None:
    """Measure how a run scales on this machine."""


@bench.command(short_help="The same volume by 1, 2, 4 ... ranks or tasks.")
@click.argument("volume")
@click.option("--out", required=True, metavar="FOLDER", help="For scaling.json, scaling.png and the runs.")
@click.option(
    "--by",
    type=click.Choice(["ranks", "tasks"]),
    default="ranks",
    show_default=True,
    help="Ranks share the rows of a sweep or of columns; tasks share tiles.",
)
@click.option("--counts", type=Counts(), default="1,2,4", show_default=True, help="How many; 1 is among them.")
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Of each; what the largest count leaves unless given."
)
@click.option(
    "--on",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="slurm: by srun, inside an allocation.",
)
@run_options.without(run_options.tile_options, "threads", "store", "dtype")
@options.as_json
def scaling(volume: str, out: str, as_json: bool, **settings: Any) -> None:
    """Compute VOLUME by several numbers of ranks or tasks, and say what each took and where the time went.

    From the run of one, and the speed of messages between two, a model predicts up to 64, each with cores of its own.
    A count that is done is not run again.

    \b
      medhpc bench scaling brain.tif --network cells.safetensors --out scaling --scheme sweep
      medhpc bench scaling brain.tif --network cells.safetensors --out tasks --by tasks --counts 1,2,4,8
      salloc --ntasks 16 --cpus-per-task 8 medhpc bench scaling brain.tif --network cells.safetensors \\
        --out nodes --scheme sweep --counts 1,2,4,8,16 --threads 8 --on slurm
    """
    early.check_volume(volume, settings["channel"], settings["level"])
    early.check_network(settings["network"])
    from medhpc.scaling import scaling as measure

    with show.stages(first="planning") as report:
        found = measure(volume, out, report=report, **settings)
    if as_json:
        show.as_json(found.as_dict())
    else:
        click.echo(scaling_text(found))
    if not all(one.same for one in found.measured):
        click.echo("medhpc: error: results differ by more than a step: see the column 'difference'", err=True)
        sys.exit(1)


def scaling_text(found: Scaling) -> str:
    """What was measured, and what is predicted for more."""
    title = f"measured, {show.count(found.threads, 'thread')} each"
    more = [row for row in found.predicted if row.count > found.measured[-1].count]
    lines = [title, show.table(_measured(found))]
    if more:
        lines += ["", "predicted, each with cores of its own", show.table(_predicted(found))]
    if found.link:
        latency, speed = f"{1e6 * found.link.latency:.3g} us", f"{show.size(found.link.bandwidth)}/s"
        lines += ["", f"between two ranks: {latency} for an exchange, {speed}"]
    if found.checks:
        worst = max(map(found.error, found.checks), key=abs)
        lines += [f"the model is off by {_percent(worst)} at most where there were cores to check it"]
    return "\n".join(lines + ([f"note: {found.note}"] if found.note else []))


def _measured(found: Scaling) -> list[dict[str, str]]:
    rows = []
    for one in found.measured:
        predicted = found.of(one.count)
        row = _speed(found, one.count, one.seconds)
        row |= {part: f"{100 * one.part(part):.0f} %" for part in PARTS}
        row |= {
            "core s": _seconds(one.cpu),
            "memory": show.memory(one.memory),
            "difference": str(one.difference),
            "predicted": _seconds(predicted.seconds) if predicted else "-",
            "off by": _percent(found.error(one)) if predicted else "-",
        }
        rows.append(row)
    return rows


def _predicted(found: Scaling) -> list[dict[str, str]]:
    rows = []
    for row in found.predicted:
        cells = _speed(found, row.count, row.seconds)
        cells |= {part: f"{100 * getattr(row, part) / row.seconds:.0f} %" for part in PARTS}
        cells |= {"memory": show.memory(row.memory), "sent": show.size(row.sent)}
        rows.append(cells)
    return rows


def _speed(found: Scaling, count: int, seconds: float) -> dict[str, str]:
    """The first cells of a row."""
    speed_up = found.speed_up(seconds)
    return {
        found.by: str(count),
        "seconds": _seconds(seconds),
        "speed-up": f"{speed_up:.2f}",
        "efficiency": f"{100 * speed_up / count:.0f} %",
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 1000 else f"{seconds:,.0f}"


def _percent(error: float) -> str:
    return f"{round(100 * error):+d} %"
