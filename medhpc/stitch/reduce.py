"""From stored tiles to what is asked for: block by block, without context."""

from __future__ import annotations

import math

import numpy as np

from medhpc.errors import BadOption, NotInPlan
from medhpc.run import Plan

KINDS = ("mask", "labels", "probability", "raw")


def check_kind(plan: Plan, kind: str, threshold: float | None) -> float:
    """Refuse what the stored tiles cannot give; return the threshold in force.

    Raises
    ------
    NotInPlan, BadOption
    """
    if kind not in KINDS:
        raise BadOption(f"'{kind}' is not one of {', '.join(KINDS)}")
    stored = plan.stored
    if kind in ("probability", "raw") and stored.kind != kind:
        raise NotInPlan(f"the run stores {stored.kind}, not {kind}; plan one with 'medhpc tile --store {kind}'")
    if kind in ("mask", "labels") and stored.kind == "raw":
        if threshold is None:
            raise NotInPlan(f"the run stores raw numbers; give the --threshold from which they are {kind}")
        if stored.channels > 1:
            raise NotInPlan(f"the run stores {stored.channels} raw channels, {kind} needs one; use --store probability")
    if stored.kind == "probability" and threshold is not None and not 0 < threshold <= 1:
        raise BadOption(f"threshold {threshold} is not a probability above 0 and up to 1")
    return 0.5 if threshold is None else threshold


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
    least = math.ceil(255 * threshold - 1e-9) if block.dtype == np.uint8 else threshold
    if block.shape[0] == 1:
        return (block[0] >= least).astype(np.uint8)
    best = block.argmax(axis=0) + 1
    return np.where(foreground(block) >= least, best, 0).astype(np.uint8 if block.shape[0] < 256 else np.uint16)


def foreground(block: np.ndarray) -> np.ndarray:
    """Stored probability of any foreground class: (channels, z, y, x) -> (z, y, x)."""
    if block.shape[0] == 1:
        return block[0]
    return block.sum(axis=0, dtype=np.uint32 if block.dtype.kind == "u" else np.float32)
