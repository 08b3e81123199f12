"""What a step makes smaller. All in float32, over images of shape (1, channels, space)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mean_over(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean of errors (1, channels, space) over the voxels that weights (1, 1, space) count."""
    return (errors * weights).sum() / (weights.sum() * errors.shape[1])


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared differences, the likelihood of Gaussian noise."""
    return (found - wanted).square()


def rician(found: Tensor, magnitude: Tensor, sigma: float) -> Tensor:
    """Twice sigma^2 times the negative log-likelihood of magnitudes: f^2 + m^2 - 2 s^2 log I0(m f / s^2).

    As a squared difference where both are far above sigma; below, it does not pull the image up to the noise's floor.
    The constant terms of the density are left out (Rice, Bell System Technical Journal 24, 1945).
    """
    magnitude = magnitude.clamp_min(0)
    x = magnitude * found / sigma**2
    log_bessel = torch.special.i0e(x).log() + x  # i0e is I0 times exp(-x), which does not overflow
    return found.square() + magnitude.square() - 2 * sigma**2 * log_bessel


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the axes."""
    axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
    return torch.stack([image.diff(dim=axis).abs().mean() for axis in axes]).sum()


def decibels(squared_error: float) -> float:
    """PSNR for a range of one; minus infinity for what is no number."""
    if not math.isfinite(squared_error):
        return -math.inf
    return -10 * math.log10(max(squared_error, 1e-20))
