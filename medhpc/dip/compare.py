"""Filters that need no network, for comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.dip.measures import agreement
from medhpc.dip.noise import neighbour_correlation

Image = NDArray[np.float32]

STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)
"""Tried where the truth is known, in units of what is taken without it."""


def compare(
    image: Image, sigma: float, truth: Image | None = None, data_range: float | None = None
) -> list[dict[str, Any]]:
    """Non-local means and total variation of scikit-image on (channels, z, y, x), with the sigma given.

    With a truth, each is tuned to the highest PSNR, which nobody can without: what it reaches is an upper bound.
    Without, each is as its authors advise, and what it took away can be looked at: noise has the deviation sigma, and
    neighbours in it do not correlate.

    Returns
    -------
    list of dict
        method, setting, seconds (of one pass), psnr, ssim (None without truth), taken_away, residual_correlation.
    """
    filters: dict[str, Callable[[Image, float, float], Image]] = {
        "non-local means": non_local_means,
        "total variation": total_variation,
    }
    return [_best(name, each, image, sigma, truth, data_range) for name, each in filters.items()]


def non_local_means(image: Image, sigma: float, strength: float) -> Image:
    """Of one channel (space), with h = 0.8 sigma at strength 1 (Buades et al., CVPR 2005)."""
    from skimage.restoration import denoise_nl_means

    reach = {"patch_size": 3, "patch_distance": 4} if image.ndim == 3 else {"patch_size": 5, "patch_distance": 6}
    return denoise_nl_means(image, h=0.8 * strength * sigma, sigma=sigma, fast_mode=True, **reach)


def total_variation(image: Image, sigma: float, strength: float) -> Image:
    """Of one channel (space), with weight sigma at strength 1 (Chambolle, JMIV 20, 2004)."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight=strength * sigma)


def taken_away(image: Image, found: Image) -> dict[str, float]:
    """Deviation of what was taken away, and the largest correlation of neighbours in it, of any channel."""
    residuals = [one - other for one, other in zip(image, found, strict=True)]
    return {
        "taken_away": max(float(residual.std(dtype=np.float64)) for residual in residuals),
        "residual_correlation": max(map(neighbour_correlation, residuals)),
    }


def _best(
    name: str,
    each: Callable[[Image, float, float], Image],
    image: Image,
    sigma: float,
    truth: Image | None,
    data_range: float | None,
) -> dict[str, Any]:
    strengths: Sequence[float] = (1.0,) if truth is None else STRENGTHS
    rows = []
    for strength in strengths:
        began = time.perf_counter()
        found = np.stack([_filtered(each, channel, sigma, strength) for channel in image])
        row: dict[str, Any] = {"method": name, "setting": strength, "seconds": time.perf_counter() - began}
        psnr, ssim = (None, None) if truth is None else agreement(found, truth, data_range)
        rows.append({**row, "psnr": psnr, "ssim": ssim, **taken_away(image, found)})
    return max(rows, key=lambda row: row["psnr"] or 0.0)


def _filtered(each: Callable[[Image, float, float], Image], image: Image, sigma: float, strength: float) -> Image:
    """Of a single plane, in two dimensions; in numbers of the order of one, which the filters' tolerances expect."""
    plane = image[0] if len(image) == 1 else image
    low, span = float(plane.min()), float(np.ptp(plane)) or 1.0
    found = each((plane - low) / span, sigma / span, strength) * span + low
    return found.reshape(image.shape).astype(np.float32)
