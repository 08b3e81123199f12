"""Images against images: PSNR and SSIM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import blocks
from medhpc.errors import NonFinite
from medhpc.evaluate.streams import THICK, Progress, share, stream
from medhpc.geometry import Box, Index
from medhpc.metrics import SSIM_RADIUS, SSIM_WINDOW, psnr, ssim_map
from medhpc.volume import Volume

PIECE_VOXELS = 2**18


def image_scores(
    result: Volume, truth: Volume, region: Box, data_range: float | None, progress: Progress | None = None
) -> dict[str, Any]:
    """PSNR, SSIM and what they are made of: fields of an Evaluation.

    SSIM is that of the region as an image of its own: blocks overlap by the window, so that cutting changes nothing.
    """
    if data_range is None:
        data_range = _data_range(truth, region, share(progress, 0, 2))
        progress = share(progress, 1, 2)
    radius = _ssim_radius(region)
    reason = _no_ssim(region, radius, data_range)
    inner = region.grow((-radius[0], -radius[1], -radius[2]))
    squares = largest = similarity = 0.0
    for box, read, (found, wanted) in stream([result, truth], region, margin=radius, progress=progress):
        own = box.relative_to(read).slices
        difference = np.abs(found[own].astype(np.float64) - wanted[own])
        squares, largest = squares + float(np.sum(difference**2)), max(largest, float(difference.max()))
        if not reason:
            similarity += _ssim_sum(found, wanted, read, box.intersection(inner), radius, data_range)
    if not np.isfinite(squares):
        raise NonFinite(f"{result.path} or {truth.path} holds NaN or infinity in {region}: expected finite voxels")
    return {
        "psnr": psnr(squares / region.size, data_range) if data_range else None,
        "ssim": None if reason else similarity / inner.size,
        "data_range": data_range,
        "mean_squared_error": squares / region.size,
        "max_difference": largest,
        "notes": (reason,) if reason else (),
    }


def _ssim_sum(
    found: NDArray[Any], wanted: NDArray[Any], read: Box, centres: Box, radius: Index, data_range: float
) -> float:
    """Sum of the similarities at `centres`, piece by piece: pieces that fit the cache are several times as quick."""

    def of_piece(piece: Box) -> float:
        window = piece.grow(radius).relative_to(read).slices
        return float(ssim_map(found[window], wanted[window], data_range).sum())

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(of_piece, blocks(centres, THICK, PIECE_VOXELS)))


def _ssim_radius(region: Box) -> Index:
    """Half the window along each axis, none across a single plane."""
    return SSIM_RADIUS if region.shape[0] > 1 else 0, SSIM_RADIUS, SSIM_RADIUS


def _no_ssim(region: Box, radius: Index, data_range: float) -> str:
    """Why there can be no SSIM; empty where there can."""
    if not data_range:
        return "no PSNR, no SSIM: the truth has one value everywhere; give a data range"
    if any(n <= 2 * r for n, r in zip(region.shape, radius, strict=True)):
        return f"no SSIM: an axis of {region.shape} is shorter than its window of {SSIM_WINDOW}"
    return ""


def _data_range(truth: Volume, region: Box, progress: Progress | None) -> float:
    low, high = np.inf, -np.inf
    for _, _, (block,) in stream([truth], region, progress=progress):
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return high - low
