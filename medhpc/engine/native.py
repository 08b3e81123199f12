"""The engine ``native``: MS-D networks on CPUs, by the compiled kernel (:mod:`medhpc.kernel`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from medhpc.engine.base import BlockTooLarge, Engine, regrouped, why_not_msd
from medhpc.engine.native_sweep import rows_of_neighbours, swept
from medhpc.geometry import Box, Index
from medhpc.kernel import SweepShape, load_library, usable_variants, why_not_built
from medhpc.nets import MSD
from medhpc.nets.kernel import kernel_network
from medhpc.nets.msd import WINDOW_EDGE
from medhpc.ranks.group import ALONE, Ranks


def why_not_native(network: torch.nn.Module | None = None) -> str:
    """Why the kernel cannot evaluate this network here (or any); "" where it can."""
    refused = why_not_msd(network) if network is not None else ""
    return refused or why_not_built()


class NativeEngine(Engine):
    """Evaluate an MS-D network on CPUs; the result is the same, bit for bit, for any number of threads.

    The weights are copied: what becomes of `network` later is not seen. Calls from several threads at once are
    fine, and so is a child of a fork. Between calls the memory of the largest block is kept.

    Parameters
    ----------
    network : MSD
        In float32.
    threads : int
    variant : str, optional
        Instruction set, one of :func:`usable_variants`; the fastest by default.
    winograd : {4, 2}
        As :class:`medhpc.kernel.KernelNetwork` has it.
    """

    name = "native"
    sweep_step = 40  # 1.07 times a block's processor time; 16: 1.25, 10: 1.5 (tiles along z have few points inside)

    def __init__(self, network: torch.nn.Module, threads: int, variant: str | None = None, winograd: int = 4) -> None:
        assert isinstance(network, MSD)
        self.network: MSD = network
        self.device, self.threads = torch.device("cpu"), threads
        self.variant = variant or usable_variants()[0]
        library = load_library(self.variant)
        self._kernel = kernel_network(network, library, windows=_windows(network), winograd=winograd)

    def __call__(self, block: np.ndarray, kind: str, wanted: Box | None = None) -> np.ndarray:
        """See :class:`medhpc.engine.base.Engine`; numbers of any dtype and stride."""
        try:
            return self._evaluate(np.require(block, np.float32, "A"), kind, wanted or Box.whole(block.shape[1:]))
        except MemoryError:
            raise BlockTooLarge(f"no memory for a block of {block.shape[1:]} voxels") from None

    def bytes(self, shape: Index) -> int:
        """Memory that a block (z, y, x) takes while it is evaluated, with its result."""
        planes = shape if self.network.ndim == 3 else (1, *shape[1:])
        return self._kernel.bytes(planes, self.threads) + 4 * self.network.out_channels * math.prod(shape)

    def needed(self, block: Index, wanted: Box) -> float:
        """See :class:`medhpc.engine.base.Engine`; layer by layer, as far as the later dilations reach."""
        network, whole, reach = self.network, Box.whole(block), 0
        spent = given = 0
        for layer in reversed(range(network.depth)):
            sources = network.in_channels + layer * network.width
            around = (reach if network.ndim == 3 else 0, reach, reach)
            spent += sources * wanted.grow(around).intersection(whole).size
            given += sources * whole.size
            reach += max(network.dilations[layer * network.width : (layer + 1) * network.width])
        return spent / given

    @property
    def sweeps(self) -> bool:
        """See :class:`medhpc.engine.base.Engine`."""
        return True

    def sweep(
        self, blocks: Iterable[np.ndarray], shape: Index, kind: str, step: int, ranks: Ranks = ALONE
    ) -> Iterator[np.ndarray]:
        """See :class:`medhpc.engine.base.Engine`; numbers of any dtype and stride."""
        low, high = rows_of_neighbours(self._kernel, ranks).here
        seen = (low + shape[1] + high, shape[2])
        self.network.check_shape((1, self.network.in_channels, *shape[: self.network.ndim - 2], *seen))
        return self._swept(blocks, shape, kind, step, ranks)

    def sweep_bytes(self, shape: Index, step: int) -> int:
        """See :class:`medhpc.engine.base.Engine`."""
        result = 4 * self.network.out_channels * min(step, shape[0]) * math.prod(shape[1:])
        return self._kernel.sweep_bytes(SweepShape(shape=shape, step=step), self.threads) + result

    def sweep_warm_up(self, step: int) -> int:
        """See :class:`medhpc.engine.base.Engine`."""
        return self._kernel.sweep_warm_up(step)

    def _swept(
        self, blocks: Iterable[np.ndarray], shape: Index, kind: str, step: int, ranks: Ranks
    ) -> Iterator[np.ndarray]:
        steps = (np.require(block, np.float32, "A") for block in regrouped(blocks, step))
        try:
            yield from swept(self._kernel, steps, shape, kind, step, self.threads, ranks)
        except MemoryError:
            raise BlockTooLarge(f"no memory for a sweep over planes of {shape[1:]} voxels") from None

    def _evaluate(self, block: np.ndarray, kind: str, wanted: Box) -> np.ndarray:
        outputs = self.network.out_channels - (kind == "probability" and self.network.out_channels > 1)
        result = np.empty((outputs, *wanted.shape), np.float32)
        if self.network.ndim == 3:
            self.network.check_shape((1, *block.shape))
            self._kernel.run(block, wanted, kind, self.threads, result)
            return result
        self.network.check_shape((1, block.shape[0], *block.shape[2:]))
        (z0, y0, x0), (z1, y1, x1) = wanted.start, wanted.stop
        for z in range(z0, z1):  # a 2D network sees each plane by itself
            plane = np.empty((outputs, 1, y1 - y0, x1 - x0), np.float32)
            self._kernel.run(block[:, z : z + 1], Box((0, y0, x0), (1, y1, x1)), kind, self.threads, plane)
            result[:, z - z0] = plane[:, 0]
        return result

    def _probe(self, channels: int, shape: Index) -> tuple[float, int]:
        block = np.zeros((channels, *shape), np.float32)
        began = time.perf_counter()
        self(block, "raw")
        return time.perf_counter() - began, self.bytes(shape)


def _windows(network: MSD) -> np.ndarray:
    """Each input's (low, high, middle, scale), as :class:`medhpc.kernel.KernelNetwork` has them."""
    windows = []
    for window in network.window or [None] * network.in_channels:
        low, high = window or (-math.inf, math.inf)
        middle, scale = ((low + high) / 2, 2 * WINDOW_EDGE / (high - low)) if window else (0.0, 1.0)
        windows.append((low, high, middle, scale))
    return np.array(windows, np.float32)
