"""``medhpc demo``."""

from __future__ import annotations

import click

from medhpc.cli import options, show


@click.command(short_help="The whole job on a made volume, in minutes.")
@click.argument("folder", type=click.Path(file_okay=False))
@options.device
@options.threads
def demo(folder: str, device: str, threads: int | None) -> None:
    """Make a light-sheet volume with known cells in FOLDER and do the whole job on it, in a few minutes.

    Trains on one corner, tiles, infers, stitches, lists the cells, evaluates on the rest, and draws what happened.

    \b
      medhpc demo demo
    """
    from medhpc.demo import run_demo

    with show.bar("demo", "steps") as progress:
        run_demo(folder, device=device, threads=threads, progress=progress)
