"""What must be known of the whole image before any rank begins: found by the first one, block by block, told to all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.dip.image import Part
from medhpc.dip.noise import Noise, measure_noise
from medhpc.dip.options import Options
from medhpc.dip.problem import RANGE, Scale, scale_between
from medhpc.dip.stabilise import to_stable


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one part.

    Attributes
    ----------
    noise : Noise
        As it is taken; what the options tell goes before what is measured.
    measured : float
        Its level in the image.
    fill : float
        For voxels that are not known: the mean of the others.
    scale : Scale
    data_range : float
        Of the truth; 1 where there is none.
    """

    noise: Noise
    measured: float
    fill: float
    scale: Scale
    data_range: float = 1.0

    def as_numbers(self) -> list[float]:
        """For a message."""
        noise, scale = self.noise, self.scale
        kind = (float(noise.kind == "rician"), noise.sigma, float(noise.is_seen))
        return [*kind, self.measured, self.fill, scale.low, scale.span, self.data_range]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Facts:
        """From a message."""
        rician, sigma, is_seen, measured, fill, low, span, data_range = numbers
        return cls(
            noise=Noise(kind="rician" if rician else "gaussian", sigma=sigma, is_seen=bool(is_seen)),
            measured=measured,
            fill=fill,
            scale=Scale(low=low, span=span),
            data_range=data_range,
        )


NOTHING = Facts(noise=Noise(kind="gaussian", sigma=0.0), measured=0.0, fill=0.0, scale=Scale(low=0.0, span=1.0))
"""What ranks know before they are told."""


def find_facts(part: Part, options: Options) -> Facts:
    """Look through an image.

    Raises
    ------
    BadOption
        It has one value only.
    """
    fill, count = _known(part)
    measured = _noise(part, options, fill)
    noise = Noise(kind=measured.kind, sigma=options.sigma or measured.sigma, is_seen=measured.is_seen)
    stable = is_stabilised(noise, options)
    known = (values[np.isfinite(values)] for _, values in part.blocks())
    inside = (to_stable(values, noise.sigma) for values in known) if stable else known
    low, high = percentiles(inside, count, RANGE)
    scale = scale_between(low, high, keeps_zero=noise.kind == "rician")
    return Facts(noise=noise, measured=measured.sigma, fill=fill, scale=scale)


def is_stabilised(noise: Noise, options: Options) -> bool:
    """The noise of r2r is normal: where it is Rician, the image is transformed for it."""
    return options.method == "r2r" and noise.kind == "rician"


def _known(part: Part) -> tuple[float, int]:
    """Mean and number of the voxels that count."""
    total, count = 0.0, 0
    for _, values in part.blocks():
        counted = values[np.isfinite(values)]
        total, count = total + float(counted.sum(dtype=np.float64)), count + counted.size
    return total / count, count


def _noise(part: Part, options: Options, fill: float) -> Noise:
    """Each channel is measured, the middle one is taken; several in a plane are colours, and no magnitudes."""
    colours = part.channels > 1 and len(part.space) == 2
    kind = "gaussian" if colours and options.noise == "auto" else options.noise
    found = []
    for channel in range(part.channels):

        def blocks(overlap: int, channel: int = channel) -> Iterable[NDArray[Any]]:
            return (np.nan_to_num(values[channel], nan=fill) for _, values in part.blocks(overlap))

        found.append(measure_noise(blocks, part.space, kind))
    return sorted(found, key=lambda noise: noise.sigma)[len(found) // 2]


def percentiles(blocks: Iterable[NDArray[Any]], count: int, wanted: tuple[float, float]) -> tuple[float, float]:
    """A low and a high percentile of `count` voxels, as numpy.percentile has them; no more than the ends are kept."""
    low_at, high_at = ((count - 1) * np.true_divide(q, 100) for q in wanted)
    smallest, largest = np.empty(0, np.float32), np.empty(0, np.float32)
    for block in blocks:
        smallest = _smallest(np.concatenate([smallest, block.ravel()]), int(low_at) + 2)
        largest = -_smallest(-np.concatenate([largest, block.ravel()]), count - int(high_at))
    return _between(np.sort(smallest)[int(low_at) :], low_at % 1), _between(np.sort(largest), high_at % 1)


def _smallest(values: NDArray[Any], count: int) -> NDArray[Any]:
    return values if len(values) <= count else np.partition(values, count - 1)[:count]


def _between(values: NDArray[Any], share: float) -> float:
    """From the first to the second of them."""
    return float(np.quantile(values[:2], np.array([share]))[0])
