"""An hourglass network on two devices: the way down on one, the way up on the other.

Kept for comparison: nearly all that is kept for the backward pass is kept by the way up, and the devices wait for each
other. Slabs (:mod:`medhpc.nets.division`) divide memory and time evenly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from medhpc.nets.skip import Skip

WAY_UP = ("skip_norm", "cat_norm", "merge", "merge_norm", "mix", "mix_norm")


def split(network: Skip, down: torch.device, up: torch.device) -> None:
    """Put the two halves of a network on devices; inputs and outputs are on the first."""
    for level in network.levels:
        for name, layer in level.named_children():
            _put(layer, up if name in WAY_UP else down)
    _put(network.end, up)


def _put(layer: nn.Module, device: torch.device) -> None:
    """Make new parameters there: the imagined ones of a plan cannot be moved."""
    for each in layer.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                each._parameters[name] = nn.Parameter(parameter.detach().to(device))
