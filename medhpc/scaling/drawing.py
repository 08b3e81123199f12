"""Efficiency and where the time goes, over the number of ranks or tasks, as a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medhpc.scaling.results import Scaling

PARTS = ("compute", "exchange", "read", "write", "other")


def picture(found: Scaling) -> bytes:
    """A PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    efficiency, split = figure.subplots(1, 2)
    _draw_efficiency(efficiency, found)
    _draw_split(split, found)
    figure.legend(*split.get_legend_handles_labels(), loc="outside right center")
    if found.note:
        figure.supxlabel(found.note, fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw_efficiency(axes: Axes, found: Scaling) -> None:
    measured = [(one.count, found.speed_up(one.seconds) / one.count) for one in found.measured]
    predicted = [(row.count, found.speed_up(row.seconds) / row.count) for row in found.predicted]
    axes.plot(*zip(*predicted, strict=True), "C1--", label="predicted")
    axes.plot(*zip(*measured, strict=True), "C0o", label="measured")
    axes.set_xscale("log", base=2)
    axes.set_xticks([count for count, _ in predicted], [str(count) for count, _ in predicted])
    axes.set(xlabel=found.by, ylabel="efficiency")
    axes.set_ylim(0, max(1.05, 1.05 * max(value for _, value in measured)))
    axes.legend()


def _draw_split(axes: Axes, found: Scaling) -> None:
    """Mean seconds of a process, stacked."""
    names, below = [str(one.count) for one in found.measured], [0.0] * len(found.measured)
    for part in PARTS:
        heights = [one.part(part) * one.seconds for one in found.measured]
        axes.bar(names, heights, bottom=below, label=part)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set(xlabel=found.by, ylabel="seconds")
