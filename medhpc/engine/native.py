"""The engine ``native``: MS-D networks on CPUs, by the compiled kernel (:mod:`medhpc.kernel`)."""

from __future__ import annotations

import ctypes
import math
import time
import weakref
from collections.abc import Sequence

import numpy as np
import torch

from medhpc.engine.base import BlockTooLarge, Engine, why_not_msd
from medhpc.geometry import Box, Index
from medhpc.kernel import KINDS, NO_MEMORY, load_library, usable_variants, why_not_built
from medhpc.nets import MSD
from medhpc.nets.msd import WINDOW_EDGE


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
        Neighbouring outputs that one transform gives, along each of two axes. 2 spends 1.8 times the products of 4,
        and its rounding errors are smaller.
    """

    name = "native"

    def __init__(self, network: torch.nn.Module, threads: int, variant: str | None = None, winograd: int = 4) -> None:
        assert isinstance(network, MSD)
        self.network: MSD = network
        self.device, self.threads = torch.device("cpu"), threads
        self.variant = variant or usable_variants()[0]
        self._library = load_library(self.variant)
        self._handle = ctypes.c_void_p(_create(self._library, network, winograd))
        weakref.finalize(self, self._library.msd_destroy, self._handle)

    def __call__(self, block: np.ndarray, kind: str, wanted: Box | None = None) -> np.ndarray:
        """See :class:`medhpc.engine.base.Engine`; numbers of any dtype and stride."""
        try:
            return self._evaluate(np.require(block, np.float32, "A"), kind, wanted or Box.whole(block.shape[1:]))
        except MemoryError:
            raise BlockTooLarge(f"no memory for a block of {block.shape[1:]} voxels") from None

    def bytes(self, shape: Index) -> int:
        """Memory that a block (z, y, x) takes while it is evaluated, with its result."""
        planes = shape if self.network.ndim == 3 else (1, *shape[1:])
        inside = self._library.msd_bytes(self._handle, _ints(planes), self.threads)
        return int(inside) + 4 * self.network.out_channels * math.prod(shape)

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

    def _evaluate(self, block: np.ndarray, kind: str, wanted: Box) -> np.ndarray:
        outputs = self.network.out_channels - (kind == "probability" and self.network.out_channels > 1)
        result = np.empty((outputs, *wanted.shape), np.float32)
        if self.network.ndim == 3:
            self.network.check_shape((1, *block.shape))
            self._run(block, kind, wanted, result)
            return result
        self.network.check_shape((1, block.shape[0], *block.shape[2:]))
        (z0, y0, x0), (z1, y1, x1) = wanted.start, wanted.stop
        for z in range(z0, z1):  # a 2D network sees each plane by itself
            plane = np.empty((outputs, 1, y1 - y0, x1 - x0), np.float32)
            self._run(block[:, z : z + 1], kind, Box((0, y0, x0), (1, y1, x1)), plane)
            result[:, z - z0] = plane[:, 0]
        return result

    def _run(self, block: np.ndarray, kind: str, wanted: Box, result: np.ndarray) -> None:
        strides = (ctypes.c_int64 * 4)(*block.strides)
        shape, inside = _ints(block.shape[1:]), _ints([*wanted.start, *wanted.stop])
        outcome = self._library.msd_run(
            self._handle, block.ctypes.data, strides, shape, inside, KINDS[kind], self.threads, _floats(result)
        )
        if outcome == NO_MEMORY:
            raise MemoryError

    def _probe(self, channels: int, shape: Index) -> tuple[float, int]:
        block = np.zeros((channels, *shape), np.float32)
        began = time.perf_counter()
        self(block, "raw")
        return time.perf_counter() - began, self.bytes(shape)


def _create(library: ctypes.CDLL, network: MSD, winograd: int) -> int:
    """Hand a network to the library, which copies its numbers."""
    handle: int | None = library.msd_create(
        network.in_channels,
        network.out_channels,
        len(network.dilations),
        network.width,
        network.ndim,
        network.padding == "reflect",
        _ints(network.dilations),
        *(_floats(array) for array in (_joined(network.weights), _joined(network.biases))),
        *(_floats(_joined([part])) for part in (network.head_weight, network.head_bias)),
        _floats(_windows(network)),
        winograd,
    )
    if not handle:
        raise MemoryError
    return handle


def _joined(parts: Sequence[torch.Tensor] | torch.nn.ParameterList) -> np.ndarray:
    return np.concatenate([part.detach().cpu().numpy().ravel() for part in parts])


def _windows(network: MSD) -> np.ndarray:
    """Each input's (low, high, middle, scale), as `Window` in kernel/src/head.h."""
    windows = []
    for window in network.window or [None] * network.in_channels:
        low, high = window or (-math.inf, math.inf)
        middle, scale = ((low + high) / 2, 2 * WINDOW_EDGE / (high - low)) if window else (0.0, 1.0)
        windows.append((low, high, middle, scale))
    return np.array(windows, np.float32)


def _floats(array: np.ndarray) -> ctypes._Pointer[ctypes.c_float]:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(values))(*values)
