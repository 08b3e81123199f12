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
        cells = read_points(folder / "centres.csv").in_voxels(volume.voxel_size_um)
    near = cells[np.abs(cells[:, 0] - z) <= 2]
    with open_volume(folder / "tiled.ome.zarr") as result:
        labels = result.read(plane)[0, 0].astype(int)
    tiled, whole, bare = (_probability(folder / f"{name}.run", plane) for name in ("tiled", "whole", "without_halo"))

    figure = Figure(figsize=(13, 9.2), layout="constrained")
    axes = figure.subplots(2, 3)
    low, high = np.percentile(image, (1, 99.7))
    for axis in axes[0]:
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
    _draw_grid(axes[0, 0], Run(folder / "tiled.run"), plane)
    axes[0, 0].set_title(f"volume, plane z = {z}, tile grid")
    axes[0, 1].scatter(near[:, 2], near[:, 1], s=28, facecolors="none", edgecolors="tab:orange")
    axes[0, 1].set_title("true centres within 2 planes")
    shuffled = np.random.default_rng(1).permutation(256)
    colours = ListedColormap(colormaps["turbo"](shuffled / 255.0))
    axes[0, 2].imshow(np.ma.masked_equal(labels, 0) % 256, cmap=colours, interpolation="nearest", alpha=0.8)
    tiles = figures["tiled"]
    axes[0, 2].set_title(f"{tiles['cells']} cells found; F1 {tiles['f1']:.3f} where it was not trained")
    axes[1, 0].imshow(tiled, cmap="magma", vmin=0, vmax=1)
    axes[1, 0].set_title(f"probability, tiled with halo {tiles['halo']}")
    for axis, prediction, name in ((axes[1, 1], tiled, "tiled"), (axes[1, 2], bare, "without_halo")):
        shown = axis.imshow(np.abs(prediction - whole), cmap="inferno", vmin=0, vmax=0.5)
        error = figures[name]["max_error"]
        axis.set_title(f"difference to un-tiled, halo {figures[name]['halo']}: at most {error:.3f}")
        figure.colorbar(shown, ax=axis, shrink=0.8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    partial = picture.with_name(f"{picture.name}.{partial_suffix()}")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(picture)


def _probability(run: Path, plane: Box) -> np.ndarray:
    """The stored probability of a plane, 0 to 1."""
    stored = Run(run).shards.array[(0, *plane.slices)]
    return np.asarray(stored)[0] / 255.0


def _draw_grid(axis: Any, run: Run, plane: Box) -> None:
    for tile in run.plan.grid.touching(plane):
        (_, y0, x0), (_, y1, x1) = tile.write.start, tile.write.stop
        axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="tab:cyan", linewidth=0.8)
    axis.set_xlim(0, plane.stop[2])
    axis.set_ylim(plane.stop[1], 0)
