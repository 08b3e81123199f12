"""``medhpc status --watch``: looks again and again, until nobody is at work any more."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from medhpc.cli import show, status_folder, status_run, status_words

if TYPE_CHECKING:
    from medhpc.jobs.progress import View
    from medhpc.jobs.watch import Watch

EVERY = 2.0  # seconds between two looks
QUIET = 60.0  # seconds in which somebody may yet begin, on a run that was not submitted


def watch(looking: Watch, *, colour: bool) -> None:
    """Show how runs go on, on a terminal by drawing again, else by a line for each change; then say how it ended."""
    try:
        found = _redraw(looking, colour) if sys.stdout.isatty() else _tell_changes(looking)
    except KeyboardInterrupt:
        return
    click.echo(last_word(found))


def _looks(looking: Watch) -> Iterator[View]:
    """Look until nobody is at work, and nobody is awaited."""
    quiet_since = time.monotonic()
    while True:
        began = time.monotonic()
        found = looking.look()
        yield found
        if found.at_work:
            quiet_since = time.monotonic()
        elif is_over(found) or time.monotonic() - quiet_since >= QUIET:
            return
        # To look is a tenth of the time at most, also where there are a million tiles.
        time.sleep(max(EVERY, 10 * (time.monotonic() - began)))


def is_over(found: View) -> bool:
    """Whether nobody is awaited: no job is left of what was submitted, or all is done.

    While SLURM does not answer, jobs may be there; and what was never submitted may be begun by hand.
    """
    from medhpc.jobs.progress import Overview, Phase, Progress

    if isinstance(found, Overview):
        return all(map(is_over, found.runs))
    if isinstance(found, Progress) and not found.submitted:
        return found.status.done == found.status.total
    return found.phase != Phase.UNKNOWN


def last_word(found: View) -> str:
    """How it ended, in one line, and what to do next."""
    from medhpc.jobs.progress import Overview, Phase, Progress

    if isinstance(found, Overview):
        if all(run.phase == Phase.READY for run in found.runs):
            return f"complete: {show.count(len(found.runs), 'result')} in {show.path(found.folder)}"
        return f"ended: {status_folder.counts(found)}; next: {status_words.advice(found)[0].words}"
    first = status_words.advice(found)[0]
    onwards = f"; next: {' '.join(filter(None, (first.words, first.command)))}"
    if not isinstance(found, Progress):
        return status_words.state(found) + onwards
    status = found.status
    if found.phase == Phase.READY:
        note = f" ({status.note})" if status.note else ""
        return f"complete: the result is {show.path(status.result or '')}{note}"
    missing = f"; {show.count(status.missing, 'tile')} missing" if status.missing else ""
    return status_words.state(found) + missing + onwards


# --- on a terminal -------------------------------------------------------------------------------


def _redraw(looking: Watch, colour: bool) -> View:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for found in _looks(looking):
            lines = screen(found, console.width, console.height, colour=colour)
            text = Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)
    return found


def screen(found: View, width: int, height: int, *, colour: bool = False) -> list[str]:
    """What is seen at one moment, with the time, in `height` lines at most."""
    from medhpc.jobs.progress import Overview, Progress

    room = height - 2
    if isinstance(found, Overview):
        lines = status_folder.screen(found, room)
    elif isinstance(found, Progress):
        lines = status_run.screen(found, width, room, colour=colour)
    else:
        lines = status_run.screen_of_unplanned(found)
    is_quiet = not found.at_work and not is_over(found)
    awaited = f"nobody is seen at work; for {show.duration(QUIET)} somebody may begin; " if is_quiet else ""
    return [*lines, f"{time.strftime('%H:%M:%S')}; {awaited}Ctrl-C ends the watching, not the run"]


# --- in a pipe -----------------------------------------------------------------------------------


def _tell_changes(looking: Watch) -> View:
    """One line for each change."""
    before = ""
    for found in _looks(looking):
        line = _summary(found)
        if line != before:
            click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
        before = line
    return found


def _summary(found: View) -> str:
    """How it stands, in one line."""
    from medhpc.jobs.progress import Overview, Phase, Progress

    if isinstance(found, Overview):
        done = sum(run.status.done for run in found.runs if isinstance(run, Progress))
        return f"{status_folder.counts(found)}; {show.count(done, 'tile')} done"
    if not isinstance(found, Progress):
        return status_words.state(found)
    counts = status_words.counts(found)
    return counts if found.phase == Phase.RUNNING else f"{counts}; {status_words.state(found)}"
