"""Batch normalisation and the activation behind it as one step, which keeps its input only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-5
AT_ONCE = {"cpu": 2**17}
"""Numbers that are copied to float32 at once: what a CPU's cache holds (twice as fast as all of 48 maps of 48^3), and
elsewhere many enough that starting the work is not what takes the time, yet nothing beside maps of several GiB."""
AT_ONCE_ELSEWHERE = 2**23

Total = Callable[[Tensor], Tensor]
"""Adds up a tensor of sums over all ranks that hold a part of the block, in place, and returns it."""


def alone(sums: Tensor) -> Tensor:
    """The total of sums where nobody else holds a part of the block."""
    return sums


def normalise(x: Tensor, weight: Tensor, bias: Tensor, *, slope: float = 1.0, total: Total = alone) -> Tensor:
    """Batch normalisation by the statistics of the block at hand, then LeakyReLU.

    For the backward pass x is kept and nothing else: what the activation needs is computed again. Mean and variance
    are summed in two passes in float32 (float64 of float64), whatever the block's dtype.

    Parameters
    ----------
    x : Tensor (N, channels, space)
        Any floating dtype, which the result has too.
    weight, bias : Tensor (channels)
    slope : float
        Of the activation below zero; 1 is none.
    total : callable
        Makes it the normalisation of one block of which every rank holds a part.
    """
    result = _Normalise.apply(x, weight, bias, slope, total)
    assert isinstance(result, Tensor)
    return result


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, total: Total) -> Tensor:
        mean, scale = _statistics(x, total)
        w, b = _columns(weight, x), _columns(bias, x)
        result = torch.empty_like(x)
        for some in _portions(x):
            linear = _standard(x, mean, scale, some).mul_(w[some]).add_(b[some])
            result[:, some] = linear if slope == 1 else F.leaky_relu_(linear, slope)
        context.save_for_backward(x, w, b, mean, scale)
        context.slope, context.total, context.dtype = slope, total, weight.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return w (g - <g> - s <g s>) / deviation, of s, the standardised x, and g, the one before the activation."""
        x, w, b, mean, scale = context.saved_tensors
        sums = mean.new_zeros(2, *mean.shape)  # of g and of g s
        for some in _portions(x):
            standard = _standard(x, mean, scale, some)
            inner = _before_activation(gradient[:, some], standard, w[some], b[some], context.slope)
            sums[0, some] = _sum(inner)
            sums[1, some] = _sum(inner * standard)
        means = _means(sums, x, context.total)
        result = torch.empty_like(x)
        for some in _portions(x):
            standard = _standard(x, mean, scale, some)
            inner = _before_activation(gradient[:, some], standard, w[some], b[some], context.slope)
            inner -= standard.mul_(means[1, some]).add_(means[0, some])
            result[:, some] = inner.mul_(w[some] * scale[some])
        of_bias, of_weight = sums.flatten(1).to(context.dtype)
        return result, of_weight, of_bias, None, None


def _statistics(x: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation, each (channels, 1, 1, 1)."""
    sums = _columns(x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)), x)[None]
    for some in _portions(x):
        sums[0, some] = _sum(x[:, some].to(sums.dtype))
    (mean,) = _means(sums, x, total)
    for some in _portions(x):
        sums[0, some] = _sum((x[:, some].to(mean.dtype) - mean[some]).square_())
    (variance,) = _means(sums, x, total)
    return mean, (variance + EPSILON).rsqrt()


def _means(sums: Tensor, x: Tensor, total: Total) -> Tensor:
    """Sums (any, channels, 1, 1, 1) divided by the voxels of all ranks."""
    voxels = torch.full_like(sums[:1], x.numel() // x.shape[1])
    totals = total(torch.cat([sums, voxels]))
    return totals[:-1] / totals[-1]


def _standard(x: Tensor, mean: Tensor, scale: Tensor, some: slice) -> Tensor:
    """Some channels with mean 0 and deviation 1, in the dtype of the mean."""
    return (x[:, some].to(mean.dtype) - mean[some]).mul_(scale[some])


def _before_activation(gradient: Tensor, standard: Tensor, w: Tensor, b: Tensor, slope: float) -> Tensor:
    """The gradient in front of the activation, in memory of its own."""
    wide = gradient.to(standard.dtype, copy=True)
    if slope == 1:
        return wide
    return torch.ops.aten.leaky_relu_backward(wide, (standard * w).add_(b), slope, False)


def _portions(x: Tensor) -> Iterator[slice]:
    """Groups of channels with few enough numbers; of tensors without memory one, which takes what all would."""
    channels = x.shape[1]
    step = max(1, AT_ONCE.get(x.device.type, AT_ONCE_ELSEWHERE) * channels // x.numel())
    end = 1 if isinstance(x, FakeTensor) else channels
    return (slice(start, start + step) for start in range(0, end, step))


def _columns(values: Tensor, x: Tensor) -> Tensor:
    """One number per channel, shaped to apply to x: (channels, 1, 1, 1)."""
    return values.reshape(-1, *(1 for _ in x.shape[2:]))


def _sum(x: Tensor) -> Tensor:
    """Per channel: (channels, 1, 1, 1)."""
    return x.sum([axis for axis in range(x.ndim) if axis != 1], keepdim=True)[0]
