"""Magnitudes with Rician noise as numbers with nearly normal noise, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_stable(magnitudes: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """Numbers whose noise has deviation `sigma` almost everywhere: sqrt(m^2 - s^2 / 2), the asymptotic transform.

    (Foi, "Noise estimation and removal in MR imaging: the variance-stabilization approach", ISBI 2011.)
    """
    return np.sqrt(np.maximum(magnitudes.astype(np.float64) ** 2 - sigma**2 / 2, 0)).astype(np.float32)


def from_stable(means: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """The noise-free magnitude whose stabilised mean is given: the mean is s^2 / (4 f) above f where f >> s."""
    return np.sqrt(np.maximum(np.maximum(means, 0).astype(np.float64) ** 2 - sigma**2 / 2, 0)).astype(np.float32)
