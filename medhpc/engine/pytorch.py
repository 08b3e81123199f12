"""The engine ``torch``: any network as PyTorch evaluates it, on a CPU or one GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from medhpc.engine.base import BlockTooLarge, Engine, regrouped
from medhpc.geometry import Box, Index
from medhpc.nets import MSD
from medhpc.nets.frontiers import Frontiers
from medhpc.nets.kernel import without_kernel
from medhpc.nets.sweep import Sweep, scratch_bytes
from medhpc.ranks.group import ALONE, Ranks


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
        with _memory_checked(), torch.inference_mode(), nullcontext() if self.kernel else without_kernel():
            scores = self._scores(torch.from_numpy(block).to(self.device))
            if wanted is not None:
                scores = scores[(slice(None), *wanted.slices)]
            return _activate(scores, kind).cpu().numpy()

    @property
    def sweeps(self) -> bool:
        """See :class:`medhpc.engine.base.Engine`: MS-D networks; engines made from this one compute otherwise."""
        return type(self) is TorchEngine and isinstance(self.network, MSD)

    def sweep(
        self, blocks: Iterable[np.ndarray], shape: Index, kind: str, step: int, ranks: Ranks = ALONE
    ) -> Iterator[np.ndarray]:
        """See :class:`medhpc.engine.base.Engine`."""
        with _memory_checked():
            sweep = Sweep(self.network, shape, step, ranks)
        planes = regrouped(blocks, step)
        none = np.empty((self.network.in_channels, 0, *shape[1:]), np.float32)
        while not sweep.is_done:
            with _memory_checked(), torch.inference_mode():
                finished = sweep.advance(torch.from_numpy(next(planes, none)).to(self.device, self._dtype))
                values = _activate(finished.float(), kind).cpu().numpy()
            if values.shape[1]:
                yield values

    def sweep_bytes(self, shape: Index, step: int) -> int:
        """See :class:`medhpc.engine.base.Engine`; scratch of the convolutions included."""
        frontiers = Frontiers.of(self.network, step)
        return frontiers.bytes(self.network, shape[0], math.prod(shape[1:])) + 4 * scratch_bytes(self.device)

    def sweep_warm_up(self, step: int) -> int:
        """See :class:`medhpc.engine.base.Engine`."""
        radius = Frontiers.of(self.network, step).lags[-1]
        return -(-(radius + step) // step) * step

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.head_weight.dtype

    def _scores(self, block: torch.Tensor) -> torch.Tensor:
        # block (c, z, y, x) -> scores (k, z, y, x); a 2D network sees each plane by itself
        if self.network.ndim == 3:
            return self._forward(block[None])[0]
        planes = [self._forward(block[None, :, z])[0] for z in range(block.shape[1])]
        return torch.stack(planes, dim=1)

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch)


@contextmanager
def _memory_checked() -> Iterator[None]:
    """A block that says when memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise BlockTooLarge(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise BlockTooLarge(str(error)) from error
        raise


def _activate(scores: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "raw":
        return scores
    if scores.shape[0] == 1:
        return scores.float().sigmoid()
    probabilities = scores.float().softmax(dim=0)
    return probabilities[1:].contiguous() if kind == "probability" else probabilities
