"""Planes of the neighbours along one axis, and their gradients back to where they came from.

A block is cut across an axis into slabs, one for each rank. What a filter needs beyond its slab is its *halo*::

    rank 0    | . . . . . . . . a b |
    rank 1                [ a b | c . . . . . . . d | e ]        low = 2, high = 1
    rank 2                                          | e . . . . . . . . |

In the backward pass, rank 1 gives the gradients of a, b and e to ranks 0 and 2, which add them to their own. Beyond the
ends of the whole lie no planes, reflected ones, zeros, or the last plane again and again.

Sends and receives have begun when :meth:`Halo.begin` returns: compute, then wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medhpc.ranks.group import Ranks

EDGES = ("none", "zero", "reflection", "repeat")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A block is cut across `axis` of its tensors, into a slab for each rank.

    `overlaps` lets what is computed go on while planes travel, where that takes more memory.
    """

    ranks: Ranks
    axis: int
    overlaps: bool = False

    def halo(self, low: int, high: int, edge: str) -> Halo:
        """Planes below and above a slab."""
        return Halo(cut=self, low=low, high=high, edge=edge)


@dataclass(frozen=True, kw_only=True)
class Halo:
    """`low` planes below a slab and `high` above it; `edge` (one of :data:`EDGES`) lies beyond the ends of the whole.

    No slab has fewer planes than its neighbours' halos.
    """

    cut: Cut
    low: int
    high: int
    edge: str

    @property
    def here(self) -> tuple[int, int]:
        """Planes below and above that this rank gets: none at the ends of the whole, where the edge is "none"."""
        ranks, edge = self.cut.ranks, self.edge != "none"
        return (self.low if edge or ranks.below is not None else 0, self.high if edge or ranks.above is not None else 0)

    def begin(self, slab: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Send what the neighbours need of a slab; what is returned waits for what we need: planes below and above."""
        axis, ranks, length = self.cut.axis, self.cut.ranks, slab.shape[self.cut.axis]
        below, above = (slab.new_empty(_with(slab.shape, axis, count)) for count in self.here)
        sends, receives = [], []
        if ranks.below is not None:
            sends += [(slab.narrow(axis, 0, self.high), ranks.below)] if self.high else []
            receives += [(below, ranks.below)] if self.low else []
        if ranks.above is not None:
            sends += [(slab.narrow(axis, length - self.low, self.low), ranks.above)] if self.low else []
            receives += [(above, ranks.above)] if self.high else []
        arrived = ranks.exchange(sends, receives)

        def wait() -> tuple[Tensor, Tensor]:
            if ranks.below is None and below.numel():
                below.copy_(_beyond(slab, axis, self.low, self.edge, at_end=False))
            if ranks.above is None and above.numel():
                above.copy_(_beyond(slab, axis, self.high, self.edge, at_end=True))
            arrived()
            return below, above

        return wait

    def begin_back(self, below: Tensor, above: Tensor) -> Callable[[Tensor], None]:
        """Send a halo's gradients to where its planes came from; what is returned adds those for us to a slab's."""
        axis, ranks = self.cut.axis, self.cut.ranks
        sends, receives = [], []
        for_first = below.new_empty(_with(below.shape, axis, self.high if ranks.below is not None else 0))
        for_last = below.new_empty(_with(below.shape, axis, self.low if ranks.above is not None else 0))
        if ranks.below is not None:
            sends += [(below, ranks.below)] if self.low else []
            receives += [(for_first, ranks.below)] if self.high else []
        if ranks.above is not None:
            sends += [(above, ranks.above)] if self.high else []
            receives += [(for_last, ranks.above)] if self.low else []
        arrived = ranks.exchange(sends, receives)

        def add(gradient: Tensor) -> None:
            if ranks.below is None and below.numel():
                _add_beyond(gradient, below, axis, self.edge, at_end=False)
            if ranks.above is None and above.numel():
                _add_beyond(gradient, above, axis, self.edge, at_end=True)
            arrived()
            gradient.narrow(axis, 0, for_first.shape[axis]).add_(for_first)
            count = for_last.shape[axis]
            gradient.narrow(axis, gradient.shape[axis] - count, count).add_(for_last)

        return add


def extend(slab: Tensor, halo: Halo) -> Tensor:
    """A slab with its halo around it, as one tensor; for autograd."""
    return _Extended.apply(slab, halo)


class _Extended(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, slab: Tensor, halo: Halo) -> Tensor:
        context.halo = halo
        axis, (low, high) = halo.cut.axis, halo.here
        length = slab.shape[axis]
        wait = halo.begin(slab)
        result = slab.new_empty(_with(slab.shape, axis, low + length + high))
        result.narrow(axis, low, length).copy_(slab)
        below, above = wait()
        result.narrow(axis, 0, low).copy_(below)
        result.narrow(axis, low + length, high).copy_(above)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        axis, (low, high) = context.halo.cut.axis, context.halo.here
        length = gradient.shape[axis] - low - high
        add = context.halo.begin_back(gradient.narrow(axis, 0, low), gradient.narrow(axis, low + length, high))
        result = gradient.narrow(axis, low, length).clone()
        add(result)
        return result, None


def _with(shape: torch.Size, axis: int, length: int) -> list[int]:
    """A shape with another length along an axis."""
    return [length if n == axis else m for n, m in enumerate(shape)]


def _beyond(slab: Tensor, axis: int, count: int, edge: str, *, at_end: bool) -> Tensor:
    """What lies beyond an end of the whole."""
    length = slab.shape[axis]
    if edge == "reflection":
        return slab.narrow(axis, length - 1 - count if at_end else 1, count).flip(axis)
    nearest = slab.narrow(axis, length - 1 if at_end else 0, 1)
    return torch.zeros_like(nearest) if edge == "zero" else nearest


def _add_beyond(gradient: Tensor, planes: Tensor, axis: int, edge: str, *, at_end: bool) -> None:
    """The adjoint of what lies beyond an end."""
    length, count = gradient.shape[axis], planes.shape[axis]
    if edge == "reflection":
        gradient.narrow(axis, length - 1 - count if at_end else 1, count).add_(planes.flip(axis))
    elif edge == "repeat":
        gradient.narrow(axis, length - 1 if at_end else 0, 1).add_(planes.sum(axis, keepdim=True))
