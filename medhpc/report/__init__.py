"""A run as one HTML file, to look at, to print and to send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.report.facts import gather
from medhpc.report.page import page
from medhpc.run.durable import write_durably

__all__ = ["report"]


def report(
    run: str | Path,
    out: str | Path,
    *,
    measures: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write the report of a run: pictures, times, memory, halo, measures, provenance.

    Parameters
    ----------
    run : path
        The run folder.
    out : path
        The HTML file; renamed into place. It needs no other file, and no network.
    measures : path, optional
        What ``medhpc evaluate --json`` printed. Unless given, RESULT.json beside the result is taken, if there is one.
    progress : callable, optional
        Called with (what is being looked at, done, total).

    Raises
    ------
    NotARun
    BadOption
        `out` is not called .html, or its folder does not exist; `measures` is no JSON object.
    DiskFull, NoPermission
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise BadOption(f"{out}: a report is an HTML file; let its name end in .html")
    if not out.parent.is_dir():
        raise BadOption(f"{out}: its folder does not exist; make it first")
    text = page(gather(run, measures=measures, report=progress))
    write_durably(out, text.encode(errors="replace"))
    return out
