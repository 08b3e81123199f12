"""What a run cost: time and memory of its tiles, hosts, and what was used of what was asked for."""

from __future__ import annotations

import numpy as np

from medhpc.report.drawings import curve, memory_map, meter, time_map
from medhpc.report.facts import Facts
from medhpc.report.html import Html, element, joined, section, table
from medhpc.report.use import Use
from medhpc.report.words import count, duration, gib
from medhpc.run.tally import in_space

MOST_HOSTS = 40


def tiles(facts: Facts) -> Html | None:
    """Maps of what each tile cost, and the run over time."""
    tally, done = facts.tally, facts.tally.done
    if not done.any():
        return None
    seconds, memory = (
        in_space(np.where(done, values, np.nan), facts.plan.grid)
        for values in (tally.seconds, tally.memory.astype(float))
    )
    time_note = (
        f"Median {np.nanmedian(seconds):.3g} s, longest {np.nanmax(seconds):.3g} s: from the commit before in the "
    )
    maps = (
        section(
            "Time of each tile",
            time_map(seconds, facts.plan),
            note=time_note + "same task to the tile's own. A square is a tile, a map a z-slab of the tile grid.",
        ),
        section(
            "Memory of each tile",
            memory_map(memory, facts.plan),
            note="Peak of its process, from its start until the tile was stored.",
        ),
    )
    return joined((element("div", *maps, class_="columns"), _over_time(facts)))


def _over_time(facts: Facts) -> Html | None:
    tally, done = facts.tally, facts.tally.done
    ends = tally.committed[done]
    drawn = curve(ends, len(done))
    if drawn is None:
        return None
    repeated = int(np.count_nonzero(done & (tally.failed > 0)))
    again = f"{count(repeated, 'tile')} failed at first and {'was' if repeated == 1 else 'were'} computed again."
    return section(
        "The run over time",
        element(
            "div",
            _axis(f"{len(done):,}", "tiles done", "0", class_="axis upright"),
            element("div", drawn, class_="plot"),
            _axis("0", "time since the first tile was done", duration(float(np.ptp(ends))), class_="axis"),
            class_="chart",
        ),
        note=again if repeated else "",
    )


def _axis(*labels: str, class_: str) -> Html:
    """Labels along an axis: at its ends, and what it shows between them."""
    return element("p", *(element("span", label) for label in labels), class_=class_)


def hosts(facts: Facts) -> Html | None:
    """What tiles cost host by host, slowest first."""
    found = facts.status.hosts
    if not found:
        return None
    rows = [
        (host.host or "unknown", f"{host.tiles:,}", f"{host.seconds:.3g} s", gib(host.peak_memory))
        for host in found[:MOST_HOSTS]
    ]
    more = f"The slowest {MOST_HOSTS} of {len(found):,}." if len(found) > MOST_HOSTS else ""
    return section(
        "Hosts", table(("host", "tiles", "seconds a tile, median", "peak memory"), rows, numbers=(1, 2, 3)), note=more
    )


def efficiency(facts: Facts) -> Html | None:
    """Memory, time and cores, used and asked for, round by round."""
    uses = [use for use in facts.uses if use.tiles or use.tasks_asked]
    if not uses:
        return None
    rows = [
        (
            use.name,
            ", ".join(use.jobs) or "–",
            _of(f"{use.tasks:,}" if use.jobs else "", use.tasks_asked and f"{use.tasks_asked:,}"),
            f"{use.tiles:,}",
            _meter(gib(use.memory), use.memory_asked and gib(use.memory_asked), _share(use.memory, use.memory_asked)),
            _meter(
                _longest(use), use.seconds_asked and duration(use.seconds_asked), _share(use.seconds, use.seconds_asked)
            ),
            _meter(_cores(use), use.cores_asked and f"{use.cores_asked}", _share(use.cores, use.cores_asked)),
        )
        for use in uses
    ]
    header = ("round", "job", "tasks", "tiles", "memory, largest process", "time, longest task", "cores busy, mean")
    return section(
        "Used, of what was asked for",
        table(header, rows, numbers=(2, 3)),
        note="From the ledger: tasks count that stored a tile, from the start of the first to the commit of the last; "
        "starting Python and loading the network is not in it.",
    )


def _longest(use: Use) -> str:
    return duration(use.seconds) if use.jobs and use.tiles else ""


def _cores(use: Use) -> str:
    return "" if use.cores is None else f"{use.cores:.2g}"


def _share(used: float | None, asked: float | None) -> float | None:
    return used / asked if used is not None and asked else None


def _of(used: str, asked: str | int | None) -> str:
    """Used, of what was asked for; where what was used is not known, only the latter."""
    if not used:
        return f"{asked} asked for" if asked else "–"
    return f"{used} of {asked}" if asked else used


def _meter(used: str, asked: str | int | None, share: float | None) -> Html:
    return joined((_of(used, asked), meter(share) if used else None))
