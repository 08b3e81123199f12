"""The picture of a seam done wrong and right: ``python -m benchmarks.seam_picture`` draws docs/seam.png."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks.measure import shape
from benchmarks.predictions import NETWORK, clip, predict_tiled, predict_whole
from medhpc.demo_data import write_demo
from medhpc.geometry import Box, Grid

TILE = (64, 64, 64)
CROWDED = 36  # cells for each tile, four times the demo's: more of them lie on faces
SIDE = 72  # voxels: of the part that is shown
DIFFERENCE = 0.4  # of the probability: the brightest colour
PICTURE = Path(__file__).parents[1] / "docs" / "seam.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=shape, default="64,320,320", help="voxels, Z,Y,X")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    tiles = np.prod(arguments.size) / np.prod(TILE)
    with tempfile.TemporaryDirectory() as name:
        folder, tile = Path(name), clip(TILE, arguments.size)
        source = write_demo(folder, shape=arguments.size, cells=max(4, round(CROWDED * tiles)), seed=11).volume
        naive, plan = predict_tiled(source, folder / "run", NETWORK, tile, 0)
        tiled, _ = predict_tiled(source, folder / "run", NETWORK, tile, "auto")
        draw_seams(arguments.out, source, naive, tiled, predict_whole(source, NETWORK, plan), plan.grid)


def draw_seams(out: Path, source: Path, naive: np.ndarray, tiled: np.ndarray, whole: np.ndarray, grid: Grid) -> None:
    """Show where four tiles meet: both predictions over the image, and their differences to the un-tiled one.

    Parameters
    ----------
    naive, tiled, whole : ndarray (z, y, x)
        Probabilities: of tiles without halo, of medhpc, un-tiled.
    grid : Grid
        The tiles of both.
    """
    from matplotlib.figure import Figure

    part = _worst_part(naive, whole, grid)
    image = np.asarray(tifffile.memmap(source)[part.slices][0], float)
    figure = Figure(figsize=(8.6, 8.5), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 2)
    for column, (title, prediction) in enumerate((("Tiles without context", naive), ("medhpc", tiled))):
        largest = np.abs(prediction - whole).max()
        expected, shown = whole[part.slices][0], prediction[part.slices][0]
        above = _draw_prediction(axes[0, column], image, shown, expected)
        below = axes[1, column].imshow(np.abs(shown - expected), cmap="inferno", vmin=0, vmax=DIFFERENCE)
        axes[0, column].set_title(title, fontsize=15, fontweight="bold")
        axes[1, column].set_title(f"largest difference in the volume: {largest:.{2 if largest > 0.01 else 4}f}")
        for axis in axes[:, column]:
            _draw_faces(axis, grid, part)
    axes[0, 0].set_ylabel("probability of a cell; outlines: un-tiled", fontsize=12)
    axes[1, 0].set_ylabel("difference to un-tiled", fontsize=12)
    figure.colorbar(above, ax=axes[0], shrink=0.8, ticks=[0, 0.5, 1])
    figure.colorbar(below, ax=axes[1], shrink=0.8, ticks=[0, DIFFERENCE], extend="max")
    figure.savefig(out, dpi=100)


def _draw_prediction(axis: Any, image: np.ndarray, probability: np.ndarray, expected: np.ndarray) -> Any:
    """Probability in colour over the image in grey, with the outlines of the un-tiled cells."""
    low, high = np.percentile(image, (1, 99.8))
    axis.imshow(image, cmap="gray", vmin=low, vmax=high)
    shown = axis.imshow(probability, cmap="magma", vmin=0, vmax=1, alpha=np.clip(probability * 4, 0, 1))
    axis.contour(expected, levels=[0.5], colors="#7dd3fc", linewidths=1.3)
    return shown


def _draw_faces(axis: Any, grid: Grid, part: Box) -> None:
    _, y0, x0 = part.start
    for y, _ in grid.writes_along(1)[1:]:
        axis.axhline(y - y0 - 0.5, color="white", linewidth=1, linestyle=(0, (4, 4)))
    for x, _ in grid.writes_along(2)[1:]:
        axis.axvline(x - x0 - 0.5, color="white", linewidth=1, linestyle=(0, (4, 4)))
    axis.set_xlim(-0.5, part.shape[2] - 0.5)
    axis.set_ylim(part.shape[1] - 0.5, -0.5)
    axis.set_xticks([])
    axis.set_yticks([])


def _worst_part(naive: np.ndarray, whole: np.ndarray, grid: Grid) -> Box:
    """The part of a plane, around a tile face, in whose middle most voxels change sides."""
    _, height, width = whole.shape
    side = min(SIDE, height, width)
    middle = slice(side // 4, side - side // 4)
    flipped = (naive >= 0.5) != (whole >= 0.5)
    parts = [
        Box((z, y, x), (z + 1, y + side, x + side))
        for z in range(0, len(whole), 2)
        for y in _around_faces(grid, 1, side)
        for x in range(0, width - side + 1, 8)
    ]
    return max(parts, key=lambda part: np.count_nonzero(flipped[part.slices][0, middle, middle]))


def _around_faces(grid: Grid, axis: int, side: int) -> list[int]:
    """Starts of parts that have a tile face in the middle."""
    last = grid.volume[axis] - side
    return [min(max(0, face - side // 2), last) for face, _ in grid.writes_along(axis)[1:]] or [0]


if __name__ == "__main__":
    main()
