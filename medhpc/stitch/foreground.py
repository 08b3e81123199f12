"""The foreground of a run, box by box: what labels are made of."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medhpc.geometry import Box
from medhpc.run import Plan
from medhpc.stitch.reduce import foreground, to_mask
from medhpc.stitch.slabs import ProvenTiles

REACH = 4.0  # standard deviations that a Gaussian looks to each side


class Foreground:
    """Mask and probability of any box, equal to those of the whole volume at once.

    Parameters
    ----------
    tiles : ProvenTiles
    plan : Plan
    threshold : float
    smooth : float
        Standard deviation, in voxels, of a Gaussian over the probability before the threshold; 0 for none.
    """

    def __init__(self, tiles: ProvenTiles, plan: Plan, threshold: float, smooth: float) -> None:
        self.tiles, self.plan, self.threshold, self.smooth = tiles, plan, threshold, smooth

    def mask(self, box: Box) -> np.ndarray:
        """Foreground voxels, (z, y, x) bool; none outside the run's region."""
        mask = np.zeros(box.shape, bool)
        inside = box.intersection(self.plan.region)
        mask[inside.relative_to(box).slices] = self._smoothed(inside) if self.smooth else self._plain(inside)
        return mask

    def probability(self, box: Box) -> np.ndarray | None:
        """Stored probability of the foreground, (z, y, x); None where none is stored."""
        return foreground(self.tiles.read(box)) if self.plan.stored.kind == "probability" else None

    @property
    def full(self) -> float | None:
        """Stored number that means probability 1; None where none is stored."""
        if self.plan.stored.kind != "probability":
            return None
        return 255.0 if self.plan.stored.dtype == "uint8" else 1.0

    def _plain(self, box: Box) -> np.ndarray:
        return to_mask(self.tiles.read(box), self.plan.stored.kind, self.threshold) > 0

    def _smoothed(self, box: Box) -> np.ndarray:
        reach = int(REACH * self.smooth + 0.5)
        wide = box.grow((reach, reach, reach)).intersection(self.plan.region)
        values = foreground(self.tiles.read(wide)).astype(np.float32)
        values = ndimage.gaussian_filter(values, self.smooth, truncate=REACH, mode="nearest")
        smoothed: np.ndarray = values[box.relative_to(wide).slices] >= self.threshold * (self.full or 1.0)
        return smoothed
