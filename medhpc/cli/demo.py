"""``medhpc demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import show
from medhpc.cli.plan import print_halo

if TYPE_CHECKING:
    from medhpc.run import Plan


@click.command(short_help="The whole job on a made volume, in minutes.")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, help="Of training.")
def demo(folder: str, minutes: float) -> None:
    """Make a light-sheet volume with known cells in FOLDER and do the whole job on it.

    Trains on one corner, tiles, infers, stitches, lists the cells, evaluates on the rest, and draws what happened.
    Takes about four minutes on two cores.

    \b
      medhpc demo demo
    """
    from medhpc import tiling
    from medhpc.demo import run_demo

    def planned(plan: Plan, run: Path) -> None:
        print_halo(tiling.summarize(plan, run))

    with show.stages(first="demo") as report:
        result = run_demo(folder, minutes=minutes, say=click.echo, planned=planned, report=report)
    figures = result.figures
    click.echo()
    click.echo(show.table([_row(figures[name]) for name in ("tiled", "whole", "without_halo")]))
    click.echo(
        f"cells match within {figures['cells_match_within_um']:g} um, judged where the network was not trained "
        f"({figures['judged_region']}); differences are those to the un-tiled probability"
    )
    click.echo(f"\n{show.path(str(result.picture))} shows it; {show.path(str(result.folder))} holds the files")


def _row(figures: Mapping[str, Any]) -> dict[str, str]:
    """One way to predict, and how good it was."""
    flipped = figures.get("labels_flipped")
    return {
        "": figures["title"],
        "tiles": show.number(figures["tiles"]),
        "cells": show.number(figures["cells"]),
        **{name: show.number(figures[name]) for name in ("precision", "recall", "f1")},
        "max difference": show.number(figures.get("max_error")),
        "labels flipped": "-" if flipped is None else f"{show.number(1e6 * flipped / figures['voxels'])} ppm",
        "infer": show.duration(figures["infer_seconds"]),
    }
