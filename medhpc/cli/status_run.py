"""How far one run is, as a page: facts, the map of its tiles, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medhpc.cli import show, status_words
from medhpc.cli.tile_map import tile_map

if TYPE_CHECKING:
    from medhpc.jobs.progress import Progress, Unplanned
    from medhpc.run.state import Failures, HostPace, Status

EXAMPLE_COLUMNS = 200  # of a traceback
LEAST_MAP = 8  # lines of a map, with its legend


@dataclass(frozen=True, kw_only=True)
class Detail:
    """How much is listed; all of it is in --json."""

    kinds: int = 5  # of failures
    example: int = 4  # lines of a traceback
    hosts: int = 5
    jobs: int = 12
    brief: bool = False  # counts in one line, no figures that do not matter now


FULL = Detail()
LESS = (
    Detail(kinds=3, example=1, hosts=3, jobs=6),
    Detail(kinds=2, example=1, hosts=0, jobs=4, brief=True),
    Detail(kinds=1, example=0, hosts=0, jobs=2, brief=True),
    Detail(kinds=0, example=0, hosts=0, jobs=0, brief=True),
)


def page(found: Progress, width: int, height: int, *, colour: bool = False) -> list[str]:
    """All that is printed, as lines; the map has `width` columns and `height` lines at most."""
    if found.status.cleaned:
        return show.aligned(_cleaned(found.status) | status_words.next_lines(found))
    body = [*show.aligned(_facts(found, FULL)), "", *_map(found, width, height, colour), ""]
    return [*body, *show.aligned(status_words.next_lines(found))]


def screen(found: Progress, width: int, height: int, *, colour: bool = False) -> list[str]:
    """What is seen while it is watched: `height` lines at most, and the map is always among them."""
    if found.status.cleaned:
        return page(found, width, height)
    least = min(LEAST_MAP, len(found.states) + 3)
    facts = [show.aligned(_facts(found, detail)) for detail in (FULL, *LESS)]
    lines = next((lines for lines in facts if len(lines) + 1 + least <= height), facts[-1])
    room = height - len(lines) - 1
    drawn = _map(found, width, room - 2, colour)
    return [*lines, "", *(drawn if len(drawn) <= room else _map(found, width, max(1, room - 3), colour))]


def page_of_unplanned(found: Unplanned) -> list[str]:
    """Of a run that was submitted before it has a plan."""
    return [*screen_of_unplanned(found), *show.aligned(status_words.next_lines(found))]


def screen_of_unplanned(found: Unplanned) -> list[str]:
    """What is seen of it while it is watched."""
    facts = {"run": show.path(found.run), "state": status_words.state(found)} | _why(found)
    return show.aligned(facts | status_words.jobs_table(found.live, FULL.jobs))


def _map(found: Progress, width: int, height: int, colour: bool) -> list[str]:
    drawn = tile_map(found.states, width - 2, height).lines(colour=colour)
    return [f"  {line}".rstrip() for line in drawn]


# --- facts ---------------------------------------------------------------------------------------


def _facts(found: Progress, detail: Detail) -> dict[str, str]:
    status = found.status
    facts = {"run": show.path(status.run), "state": status_words.state(found)} | _why(found)
    facts |= {"tiles": status_words.counts(found)} if detail.brief else _tiles(found)
    if status.failed and detail.kinds:
        facts["failed"] = _failed(status, detail)
    facts |= _pace(found) | ({} if detail.brief else _figures(status))
    if len(status.hosts) > 1 and detail.hosts:
        rows = [_host(host) for host in status.hosts[: detail.hosts]]
        facts["hosts"] = f"{len(status.hosts):,}, slowest first\n{show.table(rows)}"
    return facts | _result(status) | status_words.jobs_table(found.live, detail.jobs)


def _why(found: Progress | Unplanned) -> dict[str, str]:
    """Why nothing came of its jobs."""
    return {"why": why} if (why := status_words.why(found)) else {}


def _cleaned(status: Status) -> dict[str, str]:
    """Of a run whose tiles `clean` has removed."""
    result = f"its result is {show.path(status.result)}" if status.result else "no result of it is left"
    return {
        "run": show.path(status.run),
        "tiles": f"{status.done:,} of {status.total:,} were done",
        "state": f"cleaned; {result}",
    }


def _tiles(found: Progress) -> dict[str, str]:
    """How many are in which state, and which."""
    from medhpc.jobs.progress import TileState

    status = found.status
    percent = f" ({100 * status.done / status.total:.0f} %)"
    lines = {"tiles": f"{status.total:,}", "done": f"{status.done:,}{percent}"}
    for state in (TileState.RUNNING, TileState.WAITING, TileState.MISSING):
        if count := found.count(state):
            lines[state.name.lower()] = f"{count:,}: {found.tiles(state)}"
    if status.damaged:
        lines["damaged"] = status.damaged_tiles
    return lines


def _failed(status: Status, detail: Detail) -> str:
    """The kinds of failure."""
    kinds = [_failure(failures, detail.example) for failures in status.failures[: detail.kinds]]
    more = len(status.failures) - len(kinds)
    return "\n".join((f"{status.failed:,}", *kinds, *([f"and {more} more kinds"] if more else [])))


def _failure(failures: Failures, example: int) -> str:
    """A kind of failure, and its example."""
    where = f", on {failures.host}" if failures.host else ""
    title = f"{failures.count:,} x {failures.kind} (tiles {failures.tiles}{where})"
    told = (failures.traceback or failures.error).strip().splitlines()
    log = [f"log {failures.log}"] if failures.log else []
    shown = [*told[-example:], *log] if example else []
    return "\n".join((title, *(f"  {line[:EXAMPLE_COLUMNS]}" for line in shown)))


def _pace(found: Progress) -> dict[str, str]:
    """The rate, and when all tiles will be done at this rate."""
    if not found.status.tiles_per_second:
        return {}
    rate = f"{show.number(found.status.tiles_per_second)} tiles/s"
    if found.status.done == found.status.total:
        return {"rate": rate}
    if found.eta_seconds is None:
        return {"rate": f"{rate}, when it was last computed"}
    return {"rate": rate, "ready in": f"{show.duration(found.eta_seconds)}, at this rate"}


def _figures(status: Status) -> dict[str, str]:
    if not status.done:
        return {}
    memory = f"{show.memory(status.peak_memory)} at most, in one process"
    return {"stored": show.size(status.stored_bytes), "memory": memory}


def _host(host: HostPace) -> dict[str, str]:
    return {
        "host": host.host,
        "tiles": f"{host.tiles:,}",
        "a tile": show.duration(host.seconds),
        "memory": show.memory(host.peak_memory),
    }


def _result(status: Status) -> dict[str, str]:
    """What was stitched last, and what has to be said of it."""
    if not status.result:
        return {}
    return {"result": show.path(status.result)} | ({"note": status.note} if status.note else {})
