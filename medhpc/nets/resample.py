"""Blocks of other sizes: filled up by reflection, or made coarser by a Lanczos filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fill_by_reflection(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Continue (N, channels, space) beyond its far ends until it has `shape`, there and back again if need be.

    The edge voxel is not repeated: 0 1 2 becomes 0 1 2 1 0 1 2 ...
    """
    for axis, (length, wanted) in enumerate(zip(x.shape[2:], shape, strict=True), start=2):
        if wanted > length:
            period = max(1, 2 * (length - 1))
            position = torch.arange(wanted, device=x.device) % period
            x = x.index_select(axis, torch.minimum(position, period - position) if length > 1 else position)
    return x


def pad_by_reflection(x: Tensor, reach: int | Sequence[int]) -> Tensor:
    """As ``F.pad(x, ..., mode="reflect")`` on both sides of each axis, or by so many voxels as each has in `reach`.

    For its gradient, that would keep x: a sixth of all memory.
    """
    return _Reflection.apply(x, _pads(reach, x.ndim - 2))


def join_by_reflection(pieces: Sequence[Tensor], axis: int, reach: Sequence[int]) -> Tensor:
    """Pieces along an axis as one block, padded by `reach` along each axis of space; nothing else is held meanwhile."""
    lengths = list(pieces[0].shape)
    lengths[axis] = sum(piece.shape[axis] for piece in pieces)
    beyond = [0, 0, *reach]
    result = pieces[0].new_empty([length + 2 * b for length, b in zip(lengths, beyond, strict=True)])
    spans = list(zip(beyond, lengths, strict=True))
    inner, at = _span(result, spans), 0
    for piece in pieces:
        inner.narrow(axis, at, piece.shape[axis]).copy_(piece)
        at += piece.shape[axis]
    for number, (b, length) in enumerate(zip(beyond, lengths, strict=True)):
        if not b:
            continue
        spans[number] = (0, length + 2 * b)
        block = _span(result, spans)
        block.narrow(number, 0, b).copy_(block.narrow(number, b + 1, b).flip(number))
        block.narrow(number, b + length, b).copy_(block.narrow(number, length - 1, b).flip(number))
    return result


def _span(x: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """A part of x, by first voxel and length along each axis."""
    for axis, (start, length) in enumerate(spans):
        x = x.narrow(axis, start, length)
    return x


def fold_by_reflection(gradient: Tensor, reach: Sequence[int]) -> Tensor:
    """The gradient of what was padded, as a part of the memory of that behind the padding, which is overwritten."""
    for axis, beyond in enumerate(reach, start=2):
        if beyond:
            length = gradient.shape[axis] - 2 * beyond
            inner = gradient.narrow(axis, beyond, length)
            inner.narrow(axis, 1, beyond).add_(gradient.narrow(axis, 0, beyond).flip(axis))
            last = gradient.narrow(axis, beyond + length, beyond)
            inner.narrow(axis, length - 1 - beyond, beyond).add_(last.flip(axis))
            gradient = inner
    return gradient


def _pads(reach: int | Sequence[int], ndim: int) -> list[int]:
    """As torch takes them: the last axis first, both sides of each."""
    each = [reach] * ndim if isinstance(reach, int) else reach
    return [voxels for voxels in reversed(each) for _ in range(2)]


class _Reflection(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, pads: list[int]) -> Tensor:
        context.shape, context.pads = x.shape, pads
        return F.pad(x, pads, mode="reflect")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ndim = gradient.ndim - 2
        back = torch.ops.aten.reflection_pad2d_backward if ndim == 2 else torch.ops.aten.reflection_pad3d_backward
        no_memory = gradient.new_empty(()).expand(context.shape)  # only its shape is looked at
        return back(gradient.contiguous(), no_memory, context.pads), None


def lanczos2(x: Tensor, factor: int, *, extended: int | None = None) -> Tensor:
    """Make (N, channels, space) coarser by `factor`; every length is a multiple of it.

    A Lanczos filter of support 2, centred on the middle of the voxels that become one; borders are continued by their
    edge voxel (as ``Downsampler`` with phase 1/2 of Ulyanov's code). The axis `extended` of x is continued already.
    """
    ndim, channels = x.ndim - 2, x.shape[1]
    taps = lanczos2_taps(factor).to(x)
    beyond = [0 if axis == extended else lanczos2_reach(factor) for axis in range(2, ndim + 2)]
    convolve = F.conv2d if ndim == 2 else F.conv3d
    x = F.pad(x, _pads(beyond, ndim), mode="replicate")
    for axis in range(ndim):
        shape, stride = [1] * ndim, [1] * ndim
        shape[axis], stride[axis] = len(taps), factor
        x = convolve(x, taps.reshape(1, 1, *shape).expand(channels, -1, *shape), stride=stride, groups=channels)
    return x


def lanczos2_reach(factor: int) -> int:
    """Voxels beyond those that become one that the filter sees, on either side."""
    return 3 * factor // 2


def lanczos2_taps(factor: int) -> Tensor:
    """4 x `factor` weights whose sum is one, float32."""
    distance = (torch.arange(4 * factor) - (4 * factor - 1) / 2) / factor  # from the centre, in coarse voxels
    taps = torch.sinc(distance) * torch.sinc(distance / 2)
    return taps / taps.sum()
