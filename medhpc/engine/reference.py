"""The engine ``reference``: an MS-D network as its definition reads, in float64: slow, and the truth for others."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from medhpc.engine.pytorch import TorchEngine
from medhpc.nets import MSD


class ReferenceEngine(TorchEngine):
    """Evaluate an MS-D network layer by layer, map by map, on a CPU; others by their own ``forward``."""

    name = "reference"

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(copy.deepcopy(network).double(), torch.device("cpu"))

    def _forward(self, batch: Tensor) -> Tensor:
        batch = batch.double()
        self.network.check_shape(batch.shape)
        return by_definition(self.network, batch).float()


def by_definition(network: MSD, batch: Tensor) -> Tensor:
    """Scores of a batch: each map from all maps of earlier layers.

    Parameters
    ----------
    network : MSD
    batch : Tensor, shape (N, channels, z, y, x) or (N, channels, y, x)

    Returns
    -------
    Tensor, shape (N, out_channels, ...)
    """
    convolve = F.conv3d if network.ndim == 3 else F.conv2d
    mode = "reflect" if network.padding == "reflect" else "constant"
    maps = torch.stack([network.through_window(block) for block in batch])
    for layer in range(network.depth):
        made = []
        for channel in range(network.width):
            s = network.dilations[layer * network.width + channel]
            padded = F.pad(maps, (s,) * (2 * network.ndim), mode=mode)
            weight = network.weights[layer][channel : channel + 1]
            made.append(F.relu(convolve(padded, weight, network.biases[layer][channel : channel + 1], dilation=s)))
        maps = torch.cat([maps, *made], 1)
    scores = torch.einsum("oc,nc...->no...", network.head_weight, maps)
    return scores + network.head_bias.view(-1, *(1,) * network.ndim)
