"""Blocks of other sizes: filled up by reflection, or made coarser by a Lanczos filter."""

from __future__ import annotations

from collections.abc import Sequence

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
