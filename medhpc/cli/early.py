"""What is refused before torch is loaded, which takes seconds.

The library checks all of this again; here it only fails sooner.
"""

from __future__ import annotations

from pathlib import Path

from medhpc.errors import BadNetwork


def check_volume(volume: str, channel: int | None = None, level: int = 0, series: bool = False) -> None:
    """Refuse a volume whose header cannot be read."""
    from medhpc.volume import open_volume

    open_volume(volume, channel=channel, level=level, series=series).close()


def check_network(network: str) -> None:
    """Refuse a network that is not there."""
    if network != "identity" and not Path(network).exists():
        raise BadNetwork(f"{network}: no such network file; train one with 'medhpc train msd' or give another path")


def check_out(out: str, volume: str, *, photos: bool = False) -> None:
    """Refuse a result that cannot be written."""
    from medhpc.volume import check_writable

    check_writable(out, volume, photos=photos)


def check_share(run: str, task: str | None, tiles: str | None) -> None:
    """Refuse a folder that holds no run, and a share of its tiles that makes no sense."""
    from medhpc.run import Run, select

    select(len(Run(run).plan.grid), task, tiles)


def check_network_name(out: str) -> None:
    """Refuse a network that cannot be written."""
    from medhpc.train.options import check_name

    check_name(out)
