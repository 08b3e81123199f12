"""How deep a network this machine can train in the time given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from medhpc.geometry import Index
from medhpc.nets.msd import MSD

DEPTHS = (10, 12, 16, 20, 24, 30, 40, 50, 65, 85)
STEPS_PER_LAYER = 25
"""A network of depth d is worth its depth after about 25 d steps: depth 20 in 2 minutes, 30 in 10, on 2 idle cores.
Measured on noisy nuclei after some 250 steps: depth 10 Dice 0.79, depth 16 0.82."""


def depth_for_steps(steps: float, at_least: int = DEPTHS[0]) -> int:
    """The deepest network that so many steps train well."""
    return max((d for d in DEPTHS if d * STEPS_PER_LAYER <= steps), default=at_least)


def depth_for_seconds(seconds: float, patch: Index, device: torch.device, network: Mapping[str, Any]) -> int:
    """The deepest network that this machine trains well in that time.

    The time of a step is measured at two depths and continued as a d + b d^2: each layer adds work for itself and for
    every later one. `network` holds the other numbers of :class:`medhpc.nets.msd.MSD`.
    """
    few, many = 8, 20
    short, long = (_seconds_per_step(MSD(depth=d, **network).to(device), patch) for d in (few, many))
    square = max(0.0, (long / many - short / few) / (many - few))
    linear = max(0.0, short / few - square * few)
    fitting = [d for d in DEPTHS if d * STEPS_PER_LAYER * (linear * d + square * d * d) <= seconds]
    return max(fitting, default=DEPTHS[0])


def _seconds_per_step(network: MSD, patch: Index) -> float:
    """Time of a forward and a backward pass, the better of two after one for warming up."""
    device = next(network.parameters()).device
    image = torch.zeros(1, network.in_channels, *patch[3 - network.ndim :], device=device)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        scores = network(image)
        F.cross_entropy(scores, torch.zeros_like(scores[:, 0], dtype=torch.long)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return min(took[1:])
