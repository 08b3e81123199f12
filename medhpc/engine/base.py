"""What every engine can do: evaluate a network on a block, and say what that costs."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medhpc.engine.memory import peak_growth
from medhpc.geometry import Box, Index
from medhpc.nets import MSD
from medhpc.ranks.group import ALONE, Ranks


class BlockTooLarge(Exception):  # noqa: N818 - it names a state that the caller handles
    """The block does not fit; a caller may try smaller ones."""


def why_not_msd(network: torch.nn.Module) -> str:
    """Why an engine for MS-D networks in float32 cannot evaluate this one; "" where it can."""
    if not isinstance(network, MSD):
        return "it evaluates MS-D networks only"
    dtype = network.head_weight.dtype
    return "" if dtype == torch.float32 else f"the network's weights are {dtype}, not torch.float32"


def regrouped(blocks: Iterable[np.ndarray], planes: int) -> Iterator[np.ndarray]:
    """The same planes, along the second axis, in blocks of so many each; of fewer, the last one."""
    kept: list[np.ndarray] = []
    count = 0
    for block in blocks:
        kept.append(block)
        count += block.shape[1]
        if count < planes:
            continue
        joined = kept[0] if len(kept) == 1 else np.concatenate(kept, axis=1)
        whole = count // planes * planes
        for first in range(0, whole, planes):
            yield joined[:, first : first + planes]
        kept, count = [joined[:, whole:]], count - whole
    if count:
        yield np.concatenate(kept, axis=1)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one voxel of a block costs; measured."""

    seconds_per_voxel: float
    bytes_per_voxel: float


class Engine(ABC):
    """Evaluate a network on blocks.

    Attributes
    ----------
    name : str
        As :func:`medhpc.engine.load` takes it.
    network : torch.nn.Module
        With the attributes that all networks of :mod:`medhpc.nets` share.
    device : torch.device
    threads : int
        Of the CPU.
    """

    name: str
    sweep_step = 16  # planes of a step of :meth:`sweep`: more take more memory, fewer more time
    network: Any  # any module with the attributes of medhpc.nets
    device: torch.device
    threads: int

    @abstractmethod
    def __call__(self, block: np.ndarray, kind: str, wanted: Box | None = None) -> np.ndarray:
        """Evaluate the network.

        Parameters
        ----------
        block : ndarray, shape (channels, z, y, x)
            Normalised float32, or the volume's own numbers for a network that takes them raw.
        kind : {"probability", "classes", "raw"}
            ``probability``: the foreground classes (all but the first; the only one of a one-channel network);
            ``classes``: the probability of every class; ``raw``: the network's own numbers.
        wanted : Box, optional
            The part of the block whose result is wanted; all of it by default. An engine may leave out what this part
            does not depend on.

        Returns
        -------
        ndarray, shape (outputs, z, y, x)
            Of the wanted part; float32 for probabilities, the network's own dtype for ``raw``.

        Raises
        ------
        BlockTooLarge
        """

    def needed(self, block: Index, wanted: Box) -> float:
        """The part of the computing on a block that its wanted part depends on: above 0, up to 1."""
        return 1.0

    @property
    def sweeps(self) -> bool:
        """Whether it can evaluate this network plane by plane (:meth:`sweep`)."""
        return False

    def sweep(
        self, blocks: Iterable[np.ndarray], shape: Index, kind: str, step: int, ranks: Ranks = ALONE
    ) -> Iterator[np.ndarray]:
        """Evaluate a block that comes and goes plane by plane; nothing is computed twice.

        Parameters
        ----------
        blocks : iterable of ndarray, shape (channels, n, y, x)
            As :meth:`__call__` takes them, one behind the other along z, of any n.
        shape : (z, y, x)
            Of all of them together.
        kind : {"probability", "classes", "raw"}
        step : int
            Planes that are computed at once.
        ranks : Ranks
            Processes that share every plane; blocks and result are the rows of this one, of which it has at least as
            many as the largest dilation.

        Yields
        ------
        ndarray, shape (outputs, n, y, x)
            Finished planes, one behind the other.

        Raises
        ------
        BlockTooLarge
        """
        raise NotImplementedError(f"engine '{self.name}' computes whole blocks")

    def sweep_bytes(self, shape: Index, step: int) -> int:
        """Memory that :meth:`sweep` takes, without the blocks that it is given and with the planes that it yields."""
        raise NotImplementedError(f"engine '{self.name}' computes whole blocks")

    def sweep_warm_up(self, step: int) -> int:
        """Planes by which a sweep must begin, a whole number of steps, before the first one that is to be right.

        "Right" means equal, in every bit, to a sweep that has begun at the volume's first plane. Within rounding, the
        network's receptive radius is enough.
        """
        raise NotImplementedError(f"engine '{self.name}' computes whole blocks")

    def measure(self, channels: int, seconds: float = 3.0) -> Cost:
        """Time and memory per voxel of a volume of so many channels.

        Measured on blocks of zeros as large as can be computed in about `seconds`.
        """
        small = self._probe_shape(32)
        self._probe(channels, small)  # first call: libraries load, kernels are chosen
        took, _ = self._probe(channels, small)
        for edge in (96, 64, 48, 32):
            large = self._probe_shape(edge)
            if took * math.prod(large) / math.prod(small) < seconds:
                break
        took, peak = self._probe(channels, large)
        voxels = math.prod(large)
        return Cost(seconds_per_voxel=took / voxels, bytes_per_voxel=peak / voxels)

    def _probe_shape(self, edge: int) -> Index:
        least = (1,) * (3 - self.network.ndim) + tuple(self.network.minimum_shape)
        z, y, x = (max(edge, n) for n in least)
        return (1, 4 * y, 4 * x) if self.network.ndim == 2 else (z, y, x)

    def _probe(self, channels: int, shape: Index) -> tuple[float, int]:
        """Seconds and bytes of one block."""
        block = np.zeros((channels, *shape), np.float32)
        with peak_growth(self.device) as growth:
            began = time.perf_counter()
            self(block, "raw")
            took = time.perf_counter() - began
        return took, growth.bytes
