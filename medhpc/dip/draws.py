"""Random numbers that depend on seed, purpose, iteration and plane only: nothing of them needs to be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class Draws:
    """The random numbers of one run on one device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self._generator = torch.Generator(device)

    def uniform(self, purpose: Purpose, shape: Sequence[int], iteration: int = 0) -> Tensor:
        """Numbers from 0 to 1 of shape (1, channels, space)."""
        return self._drawn(torch.rand, purpose, shape, iteration)

    def normal(self, purpose: Purpose, shape: Sequence[int], iteration: int = 0) -> Tensor:
        """Numbers of mean 0 and deviation 1 of shape (1, channels, space)."""
        return self._drawn(torch.randn, purpose, shape, iteration)

    def _drawn(self, draw: Callable[..., Tensor], purpose: Purpose, shape: Sequence[int], iteration: int) -> Tensor:
        """Plane by plane along z; an image in two dimensions is one plane."""
        if len(shape) == 4:
            return self._plane(draw, purpose, shape, iteration, 0)
        result = torch.empty(*shape, device=self.device)
        for plane in range(shape[2]):
            result[:, :, plane] = self._plane(draw, purpose, (*shape[:2], *shape[3:]), iteration, plane)
        return result

    def _plane(
        self, draw: Callable[..., Tensor], purpose: Purpose, shape: Sequence[int], iteration: int, plane: int
    ) -> Tensor:
        words = np.random.SeedSequence((self.seed, purpose, iteration, plane)).generate_state(1, np.uint64)
        self._generator.manual_seed(int(words[0] >> np.uint64(1)))
        return draw(*shape, generator=self._generator, device=self.device)
