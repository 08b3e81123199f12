"""An MS-D network in the compiled kernel: arrays in, arrays out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medhpc.geometry import Box, Index
from medhpc.kernel.arguments import address, check, described, ints, owned
from medhpc.kernel.library import KINDS
from medhpc.kernel.sweep import KernelSweep, SweepShape

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of :class:`medhpc.nets.msd.MSD` that decide what is computed."""

    in_channels: int
    out_channels: int
    width: int
    ndim: int
    dilations: tuple[int, ...]
    """Of each map."""
    padding: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a network, or their gradients; C-contiguous.

    Attributes
    ----------
    kernels : ndarray, shape (n,)
        Layer after layer, each (width, in_channels + earlier maps, 3, 3, 3) or (..., 3, 3).
    biases : ndarray, shape (maps,)
    head : ndarray, shape (out_channels, in_channels + maps)
    head_biases : ndarray, shape (out_channels,)
    """

    kernels: Array
    biases: Array
    head: Array
    head_biases: Array


class KernelNetwork:
    """A network in the kernel, which copies its weights.

    Parameters
    ----------
    library : ctypes.CDLL
        From :func:`medhpc.kernel.load_library`; its numbers, float32, are those of all arrays.
    architecture, weights
    windows : ndarray, shape (in_channels, 4), optional
        Each input's (low, high, middle, scale), as `Window` in src/head.h; by default inputs are taken as they are.
    winograd : {4, 2}
        Neighbouring outputs that one transform gives, along each of two axes. 2 spends 1.8 times the products of 4,
        and its rounding errors are smaller.

    Raises
    ------
    MemoryError
        Here and from all methods.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        architecture: Architecture,
        weights: Weights,
        windows: Array | None = None,
        winograd: int = 4,
    ) -> None:
        self.architecture, self.dtype = architecture, number_of(library)
        self._library = library
        if windows is None:
            windows = np.tile(np.array([-np.inf, np.inf, 0, 1], self.dtype), (architecture.in_channels, 1))
        handle = library.msd_create(
            architecture.in_channels,
            architecture.out_channels,
            len(architecture.dilations),
            architecture.width,
            architecture.ndim,
            architecture.padding == "reflect",
            ints(architecture.dilations),
            *(address(a) for a in (weights.kernels, weights.biases, weights.head, weights.head_biases, windows)),
            winograd,
        )
        self._handle = owned(self, handle, library.msd_destroy)

    def bytes(self, shape: Index, threads: int) -> int:
        """Memory that :meth:`run` takes for a block (z, y, x), without block and result."""
        return int(self._library.msd_bytes(self._handle, ints(shape), threads))

    def run(self, block: Array, wanted: Box, kind: str, threads: int, result: Array) -> None:
        """Evaluate a block.

        Parameters
        ----------
        block : ndarray, shape (in_channels, z, y, x)
            Any strides. A 2D network sees each plane by itself.
        wanted : Box
            The part of the block whose result is wanted.
        kind : {"raw", "classes", "probability"}
        threads : int
        result : ndarray, shape (out_channels or one less, z, y, x) of the wanted part
            C-contiguous; is written.
        """
        inside = ints([*wanted.start, *wanted.stop])
        outcome = self._library.msd_run(self._handle, *described(block), inside, KINDS[kind], threads, address(result))
        check(outcome)

    def sweep_bytes(self, shape: SweepShape, threads: int) -> int:
        """Memory that a sweep takes, without its input and result."""
        return int(self._library.msd_sweep_bytes(self._handle, shape.numbers, threads))

    def sweep(self, shape: SweepShape, kind: str, threads: int) -> KernelSweep:
        """Begin a sweep along z; the planes of a 2D network do not see each other."""
        handle = self._library.msd_sweep(self._handle, shape.numbers, KINDS[kind], threads)
        return KernelSweep(self, self._library, handle, shape, kind, threads)

    def sweep_warm_up(self, step: int) -> int:
        """Planes by which a sweep must begin, a whole number of steps, before the first one whose bits are to be right.

        "Right" are those of a sweep that has begun further below. Within rounding, the network's radius is enough.
        """
        return int(self._library.msd_sweep_warm_up(self._handle, step))

    def record(self, block: Array, threads: int, spare: Spare) -> tuple[Array, Recording]:
        """Evaluate all of a block, of any strides; return the raw scores, and what gradients can be had from."""
        scores = np.empty((self.architecture.out_channels, *block.shape[1:]), self.dtype)
        handle = self._library.msd_record(self._handle, spare.handle, *described(block), threads, address(scores))
        return scores, Recording(self, self._library, handle, block.shape)


class Spare:
    """Memory that recordings of the same library give back, for the next ones; it goes with the last of them all."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.handle = owned(self, library.msd_spare(), library.msd_forget_spare)


class Recording:
    """An evaluation whose maps are kept: (in_channels + maps) times the voxels of the block."""

    def __init__(self, network: KernelNetwork, library: ctypes.CDLL, handle: int | None, shape: Sequence[int]) -> None:
        self.network, self.shape = network, tuple(shape)
        self._library, self._handle = library, owned(self, handle, library.msd_forget)

    def backward(
        self, scores: Array, threads: int, *, inputs: bool = True, kernels: bool = True
    ) -> tuple[Array | None, Weights]:
        """Gradients from those of the scores, (out_channels, z, y, x); may be called again.

        Returns
        -------
        inputs : ndarray, shape (in_channels, z, y, x), or None
            Left out, with what is computed for it only, where `inputs` is False.
        weights : Weights
            Where `kernels` is False, the kernels' are empty.
        """
        architecture, dtype = self.network.architecture, self.network.dtype
        channels = architecture.in_channels + len(architecture.dilations)
        of_inputs = np.empty(self.shape, dtype) if inputs else None
        of_weights = Weights(
            kernels=np.empty(_kernel_numbers(architecture) if kernels else 0, dtype),
            biases=np.empty(len(architecture.dilations), dtype),
            head=np.empty((architecture.out_channels, channels), dtype),
            head_biases=np.empty(architecture.out_channels, dtype),
        )
        scores = np.ascontiguousarray(scores, dtype)
        outcome = self._library.msd_backward(
            self._handle,
            address(scores),
            threads,
            None if of_inputs is None else address(of_inputs),
            address(of_weights.kernels) if kernels else None,
            *(address(a) for a in (of_weights.biases, of_weights.head, of_weights.head_biases)),
        )
        check(outcome)
        return of_inputs, of_weights


def number_of(library: ctypes.CDLL) -> np.dtype:
    """What a library computes with: float32; float64 where a test has built it so."""
    return np.dtype(f"f{library.msd_number_bytes()}")


def _kernel_numbers(architecture: Architecture) -> int:
    layers = len(architecture.dilations) // architecture.width
    sources = sum(architecture.in_channels + layer * architecture.width for layer in range(layers))
    return int(3**architecture.ndim * architecture.width * sources)
