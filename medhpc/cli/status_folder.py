"""How far the runs of a folder are, as a page: a row for each, their jobs, what to do next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from medhpc.cli import show, status_words

if TYPE_CHECKING:
    from medhpc.jobs.progress import Overview, Progress, Unplanned

MOST_JOBS = 12


def page(found: Overview) -> list[str]:
    """All that is printed, as lines."""
    below = status_words.jobs_table(found.live, MOST_JOBS) | status_words.next_lines(found)
    return [*_top(found), "", *_table(found.runs), "", *reasons(found), *show.aligned(below)]


def screen(found: Overview, height: int) -> list[str]:
    """What is seen while it is watched: `height` lines at most; where room is short, what is ready is left out."""
    top = _top(found)
    for most in (MOST_JOBS, 4, 0):
        jobs = [*reasons(found)[: 2 * most], *show.aligned(status_words.jobs_table(found.live, most))]
        room = height - len(top) - len(jobs) - 3
        if room >= min(8, len(found.runs)):
            break
    return [*top, "", *_table(_most_telling(found, max(1, room))), *([""] if jobs else []), *jobs]


def counts(found: Overview) -> str:
    """How many runs are in which phase, in one line."""
    phases = Counter(str(run.phase) for run in found.runs)
    return f"{show.count(len(found.runs), 'volume')}: " + ", ".join(f"{count} {name}" for name, count in phases.items())


def reasons(found: Overview) -> list[str]:
    """Why nothing came of runs, where it is known: what failed, and the log that says it."""
    return [line for run in found.runs if run.why for line in _reason(run)]


def _reason(run: Progress | Unplanned) -> list[str]:
    assert run.why
    return [f"{Path(run.run).name}: {run.phase}: {run.why.error}", f"  log {show.path(run.why.log)}"]


def _top(found: Overview) -> list[str]:
    from medhpc.jobs.progress import Progress

    planned = [run.status for run in found.runs if isinstance(run, Progress)]
    done, total, failed = (sum(getattr(run, name) for run in planned) for name in ("done", "total", "failed"))
    tiles = f"{done:,} of {total:,} done" + (f", {failed:,} failed" if failed else "")
    told = {"tiles": tiles} if planned else {}
    return show.aligned({"folder": show.path(found.folder), "runs": counts(found)} | told)


def _most_telling(found: Overview, most: int) -> tuple[Progress | Unplanned, ...]:
    """So many of the runs: those that are at work or need a look, then those that are ready."""
    from medhpc.jobs.progress import Phase

    order = sorted(range(len(found.runs)), key=lambda place: found.runs[place].phase in (Phase.READY, Phase.CLEANED))
    return tuple(found.runs[place] for place in sorted(order[:most]))


def _table(runs: tuple[Progress | Unplanned, ...]) -> list[str]:
    return [f"  {line}" for line in show.table([_row(run) for run in runs]).split("\n")]


def _row(run: Progress | Unplanned) -> dict[str, str]:
    from medhpc.jobs.progress import Progress

    name, told = Path(run.run).name, {"state": str(run.phase)}
    if not isinstance(run, Progress):
        return {"run": name, "tiles": "-", "done": "-", "failed": "-", **told, "result": "-"}
    status = run.status
    result = Path(status.result).name if status.result else "-"
    return {
        "run": name,
        "tiles": f"{status.total:,}",
        "done": f"{status.done:,}",
        "failed": f"{status.failed:,}",
        **told,
        "result": f"{result} (empty)" if status.note else result,
    }
