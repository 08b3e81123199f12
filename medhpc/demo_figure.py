"""The demo's picture: image, truth, prediction, and what a seam looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medhpc.geometry import Box
from medhpc.points import read_points
from medhpc.run import Run
from medhpc.run.durable import partial_suffix
from medhpc.volume import open_volume


def draw_demo(folder: Path, picture: Path, figures: dict[str, Any]) -> None:
    """Draw one plane of the demo as a PNG.

    Parameters
    ----------
    folder : Path
        With the volume, the centres, and the runs and results "tiled", "whole" and "without_halo".
    picture : Path
        The PNG, renamed into place.
    figures : dict
        Of :func:`medhpc.demo.run_demo`; some stand under the panels.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    with open_volume(folder / "volume.tif") as volume:
        z = volume.shape[0] // 2
        plane = Box((z, 0, 0), (z + 1, *volume.shape[1:]))
        image = volume.read(plane)[0, 0].astype(float)
        size = volume.voxel_size_um or (1.0, 1.0, 1.0)
        cells = read_points(folder / "centres.csv").in_voxels(size)
        micrometres = size[2]  # a pixel
    near = cells[np.abs(cells[:, 0] - z) <= 2]
    with open_volume(folder / "tiled.ome.zarr") as result:
        labels = result.read(plane)[0, 0].astype(int)
    tiled, whole, bare = (_probability(folder / f"{name}.run", plane) for name in ("tiled", "whole", "without_halo"))

    figure = Figure(figsize=(13, 10), layout="constrained")
    axes = figure.subplots(2, 3)
    low, high = np.percentile(image, (1, 99.7))
    for axis in axes[0]:
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    for axis in (axes[0, 0], axes[1, 1], axes[1, 2]):
        _draw_grid(axis, Run(folder / "tiled.run"), plane)
    axes[0, 0].set_title(f"volume, plane z = {z}\nlines: faces between tiles")
    axes[0, 1].scatter(near[:, 2], near[:, 1], s=28, facecolors="none", edgecolors="tab:orange")
    axes[0, 1].set_title("circles: true centres of cells\nwithin 2 planes of this one")
    shuffled = np.random.default_rng(1).permutation(256)
    colours = ListedColormap(colormaps["turbo"](shuffled / 255.0))
    axes[0, 2].imshow(np.ma.masked_equal(labels, 0) % 256, cmap=colours, vmin=0, vmax=255, interpolation="nearest")
    tiles = figures["tiled"]
    judged = f"in the half below, not trained on: F1 {tiles['f1']:.3f}"
    axes[0, 2].set_title(f"{tiles['cells']} cells found in the whole volume\n{judged}")
    probability = axes[1, 0].imshow(tiled, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    axes[1, 0].set_title(f"probability of a cell\n{tiles['title']}")
    for axis, prediction, name in ((axes[1, 1], tiled, "tiled"), (axes[1, 2], bare, "without_halo")):
        difference = np.abs(prediction - whole)
        shown = axis.imshow(difference, cmap="inferno", vmin=0, vmax=0.5, interpolation="nearest")
        error = figures[name]["max_error"]
        axis.set_title(f"difference to un-tiled, at most {error:.3f} in the volume\n{figures[name]['title']}")
    bars: dict[str, Any] = {"location": "bottom", "shrink": 0.8, "aspect": 30}
    figure.colorbar(probability, ax=axes[1, 0], label="probability of a cell", **bars)
    figure.colorbar(shown, ax=axes[1, 1:], label="difference of both panels to the un-tiled probability", **bars)
    for axis in axes.flat:
        _finish(axis, image.shape, micrometres)
    partial = picture.with_name(f"{picture.name}.{partial_suffix()}")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(picture)


def _finish(axis: Any, shape: tuple[int, ...], micrometres: float) -> None:
    """The same frame for all panels, and a scale bar of about a fifth of the plane."""
    height, width = shape
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    length = max(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step == 1 or step <= 0.2 * width * micrometres)
    left, low = 0.05 * width, 0.95 * height
    from matplotlib.patheffects import withStroke

    outlined = [withStroke(linewidth=4, foreground="black")]
    axis.plot([left, left + length / micrometres], [low, low], color="white", linewidth=2.5, path_effects=outlined)
    axis.text(left, low - 0.02 * height, f"{length} um", color="white", va="bottom", path_effects=outlined)


def _probability(run: Path, plane: Box) -> np.ndarray:
    """The stored probability of a plane, 0 to 1."""
    stored = Run(run).shards.array[(0, *plane.slices)]
    return np.asarray(stored)[0] / 255.0


def _draw_grid(axis: Any, run: Run, plane: Box) -> None:
    for tile in run.plan.grid.touching(plane):
        (_, y0, x0), (_, y1, x1) = tile.write.start, tile.write.stop
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]) - 0.5  # a pixel's middle is its number
        axis.plot(*corners.T, color="tab:cyan", linewidth=0.8)
