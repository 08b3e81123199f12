"""The engine ``openvino``: MS-D networks on CPUs by Intel's OpenVINO, in float32 (extra ``openvino``).

The graph has the order of :mod:`medhpc.nets.visits`: a convolution takes the maps made since its dilation was last
used, and gives its part to all later maps of that dilation. Layer by layer, as OpenVINO gets it from a file, depth 85
took four times as long.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medhpc.engine.base import why_not_msd
from medhpc.engine.pytorch import TorchEngine
from medhpc.geometry import Index
from medhpc.nets import MSD
from medhpc.nets.visits import Visit

KEPT = 8
"""Shapes whose compiled networks are kept: the tiles of a grid have few, and compiling takes a second."""


def why_not_openvino(network: torch.nn.Module | None = None) -> str:
    """Why OpenVINO cannot evaluate this network here (or any); "" where it can."""
    refused = why_not_msd(network) if network is not None else ""
    if refused:
        return refused
    if not importlib.util.find_spec("openvino"):
        return "OpenVINO is not installed; pip install 'medhpc[openvino]'"
    return ""


@cache
def load_openvino() -> Any:
    """Import OpenVINO without the telemetry that it sends to Google Analytics whenever it is imported.

    Without the package ``openvino_telemetry``, it uses a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@cache
def _core() -> Any:
    """The only one of this process: each has a stack for signals, and one that ended early leaves another's in use."""
    return load_openvino().Core()


class OpenVinoEngine(TorchEngine):
    """Evaluate an MS-D network on CPUs; memory is held during a call only, and calls take turns.

    Parameters
    ----------
    network : MSD
        In float32.
    threads : int
    """

    name = "openvino"

    def __init__(self, network: torch.nn.Module, threads: int) -> None:
        super().__init__(network, torch.device("cpu"))
        self.threads = threads
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()  # the latest last
        self._turn = threading.Lock()

    def _forward(self, batch: Tensor) -> Tensor:
        self.network.check_shape(batch.shape)
        seen = self.network.through_window(batch[0])[None]
        try:
            with self._turn:
                compiled = self._compiled_for(batch.shape[2:])
                scores = torch.from_numpy(compiled(seen.numpy())[0])
                compiled.release_memory()
                return scores
        except RuntimeError as error:
            if "alloc" in str(error):  # OpenVINO has no class for too little memory
                raise MemoryError(str(error)) from error
            raise

    def _compiled_for(self, space: Sequence[int]) -> Any:
        key = tuple(space)
        if key not in self._compiled:
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",  # bf16 where the processor has it, by default: errors of 4e-3
                "INFERENCE_NUM_THREADS": self.threads,
                "ENABLE_CPU_PINNING": False,  # tasks that share a node would be pinned to the same cores
            }
            self._compiled[key] = _core().compile_model(graph_of(self.network, key), "CPU", settings)
        self._compiled.move_to_end(key)
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return self._compiled[key]

    def _probe(self, channels: int, shape: Index) -> tuple[float, int]:
        self._compiled_for(shape[-self.network.ndim :])  # once a shape, hence no part of what a voxel costs
        return super()._probe(channels, shape)


def graph_of(network: MSD, space: Sequence[int]) -> Any:
    """The network as an OpenVINO model for inputs (1, channels, *space), of which the windows are taken already."""
    openvino = load_openvino()
    ops = openvino.opset13
    source = ops.parameter([1, network.in_channels, *space], np.float32)
    channels = _channels(source, network.in_channels)
    sums: dict[int, Any] = {}  # dilation -> partial sums of its maps that are still to come, (1, maps, *space)
    for layer, now in enumerate(network.visits):
        ready: dict[int, Any] = {}
        for visit in now:
            part = _convolve(network, channels[visit.first : visit.stop], visit)
            total = ops.add(sums.pop(visit.dilation), part) if visit.dilation in sums else part
            own = [m for m in visit.targets if m < (layer + 1) * network.width]  # the first of them
            rest = len(visit.targets) - len(own)
            pieces = ops.variadic_split(total, 1, [1] * len(own) + [rest] * bool(rest)).outputs()
            ready |= dict(zip(own, pieces, strict=False))
            if rest:
                sums[visit.dilation] = pieces[-1]
        for channel, m in enumerate(sorted(ready)):
            channels.append(ops.relu(ops.add(ready[m], _constant(network.biases[layer][channel], network.ndim))))
    weight = network.head_weight.unflatten(1, (-1, *(1,) * network.ndim))
    scores = _plain_convolution(ops.concat(channels, 1), weight, 1)
    return openvino.Model([ops.add(scores, _constant(network.head_bias, network.ndim))], [source], "msd")


def _channels(source: Any, count: int) -> list[Any]:
    ops = load_openvino().opset13
    return [source.output(0)] if count == 1 else list(ops.split(source, 1, count).outputs())


def _convolve(network: MSD, channels: Sequence[Any], visit: Visit) -> Any:
    """What some channels give to the maps of a visit, (1, maps, *space)."""
    ops = load_openvino().opset13
    weight = network.weight_between(visit.targets, visit.first, visit.stop)  # (maps, channels, z taps, 3, 3)
    together = ops.concat(list(channels), 1) if len(channels) > 1 else channels[0]
    margin = np.array([0, 0, *[visit.dilation] * network.ndim])
    mode = "reflect" if network.padding == "reflect" else "constant"
    padded = ops.pad(together, margin, margin, mode, None if mode == "reflect" else np.float32(0))
    return _plain_convolution(padded, weight if network.ndim == 3 else weight.squeeze(2), visit.dilation)


def _plain_convolution(source: Any, weight: Tensor, dilation: int) -> Any:
    ops = load_openvino().opset13
    axes = weight.ndim - 2
    return ops.convolution(source, weight.detach().numpy(), [1] * axes, [0] * axes, [0] * axes, [dilation] * axes)


def _constant(values: Tensor, ndim: int) -> np.ndarray:
    """One number per channel, as it is added to (1, channels, *space)."""
    return values.detach().numpy().reshape(1, -1, *(1,) * ndim)
