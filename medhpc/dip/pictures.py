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


def draw(
    path: Path, runs: Sequence[RunRecord], noisy: NDArray[Any], clean: NDArray[Any], truth: NDArray[Any] | None
) -> None:
    """Write the picture of images (channels, z, y, x); the slices are those in the middle of the first channel.

    All are shown in the window of the truth, or else of the noisy image; NaN is shown as a hole.
    """
    from matplotlib.figure import Figure

    shown = {"noisy": noisy, "denoised": clean} | ({} if truth is None else {"truth": truth})
    if noisy.shape == clean.shape:
        shown["taken away"] = noisy - clean
    planes = [_middles(image[0]) for image in shown.values()]
    rows = len(planes[0])
    figure = Figure(figsize=(3.2 * len(shown), 3.4 + 3.2 * rows), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.4, 3.2 * rows))
    upper, lower = parts
    curves, quality = upper.subplots(1, 2)
    _draw_losses(curves, runs)
    _draw_quality(quality, runs)
    panels = lower.subplots(rows, len(shown), squeeze=False)
    low, high = np.nanpercentile((noisy if truth is None else truth)[0], (0.5, 99.5))
    if "taken away" in shown:
        panels[0, -1].set_xlabel(f"deviation {np.nanstd(shown['taken away'][0]):.3g}")
    for column, (title, middles) in enumerate(zip(shown, planes, strict=True)):
        panels[0, column].set_title(title)
        for axes, plane in zip(panels[:, column], middles, strict=True):
            middle = (low + high) / 2 if title == "taken away" else 0.0
            axes.imshow(plane, cmap="gray", vmin=low - middle, vmax=high - middle)
            axes.set(xticks=[], yticks=[], facecolor="C0")  # of holes
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_durably(path, content.getvalue())


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


def _middles(image: NDArray[Any]) -> list[NDArray[Any]]:
    """The middle planes across z, y and x; of a single plane, itself."""
    if len(image) == 1:
        return [image[0]]
    return [np.take(image, image.shape[axis] // 2, axis) for axis in range(3)]
