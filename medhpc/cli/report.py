"""``medhpc report``."""

from __future__ import annotations

import click

from medhpc.cli import show


@click.command(short_help="Write a run as one HTML file.")
@click.argument("run")
@click.argument("out", metavar="REPORT.html")
@click.option(
    "--measures",
    metavar="FILE",
    help="What 'medhpc evaluate --json' printed; RESULT.json beside the result unless given.",
)
def report(run: str, out: str, measures: str | None) -> None:
    """Write what became of RUN into one HTML file that needs no other: to look at, to print, to send.

    Projections of the volume and of its result with the tile grid, time and memory of every tile, hosts, what was used
    of what was asked for, the halo, measures, and where all of it comes from.

    \b
      medhpc report brain.run brain.html
      medhpc report brain.run brain.html --measures scores.json
    """
    from medhpc import report as reporting

    with show.stages("boxes", first="report") as progress:
        written = reporting.report(run, out, measures=measures, progress=progress)
    show.fields({"report": f"{written}\n{show.size(written.stat().st_size)}"})
