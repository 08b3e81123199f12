"""One image as tensors: scaled to where a sigmoid reaches, with the voxels that count and those held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhpc.dip.draws import Draws, Purpose
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.errors import BadOption, NonFinite

HELD_OUT = 0.03
"""Share of the voxels that is held out of the loss, to see when the network begins to learn the noise."""
RANGE = (0.1, 99.9)
"""Percentiles between which an image's numbers lie; single hot voxels do not squeeze all others together."""
MARGIN = 0.1
"""Beyond them on both sides, as a share: the sigmoid bends there."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From an image's numbers to 0...1 and back; Rician noise keeps the zero where it is."""

    low: float
    span: float

    def forward(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The image's numbers as the network's."""
        return ((values.astype(np.float64) - self.low) / self.span).astype(np.float32)

    def back(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The network's numbers as the image's."""
        return (values.astype(np.float64) * self.span + self.low).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be denoised.

    Attributes
    ----------
    image : Tensor (1, channels, space)
        The noisy image, scaled.
    known : Tensor (1, 1, space)
        1 where a voxel counts, 0 where it is to be restored.
    truth : Tensor (1, channels, fine space) or None
        Scaled in the same way; only looked at.
    noise : Noise
        Its sigma scaled.
    data_range : float
        Of the truth, scaled: what PSNR is relative to.
    scale : Scale
    """

    image: Tensor
    known: Tensor
    truth: Tensor | None
    noise: Noise
    data_range: float
    scale: Scale

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.image.ndim - 2

    def result_shape(self, factor: int) -> tuple[int, ...]:
        """(1, channels, space) of the image that is made."""
        return (*self.image.shape[:2], *(factor * n for n in self.image.shape[2:]))


def pose(
    image: NDArray[Any],
    noise: Noise,
    device: torch.device,
    *,
    mask: NDArray[Any] | None = None,
    truth: NDArray[Any] | None = None,
    data_range: float | None = None,
) -> Problem:
    """Make tensors of an image (channels, z, y, x); of one plane, in two dimensions.

    Raises
    ------
    NonFinite, BadOption
        Voxels that are no numbers, an image of one value, a mask without voxels.
    """
    inside = image if mask is None else image[:, mask]
    if not inside.size:
        raise BadOption("the mask is zero everywhere: expected the voxels that are known to be above zero")
    if not np.isfinite(inside).all():
        raise NonFinite("NaN or infinity in the volume: mend it first, or give a mask that leaves these voxels out")
    scale = scale_of(inside, keeps_zero=noise.kind == "rician")
    image = image if mask is None else np.where(mask, image, inside.mean())

    def tensor(values: NDArray[Any]) -> Tensor:
        values = values[:, 0] if values.shape[1] == 1 else values
        return torch.from_numpy(np.ascontiguousarray(values))[None].to(device)

    known = np.ones((1, *image.shape[1:]), np.float32) if mask is None else mask[None].astype(np.float32)
    return Problem(
        image=tensor(scale.forward(image)),
        known=tensor(known),
        truth=None if truth is None else tensor(scale.forward(truth)),
        noise=Noise(kind=noise.kind, sigma=noise.sigma / scale.span),
        data_range=1.0 if truth is None else (data_range or float(np.ptp(truth))) / scale.span,
        scale=scale,
    )


def scale_of(values: NDArray[Any], *, keeps_zero: bool) -> Scale:
    """Find where an image's numbers lie."""
    low, high = (float(q) for q in np.percentile(values, RANGE))
    low = 0.0 if keeps_zero else low
    if not high > low:
        raise BadOption(f"an image of one value ({low:g}): there is nothing to denoise")
    margin = MARGIN * (high - low)
    if keeps_zero:
        return Scale(low=0.0, span=high + margin)
    return Scale(low=low - margin, span=high - low + 2 * margin)


def held_out(problem: Problem, options: Options, draws: Draws) -> Tensor:
    """1 where a voxel is held out of the loss: (1, 1, space)."""
    if options.stops_by != "held-out":
        return torch.zeros_like(problem.known)
    drawn = draws.uniform(Purpose.HELD_OUT, problem.known.shape)
    return (drawn < HELD_OUT).to(problem.known.dtype) * problem.known
