"""``medhpc engines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from medhpc.cli import options, show

if TYPE_CHECKING:
    from medhpc.engine.speed import Speed


@click.command(short_help="Show how fast networks are computed here.")
@click.option("--depth", type=click.IntRange(1), default=30, show_default=True, help="Layers of the network.")
@options.threads
@options.as_json
def engines(depth: int, threads: int | None, as_json: bool) -> None:
    """Measure the engines that evaluate MS-D networks on this machine's processor, and say why one is missing.

    GF/s are operations of the direct convolution per second of processor time; native needs fewer for the same
    result, so that it can be above the peak of multiply-adds that was measured here.

    \b
      medhpc engines
    """
    from medhpc.engine import speed

    found = speed.measure_engines(speed.example_network(depth), threads=threads)
    if as_json:
        peak = speed.measured_peak() / 1e9 if speed.usable_variants() else None
        show.as_json({"peak_gflops": peak, "engines": [each.as_dict() for each in found]})
    else:
        _print(found)


def _print(found: Sequence[Speed]) -> None:
    measured = [_row(speed) for speed in found if not speed.why_not]
    click.echo(show.table(measured))
    for speed in found:
        if speed.why_not:
            click.echo(f"{speed.engine}: {speed.why_not}")


def _row(speed: Speed) -> dict[str, str]:
    return {
        "engine": speed.engine,
        "instructions": speed.variant or "-",
        "threads": f"{speed.threads}",
        "voxels/s": show.number(speed.voxels_per_second),
        "GF/s": f"{speed.gflops:.1f}",
        "of peak": "-" if speed.of_peak is None else f"{100 * speed.of_peak:.0f} %",
    }
