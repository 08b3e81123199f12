"""Slabs to a whole and back.

What all ranks compute of a whole, they compute alike, gradients too: so the gradient of a slab that was gathered is cut
out of the whole's, and that of a slab that was cut out of a whole is gathered from all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medhpc.ranks.halo import Cut
from medhpc.ranks.slabs import Slabs

FIRST = 2
"""The first axis of space, of (N, channels, space)."""


def gather(slab: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
    """The whole, on each rank; for autograd."""
    return _Gathered.apply(slab, slabs, cut)


def take(whole: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
    """The slab of this rank, of what all ranks have; for autograd."""
    return _Taken.apply(whole, slabs, cut)


def collect(slab: Tensor, slabs: Slabs, cut: Cut) -> Tensor | None:
    """The whole in the memory of the first rank's CPU; None on the others."""
    ranks, axis = cut.ranks, cut.axis
    if not ranks.is_first:
        if slab.shape[axis]:
            ranks.exchange([(slab, 0)], [])()
        return None
    parts = [slab.cpu()]
    for rank in range(1, ranks.size):
        if not slabs.of(rank):
            continue
        part = slab.new_empty([len(slabs.of(rank)) if n == axis else m for n, m in enumerate(slab.shape)])
        ranks.exchange([], [(part, rank)])()
        parts.append(part.cpu())
    return torch.cat(parts, axis)


def collect_rows(slab: Tensor, slabs: Slabs, cut: Cut, rows: range) -> Tensor | None:
    """As :func:`collect` does, but only some rows along the first axis of space."""
    if cut.axis != FIRST:
        return collect(slab.narrow(FIRST, rows.start, len(rows)).contiguous(), slabs, cut)
    bounds = tuple(min(max(bound, rows.start), rows.stop) for bound in slabs.bounds)
    wanted = Slabs(tuple(bound - rows.start for bound in bounds))
    begin = bounds[cut.ranks.rank] - slabs.bounds[cut.ranks.rank] if wanted.of(cut.ranks.rank) else 0
    return collect(slab.narrow(FIRST, begin, len(wanted.of(cut.ranks.rank))).contiguous(), wanted, cut)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, slab: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
        context.slabs, context.cut = slabs, cut
        return _together(slab, slabs, cut)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _own(gradient, context.slabs, context.cut), None, None


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, whole: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
        context.slabs, context.cut = slabs, cut
        return _own(whole, slabs, cut)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _together(gradient, context.slabs, context.cut), None, None


def _own(whole: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
    planes = slabs.of(cut.ranks.rank)
    return whole.narrow(cut.axis, planes.start, len(planes)).clone()


def _together(slab: Tensor, slabs: Slabs, cut: Cut) -> Tensor:
    """By messages of one size: as that of the thickest slab, as bytes, which all backends know how to send."""
    lengths = [len(planes) for planes in slabs.all()]
    first = slab.movedim(cut.axis, 0)
    message = first.new_zeros(max(lengths), *first.shape[1:])
    message[: len(first)] = first
    parts = cut.ranks.everyones(message.flatten().view(torch.uint8))
    planes = [part.view(slab.dtype).view(message.shape)[:length] for part, length in zip(parts, lengths, strict=True)]
    return torch.cat(planes).movedim(0, cut.axis).contiguous()
