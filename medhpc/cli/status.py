"""``medhpc status``."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medhpc.cli import options, show
from medhpc.cli.tile_map import tile_map

if TYPE_CHECKING:
    from medhpc.jobs.progress import Progress, Watch
    from medhpc.run.state import Failures, HostPace, Status

EVERY = 2.0  # seconds between two looks
MOST_ROWS = 24  # lines of the map, where it is not drawn again and again
MOST_KINDS, MOST_HOSTS, MOST_JOBS = 5, 5, 12  # what is listed; all of it is in --json
EXAMPLE_LINES, EXAMPLE_COLUMNS = 4, 200  # of a traceback


@click.command(short_help="Say how far a run is.")
@click.argument("run")
@click.option("--verify", is_flag=True, help="Reread every stored tile and compare its digest.")
@click.option("--watch", is_flag=True, help="Go on showing it until the run is complete or Ctrl-C is pressed.")
@options.as_json
def status(run: str, verify: bool, watch: bool, as_json: bool) -> None:
    """Say how far RUN is: a map of its tiles, the rate, what failed and why, its jobs, and when it will be ready.

    \b
      medhpc status brain.run --verify
      medhpc status brain.run --watch
    """
    if watch and (verify or as_json):
        raise click.UsageError("--watch looks again and again; leave out --verify and --json")
    from medhpc.jobs import progress

    if watch:
        _watch(progress.Watch(run))
        return
    with show.bar("verify", "tiles") as bar:
        found = progress.progress(run, verify=verify, report=bar)
    if as_json:
        show.as_json(found.as_dict())
    else:
        click.echo("\n".join(page(found, shutil.get_terminal_size().columns, MOST_ROWS, colour=_in_colour())))


def page(found: Progress, width: int, height: int, *, colour: bool = False) -> list[str]:
    """All that is printed, as lines; the map has `width` columns and `height` lines at most."""
    if found.status.cleaned:
        return show.aligned(_cleaned(found.status))
    drawn = tile_map(found.states, width - 2, height).lines(colour=colour)
    facts = _tiles(found) | _pace(found.status) | _work(found)
    return [
        *show.aligned(facts),
        "",
        *(f"  {line}".rstrip() for line in drawn),
        "",
        *show.aligned({"next": _next_step(found)}),
    ]


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


# --- facts ---------------------------------------------------------------------------------------


def _cleaned(status: Status) -> dict[str, str]:
    """Of a run whose tiles `clean` has removed."""
    result = f"its result is {show.path(status.result)}" if status.result else "no result of it is left"
    return {
        "run": status.run,
        "tiles": f"{status.done:,} of {status.total:,} were done",
        "state": f"cleaned; {result}",
        "next": "nothing: plan and ledger stand; another result needs a new run",
    }


def _tiles(found: Progress) -> dict[str, str]:
    status = found.status
    percent = f" ({100 * status.done / status.total:.0f} %)"
    lines = {"run": status.run, "tiles": f"{status.total:,}", "done": f"{status.done:,}{percent}"}
    if found.live.known and found.at_work:
        lines |= {name: f"{count:,}" for name, count in _at_work(found).items() if count}
    if status.missing_tiles:
        lines["missing"] = status.missing_tiles
    if status.damaged:
        lines["damaged"] = status.damaged_tiles
    if status.failed:
        kinds = [_failure(failures) for failures in status.failures[:MOST_KINDS]]
        more = len(status.failures) - len(kinds)
        lines["failed"] = "\n".join((f"{status.failed:,}", *kinds, *([f"and {more} more kinds"] if more else [])))
    return lines


def _at_work(found: Progress) -> dict[str, int]:
    """Tiles that are running and waiting."""
    from medhpc.jobs.progress import TileState

    return {state.name.lower(): found.count(state) for state in (TileState.RUNNING, TileState.WAITING)}


def _failure(failures: Failures) -> str:
    """A kind of failure, and its example."""
    where = f", on {failures.host}" if failures.host else ""
    title = f"{failures.count:,} x {failures.kind} (tiles {failures.tiles}{where})"
    told = (failures.traceback or failures.error).strip().splitlines()[-EXAMPLE_LINES:]
    log = [f"log {failures.log}"] if failures.log else []
    return "\n".join((title, *(f"  {line[:EXAMPLE_COLUMNS]}" for line in (*told, *log))))


def _pace(status: Status) -> dict[str, str]:
    lines = {}
    if status.tiles_per_second:
        lines["rate"] = f"{show.number(status.tiles_per_second)} tiles/s"
    if status.eta_seconds:
        lines["ready in"] = f"{show.duration(status.eta_seconds)}, at this rate"
    if status.done:
        lines["stored"] = show.size(status.stored_bytes)
        lines["memory"] = f"{show.memory(status.peak_memory)} at most, in one process"
    if len(status.hosts) > 1:
        rows = [_host(host) for host in status.hosts[:MOST_HOSTS]]
        lines["hosts"] = f"{len(status.hosts):,}, slowest first\n{show.table(rows)}"
    return lines


def _host(host: HostPace) -> dict[str, str]:
    return {
        "host": host.host,
        "tiles": f"{host.tiles:,}",
        "a tile": show.duration(host.seconds),
        "memory": show.memory(host.peak_memory),
    }


def _work(found: Progress) -> dict[str, str]:
    """What is known of jobs."""
    if not found.live.known:
        return {"jobs": f"unknown: {found.live.note}"} if found.live.note else {}
    jobs = sorted(found.live.jobs, key=lambda job: not job.hosts)  # what runs comes first
    if not jobs:
        return {}
    rows = [
        {"job": job.id, "step": job.step, "state": job.state, "on": job.hosts or job.reason} for job in jobs[:MOST_JOBS]
    ]
    asked = f"as SLURM said {show.duration(max(0.1, time.time() - found.live.asked_at))} ago"
    more = f"\nand {len(jobs) - MOST_JOBS} more" if len(jobs) > MOST_JOBS else ""
    return {"jobs": f"{asked}\n{show.table(rows)}{more}"}


def _next_step(found: Progress) -> str:
    status, run = found.status, show.word(found.status.run)
    if found.at_work:
        return f"wait; 'medhpc status {run} --watch' shows how its jobs go on"
    if not status.complete:
        return _submitted(status.run) or f"medhpc infer {run}"
    if status.result:
        return f"nothing: the result is {show.path(status.result)}; 'medhpc clean {run}' removes the tiles"
    return f"medhpc stitch {run} OUT"


def _submitted(run: str) -> str:
    """The command that submitted a run last, to be given again; "" where none did."""
    from medhpc.jobs import submissions

    for submission in reversed(submissions(run)):
        for step in submission.steps:
            for target in step.targets if step.kind == "stitch" else ():
                if Path(target.run) == Path(run).resolve():
                    table = ["--objects", target.objects] if target.objects else []
                    words = [run, "--out", target.out, *step.options, *table]
                    return " ".join(["medhpc submit", *map(show.word, words)])
    return ""


# --- watching ------------------------------------------------------------------------------------


def _watch(watch: Watch) -> None:
    try:
        if sys.stdout.isatty():
            _redraw(watch)
        else:
            _tell_changes(watch)
    except KeyboardInterrupt:
        return


def _looks(watch: Watch) -> Iterator[Progress]:
    """Look again and again, until there is nothing left to wait for."""
    while True:
        began = time.monotonic()
        found = watch.look()
        yield found
        if found.status.done == found.status.total and not found.at_work:
            return
        # To look is a tenth of the time at most, also where there are a million tiles.
        time.sleep(max(EVERY, 10 * (time.monotonic() - began)))


def _redraw(watch: Watch) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as screen:
        for found in _looks(watch):
            screen.update(Text.from_ansi("\n".join(_screen(found, console.width, console.height))), refresh=True)


def _screen(found: Progress, width: int, height: int) -> list[str]:
    """The page, with a map that leaves room for the rest of it."""
    around = len(page(found, width, 1)) - 1
    clock = f"{time.strftime('%H:%M:%S')}; Ctrl-C ends the watching, not the run"
    return [*page(found, width, max(4, height - around - 2), colour=_in_colour()), clock]


def _tell_changes(watch: Watch) -> None:
    """One line for each change."""
    before = ""
    for found in _looks(watch):
        line = _summary(found)
        if line != before:
            click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
        before = line


def _summary(found: Progress) -> str:
    status = found.status
    parts = [f"{status.done:,} of {status.total:,} tiles done"]
    parts += [f"{count:,} {name}" for name, count in (*_at_work(found).items(), ("failed", status.failed)) if count]
    return ", ".join(parts)
