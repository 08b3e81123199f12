"""MS-D networks in the compiled kernel: the scores of planes, and their gradients, while torch sees one operation."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from medhpc.geometry import Box
from medhpc.kernel import Architecture, KernelNetwork, Spare, Weights, load_library, usable_variants

if TYPE_CHECKING:
    from medhpc.nets.msd import MSD

VARIABLE = "MEDHPC_ENGINE"
"""Environment variable that names an engine; the kernel is used where it is empty, "auto" or "native"."""

_spare: WeakKeyDictionary[MSD, Spare] = WeakKeyDictionary()
"""Between the steps of a training, the memory of a step stays with its network."""

_allowed: ContextVar[bool] = ContextVar("kernel_allowed", default=True)


@contextmanager
def without_kernel() -> Iterator[None]:
    """Within it, networks compute by torch's own convolutions, in this thread."""
    before = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(before)


def kernel_serves(network: MSD, planes: Tensor) -> bool:
    """Whether the kernel computes these planes: float32 on a CPU, where it was built and nobody has turned it off."""
    return (
        _allowed.get()
        and os.environ.get(VARIABLE, "") in ("", "auto", "native")
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (planes, network.head_weight))
        and planes.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(usable_variants())
    )


def kernel_scores(network: MSD, planes: Tensor, library: ctypes.CDLL | None = None) -> Tensor:
    """Scores of one block, on as many threads as torch uses.

    Parameters
    ----------
    network : MSD
    planes : Tensor, shape (in_channels, planes, y, x)
        On a CPU, in the library's numbers. Its window is behind it.
    library : ctypes.CDLL, optional
        The best of this processor by default.

    Returns
    -------
    Tensor, shape (out_channels, planes, y, x)
    """
    library = library or load_library(usable_variants()[0])
    parameters = network.parameters_in_order
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (planes, *parameters)):
        return _Scores.apply(library, network, planes, *parameters)
    block = _array(planes)
    scores = np.empty((network.out_channels, *block.shape[1:]), block.dtype)
    kernel_network(network, library).run(block, Box.whole(block.shape[1:]), "raw", torch.get_num_threads(), scores)
    return torch.from_numpy(scores)


def kernel_network(network: MSD, library: ctypes.CDLL, **options: Any) -> KernelNetwork:
    """Copy a network into the kernel, without its window; `options`: see :class:`medhpc.kernel.KernelNetwork`."""
    architecture = Architecture(
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        width=network.width,
        ndim=network.ndim,
        dilations=network.dilations,
        padding=network.padding,
    )
    weights = Weights(
        kernels=_joined(network.weights),
        biases=_joined(network.biases),
        head=_joined([network.head_weight]),
        head_biases=_joined([network.head_bias]),
    )
    return KernelNetwork(library, architecture, weights, **options)


class _Scores(Function):
    """What is kept for the backward pass are inputs and maps, and a copy of the weights."""

    @staticmethod
    def forward(ctx: Any, library: ctypes.CDLL, network: MSD, planes: Tensor, *parameters: Tensor) -> Tensor:
        ctx.threads, ctx.shapes = torch.get_num_threads(), [p.shape for p in parameters]
        spare = _spare.setdefault(network, Spare(library))
        scores, ctx.recording = kernel_network(network, library).record(_array(planes), ctx.threads, spare)
        return torch.from_numpy(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores: Tensor) -> tuple[Tensor | None, ...]:
        _, _, planes, *wanted = ctx.needs_input_grad
        layers = (len(ctx.shapes) - 2) // 2
        of_planes, of_weights = ctx.recording.backward(
            _array(scores), ctx.threads, inputs=planes, kernels=any(wanted[:layers])
        )
        kernels, biases = ctx.shapes[:layers], ctx.shapes[layers : 2 * layers]
        gradients = [
            *(_parts(of_weights.kernels, kernels) if any(wanted[:layers]) else [None] * layers),
            *_parts(of_weights.biases, biases),
            torch.from_numpy(of_weights.head),
            torch.from_numpy(of_weights.head_biases),
        ]
        kept = (gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True))
        return None, None, None if of_planes is None else torch.from_numpy(of_planes), *kept


def _parts(joined: np.ndarray, shapes: Iterable[torch.Size]) -> list[Tensor]:
    """Arrays that lie one after the other, as tensors of these shapes."""
    shapes = list(shapes)
    flat = torch.from_numpy(joined).split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(flat, shapes, strict=True)]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().resolve_conj().resolve_neg().numpy()


def _joined(parts: Iterable[Tensor]) -> np.ndarray:
    return np.concatenate([part.detach().cpu().numpy().ravel() for part in parts])
