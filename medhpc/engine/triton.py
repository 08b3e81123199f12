"""The engines ``triton`` and ``triton-f32``: MS-D networks on one GPU, by kernels of medhpc's own in Triton.

Written without a GPU. What they compute is proven by Triton's interpreter on CPUs (``TRITON_INTERPRET=1``, set before
Python starts; far too slow for anything but tests), how fast they are is not measured: ``benchmarks/gpu.py`` does.
"""

from __future__ import annotations

import importlib.util
import os
import time

import numpy as np
import torch
from torch import Tensor

from medhpc.engine.base import BlockTooLarge, why_not_msd
from medhpc.engine.pytorch import TorchEngine
from medhpc.errors import OutOfRange
from medhpc.geometry import Index

PRECISIONS = {"triton": torch.float16, "triton-f32": torch.float32}
"""Of maps and weights, by the name of the engine; sums, last layer and probabilities are float32 in both."""
OLDEST = (8, 0)
"""Compute capability of the GPUs that the kernels are for."""


def why_not_triton(network: torch.nn.Module | None = None, device: torch.device | None = None) -> str:
    """Why the kernels cannot evaluate this network (or any) on a device, a GPU by default; "" where they can."""
    refused = why_not_msd(network) if network is not None else ""
    if refused:
        return refused
    if not importlib.util.find_spec("triton"):
        return "Triton is not installed; it comes with torch's builds for GPUs"
    if interpreted():
        return ""
    if device is not None and device.type == "cpu":
        return "it computes on GPUs, not on CPUs"
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible here"
    return "" if torch.cuda.get_device_capability(device) >= OLDEST else "the GPU is older than compute capability 8.0"


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class TritonEngine(TorchEngine):
    """Evaluate an MS-D network on one GPU; the last layer's softmax is torch's.

    A voxel's result does not depend on where it lies in the block, but for what the halo leaves out.

    Parameters
    ----------
    network : MSD
        In float32; the weights are copied.
    device : torch.device
        A GPU, or a CPU where Triton interprets.
    name : {"triton", "triton-f32"}
        ``triton``: maps and weights in float16, on the matrix units; ``triton-f32``: all in float32.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, name: str = "triton") -> None:
        from medhpc.engine.gpu.evaluate import GpuNetwork  # imports Triton

        super().__init__(network, device)
        self.name = name
        self._kernels = GpuNetwork(self.network, device, PRECISIONS[name])

    def _scores(self, block: Tensor) -> Tensor:
        from medhpc.engine.gpu.evaluate import TooLarge

        self.network.check_shape((1, *block.shape) if self.network.ndim == 3 else (1, len(block), *block.shape[2:]))
        self._check_memory((block.shape[1], block.shape[2], block.shape[3]))
        try:
            return self._kernels.scores(self.network.through_window(block.float()))
        except TooLarge:
            raise OutOfRange(
                f"engine '{self.name}' met a number above 60,000, too large for float16; "
                "plan with --engine triton-f32 or torch, or with --normalize volume"
            ) from None

    def bytes(self, shape: Index) -> int:
        """Memory of the device that a block (z, y, x) takes while it is evaluated, with its input and its result."""
        numbers = self.network.in_channels * (1 + (self.network.window is not None)) + 2 * self.network.out_channels
        return self._kernels.bytes(shape) + 4 * numbers * int(np.prod(shape, dtype=np.int64))

    def _check_memory(self, shape: Index) -> None:
        """Refuse a block before half of it is allocated."""
        if self.device.type != "cuda":
            return
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        if self.bytes(shape) > free:
            raise BlockTooLarge(f"a block of {shape} voxels takes {self.bytes(shape):,} bytes, {free:,} are free")

    def _probe(self, channels: int, shape: Index) -> tuple[float, int]:
        block = np.zeros((channels, *shape), np.float32)
        began = time.perf_counter()
        self(block, "raw")
        return time.perf_counter() - began, self.bytes(shape)
