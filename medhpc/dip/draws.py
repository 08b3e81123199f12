"""Random numbers that depend on seed, purpose, iteration and plane only: nothing of them needs to be kept or sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """Streams that share nothing."""

    CODE = 0
    HELD_OUT = 1
    INPUT_NOISE = 2
    RECORRUPTION = 3


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Planes of an image along an axis of space, by their numbers in the whole."""

    axis: int
    numbers: Sequence[int]


class Draws:
    """The random numbers of one run on one device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self._generator = torch.Generator(device)

    def uniform(
        self, purpose: Purpose, shape: Sequence[int], iteration: int = 0, planes: Planes | None = None
    ) -> Tensor:
        """Numbers from 0 to 1 of shape (1, channels, space); all planes of the first axis, unless told which."""
        return self._drawn(torch.rand, purpose, shape, iteration, planes)

    def normal(
        self, purpose: Purpose, shape: Sequence[int], iteration: int = 0, planes: Planes | None = None
    ) -> Tensor:
        """Numbers of mean 0 and deviation 1 of shape (1, channels, space)."""
        return self._drawn(torch.randn, purpose, shape, iteration, planes)

    def _drawn(
        self,
        draw: Callable[..., Tensor],
        purpose: Purpose,
        shape: Sequence[int],
        iteration: int,
        planes: Planes | None,
    ) -> Tensor:
        planes = planes or Planes(axis=0, numbers=range(shape[2]))
        axis = planes.axis + 2
        result = torch.empty(*shape, device=self.device)
        for position, plane in enumerate(planes.numbers):
            words = np.random.SeedSequence((self.seed, purpose, iteration, plane)).generate_state(1, np.uint64)
            self._generator.manual_seed(int(words[0] >> np.uint64(1)))
            drawn = draw(*shape[:axis], *shape[axis + 1 :], generator=self._generator, device=self.device)
            result.select(axis, position).copy_(drawn)
        return result
