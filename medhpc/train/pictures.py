"""How a training went, as PNG files beside the network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medhpc.engine import Engine
from medhpc.run.durable import write_durably
from medhpc.train.examples import Patch
from medhpc.train.truth import IGNORE, Targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLICES = 4
UNKNOWN = "0.6"
"""Colour of voxels that are not judged."""


def picture_path(out: Path, kind: str) -> Path:
    """Beside the network: NET.curve.png, NET.slices.png."""
    return out.with_name(f"{out.stem}.{kind}.png")


def draw_curve(path: Path, history: Sequence[Mapping[str, float]], best: int) -> None:
    """Loss in training and validation, and validation Dice, over the steps; the kept network is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    losses = figure.subplots()
    dice = losses.twinx()
    steps = [entry["step"] for entry in history]
    losses.plot(steps, [entry["loss"] for entry in history], "C0-", label="training loss")
    losses.plot(steps, [entry["validation_loss"] for entry in history], "C1-", label="validation loss")
    dice.plot(steps, [entry["dice"] for entry in history], "C2.-", label="validation Dice")
    if best >= 0:
        dice.plot(steps[best], history[best]["dice"], "C2o", markersize=9, label="kept network")
    losses.set(xlabel="step", ylabel="cross-entropy")
    losses.set_ylim(bottom=0)
    dice.set(ylabel="Dice", ylim=(0, 1))
    handles, labels = (
        a + b for a, b in zip(*(axes.get_legend_handles_labels() for axes in (losses, dice)), strict=True)
    )
    losses.legend(handles, labels, loc="center right")
    _save(figure, path)


def draw_slices(path: Path, engine: Engine, held_out: Sequence[Patch], classes: Sequence[str]) -> None:
    """Planes of what was held out: image, truth (grey: not judged), and the probability of any object."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch as Key

    rows = [row for patch in held_out[:SLICES] for row in _rows(engine, patch, SLICES // min(SLICES, len(held_out)))]
    heights = [min(3.0, max(0.1, planes[0].shape[0] / planes[0].shape[1])) for planes in rows]
    figure = Figure(figsize=(10, 3 * sum(heights) + 0.3 * len(rows) + 0.9), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
    for axes, (image, truth, probability) in zip(panels, rows, strict=True):
        low, high = np.percentile(image, (0.5, 99.5))
        axes[0].imshow(image, cmap="gray", vmin=low, vmax=high)
        known = np.ma.masked_equal(truth, IGNORE)
        shown = axes[1].imshow(known, cmap="viridis", vmin=0, vmax=len(classes) - 1, interpolation="nearest")
        scale = axes[2].imshow(probability, cmap="magma", vmin=0, vmax=1)
    keys = [Key(color=shown.cmap(shown.norm(number)), label=name) for number, name in enumerate(classes)]
    keys.append(Key(color=UNKNOWN, label="not judged"))
    figure.legend(handles=keys, title="truth", loc="outside lower center", ncols=min(6, len(keys)))
    figure.colorbar(scale, ax=panels[:, 2], label="probability", shrink=0.8)
    for axes, title in zip(panels[0], ("held-out image", "truth", "probability of any object"), strict=True):
        axes.set_title(title)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], facecolor=UNKNOWN)
    _save(figure, path)


def _rows(engine: Engine, patch: Patch, number: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, truth and probability in planes across the shortest axis of what is judged, not of its context.

    The planes lie apart, and each has the most objects among its neighbours.
    """
    image, truth = patch
    probability = 1 - engine(image, "classes")[0]
    judged = _judged(truth)
    axis = int(np.argmin(truth[judged].shape))
    parts = [np.moveaxis(part[judged], axis, 0) for part in (image[0], truth, probability)]
    known = np.flatnonzero((parts[1] != IGNORE).any((1, 2)))
    objects = ((parts[1] > 0) & (parts[1] != IGNORE)).sum((1, 2))
    ranges = np.array_split(known, min(len(known), number))
    planes = [int(part[objects[part].argmax()]) for part in ranges]
    return [(parts[0][p], parts[1][p], parts[2][p]) for p in planes]


def _judged(truth: Targets) -> tuple[slice, ...]:
    """The smallest box that holds all voxels that are judged; everything where there are none."""
    places = np.nonzero(truth != IGNORE)
    if not len(places[0]):
        return (slice(None),) * truth.ndim
    return tuple(slice(int(along.min()), int(along.max()) + 1) for along in places)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_durably(path, content.getvalue())
