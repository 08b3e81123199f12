"""Which noise an image has, and how much of it; numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
MOST_OVER_WHITE = 2.0
"""Rician sigma over the deviation of the finest details: 1 in the body, 1 / 0.655 in the air, less with texture. What
varies more, and smoothly, is tissue that the darkest blocks happen to have."""
WHITE = 0.1
"""Neighbours in a residual of white noise correlate less than this, also after a network followed some of it."""


Blocks: TypeAlias = Callable[[int], Iterable[NDArray]]
"""Gives an image block by block along its first axis, each with so many more rows behind it; all but the last have a
multiple of eight."""


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
    found = measure_noise(lambda _: [image], image.shape, kind)
    return found if sigma is None else Noise(kind=found.kind, sigma=float(sigma), is_seen=found.is_seen)


def measure_noise(blocks: Blocks, shape: Sequence[int], kind: str = "auto") -> Noise:
    """As :func:`estimate_noise` does of an image of this shape that comes block by block."""
    white, air = gaussian_sigma(blocks, shape), _rayleigh_sigma(blocks, shape)
    if air is not None and air > MOST_OVER_WHITE * white:
        air = None
    is_seen = kind != "rician" or air is not None
    if kind == "auto":
        kind = "gaussian" if air is None else "rician"
    sigma = air if kind == "rician" and air is not None else white
    return Noise(kind=kind, sigma=float(sigma), is_seen=is_seen)


def gaussian_sigma(blocks: Blocks, shape: Sequence[int]) -> float:
    """Deviation of white noise, by the finest diagonal wavelet coefficients; zeros, as of a masked background, out."""
    kept = []
    for block in blocks(len(HIGH_PASS) - 2):
        values = block.astype(np.float64)
        for axis, length in enumerate(shape):
            if length >= len(HIGH_PASS):
                values = _high_pass(values, axis)
        kept.append(np.abs(values[values != 0]))
    counted = np.concatenate(kept)
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
    count = max(0, (len(rows) - len(HIGH_PASS)) // 2 + 1)
    parts = [weight * rows[first : first + 2 * count : 2][:count] for first, weight in enumerate(HIGH_PASS)]
    return np.moveaxis(np.sum(parts, axis=0), 0, axis)


def _rayleigh_sigma(blocks: Blocks, shape: Sequence[int]) -> float | None:
    """Sigma by the air around the body; None where there is none, or nothing that looks like it."""
    side = 4 if len(shape) == 3 else 8
    if min(shape) < side:
        return None
    found = []
    for block in blocks(0):
        if block.min() < 0:
            return None
        found.append(_cubes(block, side))
    mean, deviation, zeros = np.concatenate(found, axis=1)
    dark = np.argsort(mean)[: max(8, int(DARK * len(mean)))]
    level = float(np.median(mean[dark]))
    # Air of a magnitude image is never zero; a photo's shadows were cut there.
    if level <= 0 or np.median(zeros[dark]) > 0 or not 0.42 < np.median(deviation[dark]) / level < 0.62:
        return None
    # The darkest blocks are darker than air is on average; those a little above them are air as well.
    return float(np.median(mean[mean < AIR_SPREAD * level])) / RAYLEIGH_MEAN


def _cubes(block: NDArray, side: int) -> NDArray[np.float64]:
    """Mean, deviation and share of zeros of cubes (squares) of so many voxels along each axis: (3, cubes)."""
    cut = block[tuple(slice(n // side * side) for n in block.shape)].astype(np.float64)
    cubes = cut.reshape([length for n in cut.shape for length in (n // side, side)])
    inside = tuple(range(1, cubes.ndim, 2))
    return np.stack([each.ravel() for each in (cubes.mean(inside), cubes.std(inside), (cubes == 0).mean(inside))])
