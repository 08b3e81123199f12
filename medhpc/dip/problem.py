"""One image as tensors: scaled to where a sigmoid reaches, with the voxels that count and those held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhpc.dip.draws import Draws, Purpose
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.dip.share import Share
from medhpc.errors import BadOption, NonFinite

HELD_OUT = 0.03
"""Share of the voxels that is held out of the loss, to see when the network begins to learn the noise."""
RANGE = (0.1, 99.9)
"""Percentiles between which an image's numbers lie; single hot voxels do not squeeze all others together."""
MARGIN = 0.1
"""Beyond them on both sides, as a share: the sigmoid bends there."""


Planes: TypeAlias = Callable[[range], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From an image's numbers to 0...1 and back; Rician noise keeps the zero where it is."""

    low: float
    span: float

    def forward(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The image's numbers (channels, z, y, x) as the network's; in double precision, a plane at a time."""
        scaled = np.empty(values.shape, np.float32)
        for z in range(values.shape[1]):
            scaled[:, z] = (values[:, z].astype(np.float64) - self.low) / self.span
        return scaled

    def back(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The network's numbers as the image's."""
        return (values.astype(np.float64) * self.span + self.low).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be denoised; of several ranks, the planes of this one.

    Attributes
    ----------
    share : Share
        Which planes these are.
    image : Tensor (1, channels, space)
        The noisy image, scaled.
    seen : Tensor (1, channels, space)
        The same as a network would see it: with the planes that fill it up.
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

    share: Share
    image: Tensor
    seen: Tensor
    known: Tensor
    truth: Tensor | None
    noise: Noise
    data_range: float
    scale: Scale

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.image.ndim - 2

    @property
    def code_shape(self) -> tuple[int, ...]:
        """(1, channels, space) of the result as the network sees it."""
        factor, axis = self.share.factor, self.share.axis
        lengths = [factor * n for n in self.image.shape[2:]]
        lengths[axis] = len(self.share.seen.of(self.share.ranks.rank))
        return (*self.image.shape[:2], *lengths)


def pose(
    image: NDArray[Any],
    noise: Noise,
    device: torch.device,
    *,
    mask: NDArray[Any] | None = None,
    truth: NDArray[Any] | None = None,
    data_range: float | None = None,
    share: Share | None = None,
) -> Problem:
    """Make tensors of an image (channels, z, y, x); of one plane, in two dimensions.

    Of the whole image follow scale and noise; the tensors are what `share` says, all of it unless given.

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
    share = share or Share.alone(space_of(image.shape))
    axis = share.axis + 4 - len(space_of(image.shape))

    def of(whole: NDArray[Any]) -> Planes:
        return lambda planes: whole.take(planes, axis)

    return assemble(
        share,
        of(image if mask is None else np.where(mask, image, inside.mean())),
        None if mask is None else of(mask[None]),
        None if truth is None else of(truth),
        noise=noise,
        scale=scale,
        data_range=1.0 if truth is None else (data_range or float(np.ptp(truth))),
        device=device,
    )


def assemble(
    share: Share,
    image: Planes,
    known: Planes | None,
    truth: Planes | None,
    *,
    noise: Noise,
    scale: Scale,
    data_range: float,
    device: torch.device,
) -> Problem:
    """Make tensors of the planes that this rank has, across the axis of its share.

    Parameters
    ----------
    image, known, truth : callable
        Give planes as (channels, z, y, x); `known` those of a mask, None where all voxels count.
    noise, scale, data_range
        Of the whole image, in its numbers.
    """
    numbers = (share.seen_planes if share.factor == 1 else share.image_planes).numbers
    planes = range(min(numbers), max(numbers) + 1)
    values = _tensor(scale.forward(image(planes)))
    seen = values.index_select(share.axis + 2, torch.tensor([n - planes.start for n in numbers])).to(device)
    here = share.own_of(seen) if share.factor == 1 else seen
    own = range(share.image_planes.numbers[0], share.image_planes.numbers[-1] + 1)
    counted = torch.ones_like(here[:, :1]) if known is None else _tensor(known(own).astype(np.float32)).to(device)
    fine = share.own.of(share.ranks.rank)
    return Problem(
        share=share,
        image=here,
        seen=seen,
        known=counted,
        truth=None if truth is None else _tensor(scale.forward(truth(fine))).to(device),
        noise=Noise(kind=noise.kind, sigma=noise.sigma / scale.span),
        data_range=1.0 if truth is None else data_range / scale.span,
        scale=scale,
    )


def space_of(shape: Sequence[int]) -> Sequence[int]:
    """The axes of space of an image (channels, z, y, x): two of a single plane."""
    return shape[2:] if shape[1] == 1 else shape[1:]


def _tensor(values: NDArray[Any]) -> Tensor:
    values = values[:, 0] if values.shape[1] == 1 else values
    return torch.from_numpy(np.ascontiguousarray(values))[None]


def scale_of(values: NDArray[Any], *, keeps_zero: bool) -> Scale:
    """Find where an image's numbers lie."""
    low, high = (float(q) for q in np.percentile(values, RANGE))
    return scale_between(low, high, keeps_zero=keeps_zero)


def scale_between(low: float, high: float, *, keeps_zero: bool) -> Scale:
    """The scale of an image whose numbers lie between two, but for a few.

    Raises
    ------
    BadOption
        They are one.
    """
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
    drawn = draws.uniform(Purpose.HELD_OUT, problem.known.shape, planes=problem.share.image_planes)
    return (drawn < HELD_OUT).to(problem.known.dtype) * problem.known
