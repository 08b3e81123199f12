"""How a denoising went, as one PNG: curves above, slices before and after below."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medhpc.dip.results import RunRecord
from medhpc.run.durable import write_durably

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(path: Path, runs: Sequence[RunRecord], shown: Mapping[str, Sequence[NDArray[Any]]], title: str) -> None:
    """Write the picture: for each image by its name, slices (channels, rows, columns), three channels in colour.

    All are shown in the window of the truth, or else of the noisy image; NaN is shown as a hole.
    """
    from matplotlib.figure import Figure

    rows = len(shown["noisy"])
    figure = Figure(figsize=(3.2 * len(shown), 3.4 + 3.2 * rows), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.4, 3.2 * rows))
    upper, lower = parts
    curves, quality = upper.subplots(1, 2)
    _draw_losses(curves, runs)
    _draw_quality(quality, runs)
    lower.suptitle(title)
    _draw_slices(lower.subplots(rows, len(shown), squeeze=False), shown)
    if "taken away" in shown:
        values = np.concatenate([plane.ravel() for plane in shown["taken away"]])
        lower.axes[len(shown) - 1].set_xlabel(f"deviation {np.nanstd(values):.3g}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_durably(path, content.getvalue())


def _draw_slices(panels: NDArray[Any], shown: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Planes (channels, rows, columns), a column of panels for each image."""
    reference = np.concatenate([plane.ravel() for plane in shown.get("truth", shown["noisy"])])
    low, high = np.nanpercentile(reference, (0.5, 99.5))
    for column, (name, planes) in enumerate(shown.items()):
        panels[0, column].set_title(name)
        middle = (low + high) / 2 if name == "taken away" else 0.0
        for axes, plane in zip(panels[:, column], planes, strict=True):
            _draw_plane(axes, plane, low - middle, high - middle)


def _draw_plane(axes: Axes, plane: NDArray[Any], low: float, high: float) -> None:
    if len(plane) == 3:
        opacity = np.isfinite(plane).all(0)
        colours = ((np.nan_to_num(plane) - low) / (high - low or 1)).clip(0, 1)
        axes.imshow(np.concatenate([colours, opacity[None]]).transpose(1, 2, 0))
    else:
        axes.imshow(plane[0], cmap="gray", vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[], facecolor="C0")  # of holes


def _draw_losses(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """Error against the noisy image, that of the voxels held out, and the variance of the outputs."""
    for run in runs:
        for name, colour, label in (("loss", "C0", "loss"), ("held_out", "C1", "held out"), ("emv", "C3", "EMV")):
            steps, values = _curve(run.history, name)
            style = colour if len(steps) > 1 else f"{colour}o"
            axes.plot(steps, values, style, label=label if run is runs[0] and steps else None)
        axes.axvline(run.chosen, color="0.5", linestyle=":")
    axes.set(xlabel="iteration", ylabel="squared error", yscale="log", title="against the noisy image")
    axes.legend()


def _draw_quality(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """PSNR and SSIM of the average, where the truth is known."""
    if not any(_curve(run.history, "psnr")[0] for run in runs):
        axes.set_axis_off()
        return
    other = axes.twinx()
    for run in runs:
        axes.plot(*_curve(run.history, "psnr"), "C2")
        other.plot(*_curve(run.history, "ssim"), "C4.-")
        axes.axvline(run.chosen, color="0.5", linestyle=":")
    axes.set(xlabel="iteration", title="against the truth")
    axes.set_ylabel("PSNR (dB)", color="C2")
    other.set_ylabel("SSIM", color="C4")


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in history if entry[name] is not None]
    return [entry["iteration"] for entry in entries], [entry[name] for entry in entries]
