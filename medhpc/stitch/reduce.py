"""From stored numbers to classes, voxel by voxel."""

from __future__ import annotations

import math

import numpy as np


def to_mask(block: np.ndarray, kind: str, threshold: float) -> np.ndarray:
    """Classes of voxels.

    Parameters
    ----------
    block : ndarray, shape (channels, z, y, x)
        Stored numbers of this `kind`.
    threshold : float
        Of the probability that a voxel is in the foreground (or of the raw number).

    Returns
    -------
    ndarray, shape (z, y, x)
        0 background, else the class: 1, or, of several foreground channels, the most probable. ``argmax`` is given as
        it is stored.
    """
    if kind == "argmax":
        return block[0]
    if kind == "raw":
        return (block[0] >= threshold).astype(np.uint8)
    inside = foreground(block) >= stored_threshold(block.dtype, threshold)
    if len(block) == 1:
        return inside.view(np.uint8)
    classes = np.uint8 if len(block) < 256 else np.uint16
    return np.where(inside, block.argmax(axis=0) + 1, 0).astype(classes)


def stored_threshold(dtype: np.dtype, threshold: float) -> float:
    """The smallest stored number of a probability of at least `threshold`; uint8 holds round(255 p)."""
    return math.ceil(255 * threshold - 1e-9) if dtype == np.uint8 else threshold


def foreground(block: np.ndarray) -> np.ndarray:
    """Stored probability of any foreground class: (channels, z, y, x) -> (z, y, x)."""
    if len(block) == 1:
        return block[0]
    return block.sum(axis=0, dtype=np.uint32 if block.dtype.kind == "u" else np.float32)
