"""Which noise an image has, and how much of it; numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HIGH_PASS = np.array([-0.12940952255092145, -0.22414386804185735, 0.836516303737469, -0.48296291314469025])
"""Daubechies' wavelet of two vanishing moments: no edge-free image passes, white noise keeps its deviation."""
MEDIAN_OF_NORMAL = 0.6744897501960817
"""Median of |x| for a normal x of deviation 1."""
RAYLEIGH_MEAN = math.sqrt(math.pi / 2)
"""Mean of the magnitude of two normal numbers of deviation 1 (a voxel of air in a magnitude image)."""
RAYLEIGH_RATIO = math.sqrt(4 / math.pi - 1)
"""Deviation over mean of the same: 0.523."""
DARK = 0.05
"""Share of the blocks that is taken for air, where there is any."""
AIR_SPREAD = 1.35
"""Means of 64 voxels of air, the brightest over the darkest."""
WHITE = 0.1
"""Neighbours in a residual of white noise correlate less than this, also after a network followed some of it."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Kind (``gaussian`` or ``rician``) and standard deviation `sigma` in the numbers of the image.

    `is_seen` is False where Rician noise was asked for, and there is no air by which it is told.
    """

    kind: str
    sigma: float
    is_seen: bool = True


def estimate_noise(image: NDArray, kind: str = "auto", sigma: float | None = None) -> Noise:
    """Find what is not given.

    Gaussian noise is measured by the median of the finest wavelet coefficients (Donoho & Johnstone, Biometrika 81,
    1994). Rician noise, that of magnitude images, is told by dark blocks whose deviation is 0.52 of their mean, and
    measured by that mean; no voxel of them is zero. It is not found where the background was set to zero: then it is
    taken for Gaussian, which it nearly is inside the body.

    Parameters
    ----------
    image : array (z, y, x) or (y, x)
        Finite.
    """
    air = _rayleigh_sigma(image)
    is_seen = kind != "rician" or air is not None
    if kind == "auto":
        kind = "gaussian" if air is None else "rician"
    if sigma is None:
        sigma = air if kind == "rician" and air is not None else gaussian_sigma(image)
    return Noise(kind=kind, sigma=float(sigma), is_seen=is_seen)


def gaussian_sigma(image: NDArray) -> float:
    """Deviation of white noise, by the finest diagonal wavelet coefficients; zeros, as of a masked background, out."""
    values = image.astype(np.float64)
    for axis, length in enumerate(image.shape):
        if length >= len(HIGH_PASS):
            values = _high_pass(values, axis)
    counted = np.abs(values[values != 0])
    return float(np.median(counted) / MEDIAN_OF_NORMAL) if counted.size else 0.0


def neighbour_correlation(residual: NDArray) -> float:
    """Largest correlation of neighbours along an axis, in magnitude; near zero for white noise."""
    centred = residual.astype(np.float64) - residual.mean()
    power = float(np.mean(centred**2))
    if not power:
        return 0.0
    along = [np.moveaxis(centred, axis, 0) for axis, length in enumerate(residual.shape) if length > 1]
    return max((abs(float(np.mean(rows[1:] * rows[:-1]))) / power for rows in along), default=0.0)


def _high_pass(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    rows = np.moveaxis(values, axis, 0)
    count = (len(rows) - len(HIGH_PASS)) // 2 + 1
    parts = [weight * rows[first : first + 2 * count - 1 : 2] for first, weight in enumerate(HIGH_PASS)]
    return np.moveaxis(np.sum(parts, axis=0), 0, axis)


def _rayleigh_sigma(image: NDArray) -> float | None:
    """Sigma by the air around the body; None where there is none, or nothing that looks like it."""
    side = 4 if image.ndim == 3 else 8
    if image.min() < 0 or min(image.shape) < side:
        return None
    cut = image[tuple(slice(n // side * side) for n in image.shape)].astype(np.float64)
    blocks = cut.reshape([length for n in cut.shape for length in (n // side, side)])
    inside = tuple(range(1, blocks.ndim, 2))
    mean, deviation = blocks.mean(inside).ravel(), blocks.std(inside).ravel()
    dark = np.argsort(mean)[: max(8, int(DARK * len(mean)))]
    level = float(np.median(mean[dark]))
    # Air of a magnitude image is never zero; a photo's shadows were cut there.
    clipped = np.median((blocks == 0).mean(inside).ravel()[dark])
    if level <= 0 or clipped > 0 or not 0.42 < np.median(deviation[dark]) / level < 0.62:
        return None
    # The darkest blocks are darker than air is on average; those a little above them are air as well.
    return float(np.median(mean[mean < AIR_SPREAD * level])) / RAYLEIGH_MEAN
