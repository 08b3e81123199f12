"""``medhpc status --watch``: looks again and again, until nobody is at work any more."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from medhpc.cli import show, status_folder, status_run, status_words

if TYPE_CHECKING:
    from medhpc.jobs.progress import View
    from medhpc.jobs.watch import Watch

EVERY = 2.0  # seconds between two looks
QUIET = 60.0  # seconds in which somebody may yet begin, on a run that was not submitted


def watch(looking: Watch, *, colour: bool) -> int:
    """Show how runs go on, on a terminal by drawing again, else by a line for each change; then say how it ended.

    Returns
    -------
    int
        Exit code: 1 where something has failed or was given up, 0 else, also where the user has seen enough.
    """
    from medhpc.jobs.progress import failed

    with _ending_on_signals() as asked:
        found = _redraw(looking, colour, asked) if sys.stdout.isatty() else _tell_changes(looking, asked)
    if asked:
        return 0 if asked[0] == signal.SIGINT else 128 + asked[0]
    assert found is not None  # it looks once at least
    click.echo(last_word(found))
    return int(failed(found))


@contextmanager
def _ending_on_signals() -> Iterator[list[int]]:
    """Leave the block on SIGINT and SIGTERM, and tell which it was.

    An exception that a signal raises is lost where Python cannot pass it on, as in what a weak reference calls; the
    list that the block gets is not.
    """
    asked: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        asked.append(number)
        raise _Asked

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as of what a script has started with &
    numbers = (signal.SIGTERM,) if ignored else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        with suppress(_Asked):
            yield asked
    finally:
        for number, act in before.items():
            signal.signal(number, act)


class _Asked(BaseException):
    """To leave whatever is at work."""


def _looks(looking: Watch, asked: list[int]) -> Iterator[View]:
    """Look until nobody is at work, and nobody is awaited, or the end is asked for."""
    quiet_since = time.monotonic()
    while not asked:
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
        ended = f"ended: {status_folder.counts(found)}; next: {status_words.advice(found)[0].words}"
        return "\n".join([*status_folder.reasons(found), ended])
    first = status_words.advice(found)[0]
    onwards = f"; next: {' '.join(filter(None, (first.words, first.command)))}"
    why = f"; {found.why.error} (log {show.path(found.why.log)})" if found.why else ""
    if not isinstance(found, Progress):
        return status_words.state(found) + why + onwards
    status = found.status
    if found.phase == Phase.READY:
        note = f" ({status.note})" if status.note else ""
        return f"complete: the result is {show.path(status.result or '')}{note}"
    missing = f"; {show.count(status.missing, 'tile')} missing" if status.missing else ""
    return status_words.state(found) + missing + why + onwards


# --- on a terminal -------------------------------------------------------------------------------


def _redraw(looking: Watch, colour: bool, asked: list[int]) -> View | None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, found = Console(), None
    with Live(console=console, auto_refresh=False) as live:
        for found in _looks(looking, asked):
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


def _tell_changes(looking: Watch, asked: list[int]) -> View | None:
    """One line for each change."""
    found, before = None, ""
    for found in _looks(looking, asked):
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
