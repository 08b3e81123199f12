"""An hourglass network divided among ranks: slabs of the fine levels, the coarse levels whole on each.

::

    level 0    [ rank 0 ][ rank 1 ][ rank 2 ]        halos between neighbours, norms over all
    level 1    [ rank 0 ][ rank 1 ][ rank 2 ]
    level 2    [ whole  ][ whole  ][ whole  ]        gathered; all ranks compute it alike

It is no part of the architecture, and set before a network is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medhpc.nets.layers import Norm
from medhpc.nets.resample import lanczos2_reach
from medhpc.nets.slabs import InSlabs
from medhpc.ranks.halo import Cut
from medhpc.ranks.slabs import Slabs
from medhpc.ranks.whole import gather, take

if TYPE_CHECKING:
    from medhpc.nets.skip import Skip

WHOLE_FROM = 2
"""Levels from here on are computed whole by each rank: 2 % of the memory, and no slab is too thin for them."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """How blocks are cut, and who has which planes of one, whose axis has been filled up already."""

    cut: Cut
    slabs: Slabs

    def filled_shape(self, network: Skip, space: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths at which our slab is computed."""
        axis = self.cut.axis - 2
        return _with(network.filled_shape(_with(space, axis, self.slabs.length)), axis, space[axis])

    def shortest(self, number: int, space: tuple[int, ...]) -> int:
        """Voxels along the shortest axis of a level, the same on all ranks."""
        in_slabs = number < WHOLE_FROM
        return min(_with(space, self.cut.axis - 2, self.slabs.thinnest >> number) if in_slabs else space)

    def begins_whole(self, number: int) -> bool:
        """Whether this level is the first that each rank computes whole."""
        return number == WHOLE_FROM

    def gather(self, number: int, x: Tensor) -> Tensor:
        """The whole of a level."""
        return gather(x, self.slabs.coarser(2**number), self.cut)

    def take(self, number: int, whole: Tensor) -> Tensor:
        """Our slab of a level."""
        return take(whole, self.slabs.coarser(2**number), self.cut)


def slab_stride(network: Skip) -> int:
    """What the bounds of slabs are multiples of."""
    return int(2 ** min(WHOLE_FROM, network.scales))


def thinnest_slab(network: Skip) -> int:
    """Planes that a slab must have, so that halos come from the neighbour alone."""
    needs = [slab_stride(network)]
    for number in range(min(WHOLE_FROM, network.scales)):
        up, skip, down = (_planes(network, name, number) for name in ("up", "skip", "down"))
        filters = lanczos2_reach(2) if network.downsample == "lanczos2" else 0
        needs.append(2**number * max(up, skip, filters, 2 * down))  # the last convolution on the way down is coarser
    return max(needs)


def _planes(network: Skip, name: str, number: int) -> int:
    """Planes that a slab must have for a convolution; the one that is reflected about is not repeated."""
    reach = network.kernels[name][number] // 2
    return reach + 1 if reach and network.padding == "reflection" else reach


def divide(network: Skip, cut: Cut, slabs: Slabs) -> None:
    """Let a network compute one slab of a block from now on, together with other ranks.

    Parameters
    ----------
    network : Skip
    cut : Cut
    slabs : Slabs
        Of the whole block, whose axis is as long as :meth:`Skip.filled_shape` says; bounds and thickness as
        :func:`slab_stride` and :func:`thinnest_slab` say.
    """
    network.division = Division(cut=cut, slabs=slabs)
    for layer in nn.ModuleList(list(network.levels)[:WHOLE_FROM]).modules():
        if isinstance(layer, InSlabs):
            layer.cut = cut
        elif isinstance(layer, Norm):
            layer.total = cut.ranks.total


def add_up_gradients(network: Skip) -> None:
    """Sum gradients over the ranks; of levels that each computes whole, those of the first rank are taken."""
    if network.division is None:
        return
    ranks, parameters = network.division.cut.ranks, list(network.parameters())
    whole = {id(p) for level in list(network.levels)[WHOLE_FROM:] for p in level.parameters()}
    parts = [
        torch.zeros_like(p) if p.grad is None or (id(p) in whole and not ranks.is_first) else p.grad for p in parameters
    ]
    summed = ranks.total(torch.cat([part.flatten() for part in parts]))
    for p, gradient in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def _with(lengths: tuple[int, ...], axis: int, length: int) -> tuple[int, ...]:
    """Another length along one axis."""
    return (*lengths[:axis], length, *lengths[axis + 1 :])
