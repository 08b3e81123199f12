"""What a number of ranks or tasks would take, by the rates of one.

Each has its own cores and its own memory bandwidth, and files are as fast for many as for one. Computing and reading
take a time for each voxel, the neighbours' rows a part of it, an exchange its latency and its bytes. Commits lie behind
the computing as far as that lasts; of ranks, the first one makes them all. What a run takes besides does not become
less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medhpc.infer.clock import Spent
from medhpc.infer.results import WRITERS
from medhpc.scaling.shares import Share


@dataclass(frozen=True, kw_only=True)
class Link:
    """Between two ranks."""

    latency: float  # seconds of an exchange of next to nothing
    bandwidth: float  # bytes a second, in both directions at once


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one rank, or one task that had all tiles, took."""

    compute: float  # seconds for each voxel computed
    ghost: float  # seconds for each voxel of the neighbours' rows
    read: float  # seconds for each voxel read, of waiting
    write: float  # seconds for each voxel written, of waiting
    hidden: float  # seconds for each voxel written, of commits behind the computing
    other: float  # seconds of each process
    memory: int  # bytes
    base: int  # bytes of that which libraries take
    pixels: int  # of the planes that take the others; 0 for boxes
    link: Link | None

    @classmethod
    def of(cls, spent: Spent, share: Share, *, memory: int, base: int, link: Link | None, ghost: float = 0.0) -> Rates:
        """From what was measured of the one that did it all; `ghost` is what :mod:`medhpc.scaling.ghosts` measures."""
        hidden = min(max(0.0, spent.writing / WRITERS - spent.write), spent.compute + spent.read)
        return cls(
            compute=spent.compute / share.computed,
            ghost=ghost * spent.compute / share.computed,
            read=spent.read / share.read,
            write=spent.write / share.written,
            hidden=hidden / share.written,
            other=spent.other,
            memory=memory,
            base=base,
            pixels=share.pixels,
            link=link,
        )


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What so many are expected to take."""

    count: int
    seconds: float  # the sum of the next five
    read: float
    compute: float
    exchange: float
    write: float
    other: float
    computed: int  # voxels, by all together
    sent: int  # bytes, by the one that sends most
    memory: int  # bytes, of the one that takes most


def predict(rates: Rates, shares: Sequence[Share], *, in_step: bool) -> Predicted:
    """Seconds of a run.

    Parameters
    ----------
    rates : Rates
    shares : sequence of Share
        Of each rank or task.
    in_step : bool
        They wait for each other (ranks), so that the slowest at each part counts; else the slowest in all (tasks).
    """
    times = [_times(rates, share) for share in shares]
    slowest = max(times, key=lambda parts: sum(parts.values()))
    if in_step:
        slowest = {part: max(parts[part] for parts in times) for part in slowest}
    return Predicted(
        count=len(shares),
        seconds=sum(slowest.values()),
        **slowest,
        computed=sum(share.computed for share in shares),
        sent=max(share.sent for share in shares),
        memory=max(_memory(rates, share) for share in shares),
    )


def _times(rates: Rates, share: Share) -> dict[str, float]:
    """Seconds of each part."""
    compute, read = rates.compute * share.computed + rates.ghost * share.ghosts, rates.read * share.read
    exchange = 0.0
    if share.exchanges:
        assert rates.link
        exchange = share.exchanges * rates.link.latency + max(share.sent, share.received) / rates.link.bandwidth
    behind = max(0.0, rates.hidden * share.written - compute - read - exchange)
    write = rates.write * share.written + behind
    return {"read": read, "compute": compute, "exchange": exchange, "write": write, "other": rates.other}


def _memory(rates: Rates, share: Share) -> int:
    """The libraries do not become less; what is kept of a plane does."""
    part = share.pixels / rates.pixels if rates.pixels else 1.0
    return round(rates.base + (rates.memory - rates.base) * part)
