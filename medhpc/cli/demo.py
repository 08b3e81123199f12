"""``medhpc demo``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from medhpc.cli import show


@click.command(short_help="The whole job on a made volume, in minutes.")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, help="Of training.")
def demo(folder: str, minutes: float) -> None:
    """Make a light-sheet volume with known cells in FOLDER and do the whole job on it.

    Trains on one corner, tiles, infers, stitches, lists the cells, evaluates on the rest, and draws what happened.
    Takes under six minutes on two cores.

    \b
      medhpc demo demo
    """
    from medhpc.demo import run_demo

    with show.stages() as report:
        result = run_demo(folder, minutes=minutes, say=click.echo, report=report)
    figures = result.figures
    click.echo()
    click.echo(show.table([_row(name, figures[name]) for name in ("tiled", "whole", "without_halo")]))
    click.echo(f"\n{result.picture} shows it; {result.folder} holds the files")


def _row(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    """One way to predict, and how good it was."""
    columns = ("tiles", "halo", "cells", "precision", "recall", "f1", "max_error", "labels_flipped")
    numbers = {column.replace("_", " "): show.number(figures.get(column)) for column in columns}
    return {"": name.replace("_", " ")} | numbers | {"infer": show.duration(figures["infer_seconds"])}
