"""The weights of a network in the order that the kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor

from medhpc.engine.gpu.schedule import LANES, Head, Push, Schedule
from medhpc.nets import MSD

TAPS = 9  # in a plane


def columns_of(targets: int, network: MSD) -> int:
    """Columns of the push kernel's matrix product (N) for so many targets: 16 or 32."""
    return 16 if targets <= 16 // taps_of(network) else 32


def taps_of(network: MSD) -> int:
    """Of a kernel in z."""
    return 3 if network.ndim == 3 else 1


def push_weights(network: MSD, schedule: Schedule, push: Push) -> Tensor:
    """Weights of one run of the push kernel.

    Returns
    -------
    Tensor, shape (blocks, turns, 9 taps, 16 channels, columns)
        Column ``group * (columns // taps) + target`` holds, in turn t, the weights with which a plane whose number is
        t modulo the taps gives to one whose number is `group`; zero for channels that are not the push's.
    """
    taps, columns = taps_of(network), columns_of(len(push.targets), network)
    between = network.weight_between(push.targets, push.first, push.stop).detach()  # (targets, channels, dz, 3, 3)
    blocks = schedule.ring_blocks(push.first, push.stop)
    lanes = _lanes(schedule, push.first, push.stop)
    packed = between.new_zeros((len(blocks) * LANES, taps, TAPS, columns))
    for turn in range(taps):
        for group in range(taps):
            dz = (turn - group + taps // 2) % taps  # 2 to the plane before, 0 to the next one
            start = group * (columns // taps)
            of_group = between[:, :, dz].flatten(2).permute(1, 2, 0)  # (channels, 9, targets)
            packed[lanes, turn, :, start : start + len(push.targets)] = of_group
    return packed.unflatten(0, (len(blocks), LANES)).permute(0, 2, 3, 1, 4).contiguous()


def head_weights(network: MSD, schedule: Schedule, head: Head) -> Tensor:
    """Weights of one run of the head kernel, (outputs, blocks, 16)."""
    blocks = schedule.ring_blocks(head.first, head.stop)
    packed = network.head_weight.new_zeros((network.out_channels, len(blocks) * LANES))
    packed[:, _lanes(schedule, head.first, head.stop)] = network.head_weight[:, head.first : head.stop].detach()
    return packed.unflatten(1, (len(blocks), LANES))


def _lanes(schedule: Schedule, first: int, stop: int) -> Tensor:
    """Where each channel of ``first:stop`` lies within the blocks of :meth:`Schedule.ring_blocks`, as they follow."""
    blocks = schedule.ring_blocks(first, stop)
    of_block = {block: place for place, block in enumerate(blocks)}
    places = [of_block[c // LANES % schedule.blocks] * LANES + c % LANES for c in range(first, stop)]
    return torch.tensor(places)
