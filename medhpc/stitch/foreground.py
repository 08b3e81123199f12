"""The foreground of a run, box by box: what labels are made of."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medhpc.geometry import Box
from medhpc.run import Plan, Run
from medhpc.stitch.reduce import foreground, to_mask
from medhpc.stitch.slabs import ProvenTiles, cells_of, in_parallel, slabs_of

REACH = 4.0  # standard deviations that a Gaussian looks to each side


def largest_stored(run: Run) -> float | None:
    """The largest probability (or raw number) of a run; None where classes are stored."""
    stored, tiles = run.plan.stored, ProvenTiles(run)
    if stored.kind == "argmax":
        return None
    slabs = slabs_of(run.plan.region, stored.shard[0])
    cells = (cell for slab in slabs for cell in cells_of(slab, stored.shard))
    largest = max(in_parallel(lambda cell: float(foreground(tiles.read(cell)).max()), cells))
    return largest / (full_scale(run.plan) or 1.0)


def full_scale(plan: Plan) -> float | None:
    """Stored number that means probability 1; None where no probability is stored."""
    if plan.stored.kind != "probability":
        return None
    return 255.0 if plan.stored.dtype == "uint8" else 1.0


class Foreground:
    """Mask and probability of any box of the run's region, equal to those of the whole region at once.

    Parameters
    ----------
    threshold : float
    smooth : float
        Standard deviation, in voxels, of a Gaussian over the stored numbers before the threshold; 0 for none.
    """

    def __init__(self, tiles: ProvenTiles, plan: Plan, threshold: float, smooth: float) -> None:
        self.tiles, self.plan, self.threshold, self.smooth = tiles, plan, threshold, smooth

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Foreground voxels (z, y, x) bool, and their stored probability (z, y, x), None where none is stored."""
        reach = int(REACH * self.smooth + 0.5)
        wide = box.grow((reach, reach, reach)).intersection(self.plan.region)
        block, inside = self.tiles.read(wide), box.relative_to(wide).slices
        mask = self._smoothed(block)[inside] if self.smooth else to_mask(block, self._kind, self.threshold) > 0
        return mask, foreground(block)[inside] if self._kind == "probability" else None

    def probability(self, box: Box) -> np.ndarray | None:
        """Stored probability of the foreground, (z, y, x); None where none is stored."""
        return foreground(self.tiles.read(box)) if self._kind == "probability" else None

    @property
    def full(self) -> float | None:
        """Stored number that means probability 1; None where none is stored."""
        return full_scale(self.plan)

    @property
    def _kind(self) -> str:
        return self.plan.stored.kind

    def _smoothed(self, block: np.ndarray) -> np.ndarray:
        values = foreground(block).astype(np.float32)
        values = ndimage.gaussian_filter(values, self.smooth, truncate=REACH, mode="nearest")
        mask: np.ndarray = values >= self.threshold * (self.full or 1.0)
        return mask
