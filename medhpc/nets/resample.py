"""Blocks of other sizes: filled up by reflection, or made coarser by a Lanczos filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fill_by_reflection(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Continue (N, channels, space) beyond its far ends until it has `shape`, there and back again if need be.

    The edge voxel is not repeated: 0 1 2 becomes 0 1 2 1 0 1 2 ...
    """
    for axis, (length, wanted) in enumerate(zip(x.shape[2:], shape, strict=True), start=2):
        if wanted > length:
            period = max(1, 2 * (length - 1))
            position = torch.arange(wanted, device=x.device) % period
            x = x.index_select(axis, torch.minimum(position, period - position) if length > 1 else position)
    return x


def pad_by_reflection(x: Tensor, reach: int) -> Tensor:
    """As ``F.pad(x, ..., mode="reflect")`` on all sides, which for its gradient would keep x: a sixth of all memory."""
    return _Reflection.apply(x, reach)


class _Reflection(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, reach: int) -> Tensor:
        context.shape, context.reach = x.shape, reach
        return F.pad(x, (reach, reach) * (x.ndim - 2), mode="reflect")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ndim = gradient.ndim - 2
        back = torch.ops.aten.reflection_pad2d_backward if ndim == 2 else torch.ops.aten.reflection_pad3d_backward
        no_memory = gradient.new_empty(()).expand(context.shape)  # only its shape is looked at
        return back(gradient.contiguous(), no_memory, [context.reach] * (2 * ndim)), None


def lanczos2(x: Tensor, factor: int) -> Tensor:
    """Make (N, channels, space) coarser by `factor`; every length is a multiple of it.

    A Lanczos filter of support 2, centred on the middle of the voxels that become one; borders are continued by their
    edge voxel (as ``Downsampler`` with phase 1/2 of Ulyanov's code).
    """
    ndim, channels = x.ndim - 2, x.shape[1]
    taps = lanczos2_taps(factor).to(x)
    beyond = (len(taps) - factor) // 2
    convolve = F.conv2d if ndim == 2 else F.conv3d
    x = F.pad(x, (beyond, beyond) * ndim, mode="replicate")
    for axis in range(ndim):
        shape, stride = [1] * ndim, [1] * ndim
        shape[axis], stride[axis] = len(taps), factor
        x = convolve(x, taps.reshape(1, 1, *shape).expand(channels, -1, *shape), stride=stride, groups=channels)
    return x


def lanczos2_taps(factor: int) -> Tensor:
    """4 x `factor` weights whose sum is one, float32."""
    distance = (torch.arange(4 * factor) - (4 * factor - 1) / 2) / factor  # from the centre, in coarse voxels
    taps = torch.sinc(distance) * torch.sinc(distance / 2)
    return taps / taps.sum()
