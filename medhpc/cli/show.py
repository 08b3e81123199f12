"""How results look: aligned text on a terminal and in a pipe, JSON for scripts, progress bars on stderr."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import click

Progress: TypeAlias = Callable[[int, int], None]
Report: TypeAlias = Callable[[str, int, int], None]

LINE_SECONDS = 30.0  # between two lines of progress, where there is no terminal for a bar
BYTES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def as_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(values, indent=2))


def fields(values: Mapping[str, str]) -> None:
    """Print ``name  value`` lines with the values below each other; a value may have several lines."""
    for line in aligned(values):
        click.echo(line)


def aligned(values: Mapping[str, str]) -> list[str]:
    """The lines that :func:`fields` prints."""
    width, lines = max(map(len, values), default=0), []
    for name, value in values.items():
        titles = (name, *[""] * value.count("\n"))
        lines += [f"{title:{width}}  {line}".rstrip() for title, line in zip(titles, value.split("\n"), strict=True)]
    return lines


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Lines of a table below a header; numbers (and dashes for missing ones) to the right, texts to the left."""
    lines = [{name: name for name in rows[0]}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in rows[0]}
    sides = {name: ">" if all(row[name][:1] in "-0123456789" for row in rows) else "<" for name in rows[0]}
    cells = [[f"{line[name]:{sides[name]}{width}}" for name, width in widths.items()] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)


def path(name: str) -> str:
    """A path as the user would type it: from the working folder, where it lies inside."""
    try:
        return str(Path(name).relative_to(Path.cwd()))
    except ValueError:
        return name


def word(text: str) -> str:
    """A path or name as a shell takes it: to be pasted."""
    return shlex.quote(path(text))


def count(number: int, thing: str) -> str:
    """A number of things: ``1 task``, ``1,024 tasks``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes in the unit in which they are read most easily, powers of 1000."""
    for unit in BYTES[:-1]:
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {BYTES[-1]}"


def memory(count: float) -> str:
    """Bytes of memory, in the powers of 1024 that ``--memory`` and SLURM mean."""
    return f"{count / 2**40:.3g} TiB" if count >= 2**40 else f"{count / 2**30:.3g} GiB"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``0.4 s``, ``3 min 20 s``, ``7 h 5 min``, ``3 d 4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def shape(lengths: Sequence[float]) -> str:
    """Lengths along z, y and x: ``128 x 320 x 320``."""
    return " x ".join(str(length) if isinstance(length, int) else f"{length:g}" for length in lengths)


def number(value: float | None) -> str:
    """Whole from a thousand on, else four significant digits; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


@contextmanager
def bar(title: str, unit: str) -> Iterator[Progress]:
    """Progress bar on stderr while the block runs; where stderr is no terminal, a plain line now and then."""
    with stages(unit, title) as report:
        yield lambda done, total: report(title, done, total)


@contextmanager
def stages(unit: str = "", first: str = "working") -> Iterator[Report]:
    """Progress bar as :func:`bar`, for a job of several stages: the title is the stage that is running."""
    if not sys.stderr.isatty():
        with _lines(unit, first) as report:
            yield report
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    times = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
    console, together = Console(stderr=True), sys.stdout.isatty()
    with Bar(*columns, *times, console=console, transient=True, redirect_stdout=together) as shown:
        task = shown.add_task("", total=None, visible=False)
        yield lambda stage, done, total: shown.update(
            task, description=stage, completed=done, total=total, visible=True
        )


@contextmanager
def _lines(unit: str, first: str) -> Iterator[Report]:
    """Print how it stands to stderr, every `LINE_SECONDS`, also where nothing is reported for long."""
    began, ended, line = time.monotonic(), threading.Event(), first

    def report(stage: str, done: int, total: int) -> None:
        nonlocal line
        line = f"{stage}: {done:,} of {total:,} {unit}".rstrip()

    def tell() -> None:
        while not ended.wait(LINE_SECONDS):
            click.echo(f"{line}, {duration(time.monotonic() - began)} since the start", err=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield report
    finally:
        ended.set()
        teller.join()
