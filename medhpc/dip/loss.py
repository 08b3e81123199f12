"""What a step makes smaller. All in float32, over images of shape (1, channels, space).

Of an image that several ranks share, each has the part of a mean that its own planes have; the parts add up to it, and
the gradients of the parts to that of the mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.halo import Cut, extend


def part_of_mean(errors: Tensor, weights: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Part of the mean of errors (1, channels, space) over the voxels that weights (1, 1, space) count."""
    return (errors * weights).sum() / ranks.total(weights.sum() * errors.shape[1])


def mean_over(errors: Tensor, weights: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """The mean over all ranks, which has no gradient."""
    return ranks.total(part_of_mean(errors, weights, ranks).detach())


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


def total_variation(image: Tensor, cut: Cut | None = None) -> Tensor:
    """Part of the mean absolute difference of neighbours, summed over the axes."""
    cut = cut or Cut(ranks=ALONE, axis=2)
    with_next = extend(image, cut.halo(0, 1, "none"))
    parts = []
    for axis in range(2, image.ndim):
        steps = (with_next if axis == cut.axis else image).diff(dim=axis).abs()
        count = cut.ranks.total(steps.new_tensor(steps.numel()))
        parts.append(steps.sum() / count.clamp_min(1))
    return torch.stack(parts).sum()


def decibels(squared_error: float) -> float:
    """PSNR for a range of one; minus infinity for what is no number."""
    if not math.isfinite(squared_error):
        return -math.inf
    return -10 * math.log10(max(squared_error, 1e-20))
