"""``medhpc status``."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from medhpc.cli import options, show, status_folder, status_run, watch

if TYPE_CHECKING:
    from medhpc.jobs.progress import View

MOST_ROWS = 24  # lines of the map, where it is not drawn again and again


@click.command(short_help="Say how far a run is.")
@click.argument("run", metavar="RUN | DIR")
@click.option("--verify", is_flag=True, help="Reread every stored tile and compare its digest.")
@click.option("--watch", "watching", is_flag=True, help="Go on showing it while somebody is at work; Ctrl-C ends it.")
@options.as_json
def status(run: str, verify: bool, watching: bool, as_json: bool) -> None:
    """Say how far RUN is: a map of its tiles, the rate, what failed and why, its jobs, and when it will be ready.

    Of DIR, the --out-dir of several volumes, a row for each. With --watch, the exit code is 1 where something failed.

    \b
      medhpc status brain.run --verify
      medhpc status brain.run --watch
    """
    if watching and (verify or as_json):
        raise click.UsageError("--watch looks again and again; leave out --verify and --json")
    from medhpc.jobs import watch as looking

    if watching:
        sys.exit(watch.watch(looking.Watch(run), colour=_in_colour()))
    with show.bar("verify", "tiles") as bar:
        found = looking.look(run, verify=verify, report=bar)
    if as_json:
        show.as_json(found.as_dict())
    else:
        click.echo("\n".join(page(found, shutil.get_terminal_size().columns, colour=_in_colour())))


def page(found: View, width: int, *, colour: bool = False) -> list[str]:
    """All that is printed, as lines; maps have `width` columns at most."""
    from medhpc.jobs.progress import Overview, Progress

    if isinstance(found, Overview):
        return status_folder.page(found)
    if isinstance(found, Progress):
        return status_run.page(found, width, MOST_ROWS, colour=colour)
    return status_run.page_of_unplanned(found)


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
