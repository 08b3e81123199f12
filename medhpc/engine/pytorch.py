"""The engine ``torch``: any network as PyTorch evaluates it, on a CPU or one GPU."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from medhpc.engine.base import BlockTooLarge, Engine
from medhpc.geometry import Box
from medhpc.nets.kernel import without_kernel


class TorchEngine(Engine):
    """Evaluate a network by its own ``forward``.

    Parameters
    ----------
    network : torch.nn.Module
        With the attributes that all networks of :mod:`medhpc.nets` share.
    device : torch.device
        Where it runs.
    kernel : bool
        Whether an MS-D network may compute by medhpc's kernel on a CPU, as it does for itself (unlike the engine
        ``native``, with the weights that it has at the time).
    """

    name = "torch"

    def __init__(self, network: torch.nn.Module, device: torch.device, *, kernel: bool = False) -> None:
        self.device, self.kernel = device, kernel
        self.threads = torch.get_num_threads()
        self.network = network.to(device).eval()

    def __call__(self, block: np.ndarray, kind: str, wanted: Box | None = None) -> np.ndarray:
        """See :class:`medhpc.engine.base.Engine`."""
        try:
            with torch.inference_mode(), nullcontext() if self.kernel else without_kernel():
                scores = self._scores(torch.from_numpy(block).to(self.device))
                if wanted is not None:
                    scores = scores[(slice(None), *wanted.slices)]
                return _activate(scores, kind).cpu().numpy()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise BlockTooLarge(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise BlockTooLarge(str(error)) from error
            raise

    def _scores(self, block: torch.Tensor) -> torch.Tensor:
        # block (c, z, y, x) -> scores (k, z, y, x); a 2D network sees each plane by itself
        if self.network.ndim == 3:
            return self._forward(block[None])[0]
        planes = [self._forward(block[None, :, z])[0] for z in range(block.shape[1])]
        return torch.stack(planes, dim=1)

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch)


def _activate(scores: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "raw":
        return scores
    if scores.shape[0] == 1:
        return scores.float().sigmoid()
    probabilities = scores.float().softmax(dim=0)
    return probabilities[1:].contiguous() if kind == "probability" else probabilities
