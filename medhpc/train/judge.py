"""Loss and Dice on what was held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medhpc.engine import Engine
from medhpc.metrics import ratio
from medhpc.train.examples import Patch
from medhpc.train.truth import IGNORE


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How good a network is on voxels that it has not seen.

    Attributes
    ----------
    loss : float
        Mean cross-entropy.
    dice : float
        Mean over the foreground classes of 2 |A and B| / (|A| + |B|), A the voxels where the class is likeliest; all
        blocks counted together, ignored voxels left out.
    """

    loss: float
    dice: float


def judge(engine: Engine, held_out: Sequence[Patch], classes: int) -> Judgement:
    """Judge a network on blocks of normalised image (c, z, y, x) and targets (z, y, x); NaN where there are none."""
    if not held_out:
        return Judgement(loss=math.nan, dice=math.nan)
    loss, voxels = 0.0, 0
    counts = np.zeros((3, classes), np.int64)  # both, predicted, true; per class
    for image, targets in held_out:
        probabilities = engine(image, "classes")  # (classes, z, y, x)
        known = targets != IGNORE
        true = targets[known].astype(np.int64)  # (known voxels,)
        likely = probabilities[:, known]  # (classes, known voxels)
        loss -= float(np.log(np.maximum(likely[true, np.arange(len(true))], 1e-12)).sum(dtype=np.float64))
        voxels += len(true)
        found = likely.argmax(0)
        for row, values in enumerate((true[found == true], found, true)):
            counts[row] += np.bincount(values, minlength=classes)
    both, predicted, truth = counts[:, 1:]
    dice = [ratio(2 * b, p + t) for b, p, t in zip(both, predicted, truth, strict=True)]
    return Judgement(loss=loss / max(1, voxels), dice=float(np.mean(dice)))
