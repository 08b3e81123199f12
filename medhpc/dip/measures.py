"""How near an image is to the truth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhpc.metrics import SSIM_WINDOW, psnr, ssim_map
from medhpc.ranks.halo import Cut, extend


def similarity(found: Tensor, truth: Tensor, data_range: float) -> float | None:
    """Mean SSIM over the channels of (1, channels, space); None where an axis is shorter than its window."""
    if min(truth.shape[2:]) < SSIM_WINDOW:
        return None
    values = []
    for one, other in zip(found[0], truth[0], strict=True):  # (space)
        planes = (None, ...) if one.ndim == 2 else (...,)
        result, wanted = (image.cpu().numpy()[planes] for image in (one, other))
        values.append(float(ssim_map(result, wanted, data_range).mean()))
    return sum(values) / len(values)


def correlation_of_slabs(residual: Tensor, cut: Cut) -> float:
    """Neighbours' correlation in (1, channels, space) that ranks share, of the channel where it is largest.

    As :func:`medhpc.dip.noise.neighbour_correlation` finds it in a whole image.
    """
    count = cut.ranks.total(residual.new_tensor(residual[0, 0].numel(), dtype=torch.float64))
    space, double = tuple(range(2, residual.ndim)), torch.float64
    mean = cut.ranks.total(residual.sum(space, keepdim=True, dtype=double)) / count
    centred = residual - mean.to(residual.dtype)
    power = cut.ranks.total(centred.square().sum(space, dtype=double)) / count
    with_next = extend(centred, cut.halo(0, 1, "none"))
    found = [torch.zeros_like(power)]
    for axis in space:
        rows = with_next if axis == cut.axis else centred
        products = rows.narrow(axis, 1, rows.shape[axis] - 1) * rows.narrow(axis, 0, rows.shape[axis] - 1)
        pairs = cut.ranks.total(count.new_tensor(products[0, 0].numel()))
        if pairs:
            found.append((cut.ranks.total(products.sum(space, dtype=double)) / pairs).abs())
    return float((torch.stack(found).amax(0) / power.clamp_min(1e-300)).max())


def agreement(found: NDArray, truth: NDArray, data_range: float | None = None) -> tuple[float, float | None]:
    """PSNR and SSIM of images (channels, z, y, x) against the truth, relative to its range unless another is given."""
    data_range = data_range or float(np.ptp(truth))
    error = float(np.mean((found.astype(np.float64) - truth) ** 2))
    tensors = (torch.from_numpy(np.ascontiguousarray(image, np.float32)) for image in (found, truth))
    one, other = (image[None] if image.shape[1] > 1 else image[None, :, 0] for image in tensors)
    return psnr(error, data_range), similarity(one, other, data_range)
