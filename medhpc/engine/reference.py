"""The reference engine: plain PyTorch, on a CPU or one GPU, in float32."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medhpc.engine.memory import peak_growth
from medhpc.errors import BadOption, NoDevice
from medhpc.geometry import Index


class BlockTooLarge(Exception):  # noqa: N818 - it names a state that the caller handles
    """The block does not fit; a caller may try smaller ones."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one voxel of a block costs; measured."""

    seconds_per_voxel: float
    bytes_per_voxel: float


class TorchEngine:
    """Evaluate a network on blocks.

    Parameters
    ----------
    network : torch.nn.Module
        With the attributes that all networks of :mod:`medhpc.nets` share.
    device : torch.device
        Where it runs.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self.threads = torch.get_num_threads()
        self.network: Any = network.to(device).eval()  # any module with the attributes of medhpc.nets

    def __call__(self, block: np.ndarray, kind: str) -> np.ndarray:
        """Evaluate the network.

        Parameters
        ----------
        block : ndarray, shape (channels, z, y, x)
            Normalised float32, or the volume's own numbers for a network that takes them raw.
        kind : {"probability", "classes", "raw"}
            ``probability``: the foreground classes (all but the first; the only one of a one-channel network);
            ``classes``: the probability of every class; ``raw``: the network's own numbers.

        Returns
        -------
        ndarray, shape (outputs, z, y, x)
            float32 for probabilities, the network's own dtype for ``raw``.

        Raises
        ------
        BlockTooLarge
        """
        try:
            with torch.inference_mode():
                scores = self._scores(torch.from_numpy(block).to(self.device))
                return _activate(scores, kind).cpu().numpy()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise BlockTooLarge(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise BlockTooLarge(str(error)) from error
            raise

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

    def _scores(self, block: torch.Tensor) -> torch.Tensor:
        # block (c, z, y, x) -> scores (k, z, y, x); a 2D network sees each plane by itself
        if self.network.ndim == 3:
            return self.network(block[None])[0]
        planes = [self.network(block[None, :, z])[0] for z in range(block.shape[1])]
        return torch.stack(planes, dim=1)

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


def load(network: torch.nn.Module, *, device: str = "auto", threads: int | None = None) -> TorchEngine:
    """Put a network on a device.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`medhpc.nets.load`, or any with the same attributes.
    device : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    threads : int, optional
        CPU threads; by default as many as this process may use.

    Raises
    ------
    NoDevice, BadOption
    """
    if threads is not None and threads < 1:
        raise BadOption(f"threads is {threads}, expected at least 1")
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    return TorchEngine(network, _device(device))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise BadOption(f"device '{name}' is not auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise NoDevice(f"device '{name}': no CUDA GPU is visible here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadOption(f"device '{name}' is not auto, cpu, cuda or cuda:N") from None
    if device.index and device.index >= torch.cuda.device_count():
        raise NoDevice(f"device '{name}': only {torch.cuda.device_count()} GPUs are visible here, from cuda:0 on")
    return device


def _activate(scores: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "raw":
        return scores
    if scores.shape[0] == 1:
        return scores.float().sigmoid()
    probabilities = scores.float().softmax(dim=0)
    return probabilities[1:].contiguous() if kind == "probability" else probabilities
