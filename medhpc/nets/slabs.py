"""Layers over slabs: as over the whole, for every number of ranks (see :mod:`medhpc.ranks.halo`).

A convolution keeps its slab for the backward pass, and a few planes of its neighbours; what it pads, it pads again. On
a GPU it is computed in three parts, so that the planes of the neighbours travel while the inner one is computed::

    input      below | . . . . . . . . . . . . | above
    parts      [-----------]             [-----------]
                     [-----------------------]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medhpc.nets.resample import lanczos2, lanczos2_reach, pad_by_reflection, unpad_by_reflection
from medhpc.ranks.halo import Cut, Halo, extend


class InSlabs:
    """A layer that knows slabs: `cut` says how its blocks are divided among ranks, None that they are whole."""

    cut: Cut | None = None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, reflected: bool, cut: Cut) -> Tensor:
    """A padded convolution of slabs (N, channels, space); the kernel is odd and as long along all axes."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    reach = weight.shape[-1] // 2
    halo = cut.halo(reach, reach + 1 - stride, "reflection" if reflected else "zero")
    in_parts = x.is_cuda and stride == 1 and x.shape[cut.axis] > 4 * reach
    return _Convolution.apply(x, weight, bias, _Filter(stride, reach, reflected, halo), in_parts)


def upsample(x: Tensor, mode: str, cut: Cut) -> Tensor:
    """Twice as many voxels along each axis of a slab, linear between the centres of the old ones."""
    fine = F.interpolate(extend(x, cut.halo(1, 1, "repeat")), scale_factor=2, mode=mode, align_corners=False)
    return fine.narrow(cut.axis, 2, 2 * x.shape[cut.axis])


def lanczos2_of_slab(x: Tensor, factor: int, cut: Cut) -> Tensor:
    """As :func:`medhpc.nets.resample.lanczos2`, of a slab."""
    beyond = lanczos2_reach(factor)
    return lanczos2(extend(x, cut.halo(beyond, beyond, "repeat")), factor, extended=cut.axis)


@dataclass(frozen=True)
class _Filter:
    """A convolution but for its weights; `reach` is half its kernel."""

    stride: int
    reach: int
    reflected: bool
    halo: Halo

    def around(self, ndim: int) -> list[int]:
        """Voxels that are padded on both sides of each axis of space; none along that of the slabs."""
        return [0 if n + 2 == self.halo.cut.axis else self.reach for n in range(ndim)]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Of a block that has its halo already."""
        around = self.around(x.ndim - 2)
        apply = F.conv2d if x.ndim == 4 else F.conv3d
        if self.reflected:
            return apply(pad_by_reflection(x, around), weight, bias, self.stride)
        return apply(x, weight, bias, self.stride, padding=around)

    def backward(
        self, gradient: Tensor, x: Tensor, weight: Tensor, biased: bool, wanted: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the same block (if it is wanted), of the weights, and of the bias (if there is one)."""
        ndim = x.ndim - 2
        around = self.around(ndim)
        seen = pad_by_reflection(x, around) if self.reflected else x
        of_block, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient,
            seen,
            weight,
            [len(weight)],
            [self.stride] * ndim,
            [0] * ndim if self.reflected else around,
            [1] * ndim,
            False,
            [0] * ndim,
            1,
            [wanted, True, biased],
        )
        if wanted and self.reflected:
            of_block = unpad_by_reflection(of_block, around, x.shape)
        return of_block, of_weight, of_bias


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: _Filter, in_parts: bool) -> Tensor:
        axis, near = how.halo.cut.axis, 2 * how.reach
        wait = how.halo.begin(x)
        inner = how.forward(x, weight, bias) if in_parts else None
        below, above = wait()
        context.save_for_backward(x, below, above, weight)
        context.how, context.in_parts, context.biased = how, in_parts, bias is not None
        if inner is None:
            return how.forward(torch.cat([below, x, above], axis), weight, bias)
        first = torch.cat([below, x.narrow(axis, 0, near)], axis)
        last = torch.cat([x.narrow(axis, x.shape[axis] - near, near), above], axis)
        return torch.cat([how.forward(first, weight, bias), inner, how.forward(last, weight, bias)], axis)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        x, below, above, weight = context.saved_tensors
        how, biased, wanted = context.how, context.biased, context.needs_input_grad[0]
        back = _backward_in_parts if context.in_parts else _backward_at_once
        of_x, of_weight, of_bias = back(gradient, x, below, above, weight, how, biased, wanted)
        return of_x if wanted else None, of_weight, of_bias if biased else None, None, None


def _backward_at_once(
    gradient: Tensor, x: Tensor, below: Tensor, above: Tensor, weight: Tensor, how: _Filter, biased: bool, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    axis, low, high = how.halo.cut.axis, how.halo.low, how.halo.high
    block = torch.cat([below, x, above], axis)
    of_block, *of_weights = how.backward(gradient, block, weight, biased, wanted)
    if not wanted:
        return of_block, of_weights[0], of_weights[1]
    length = x.shape[axis]
    add = how.halo.begin_back(of_block.narrow(axis, 0, low), of_block.narrow(axis, low + length, high))
    of_x = of_block.narrow(axis, low, length)
    add(of_x)
    return of_x, of_weights[0], of_weights[1]


def _backward_in_parts(
    gradient: Tensor, x: Tensor, below: Tensor, above: Tensor, weight: Tensor, how: _Filter, biased: bool, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The outer parts first: their gradients for the neighbours travel while the inner part's are computed."""
    axis, reach, length = how.halo.cut.axis, how.reach, x.shape[how.halo.cut.axis]
    near = 2 * reach
    head, tail = x.narrow(axis, 0, near), x.narrow(axis, length - near, near)
    parts = [
        how.backward(gradient.narrow(axis, start, reach), torch.cat(block, axis), weight, biased, wanted)
        for start, block in ((0, [below, head]), (length - reach, [tail, above]))
    ]
    add = None
    if wanted:
        first, last = parts[0][0], parts[1][0]
        add = how.halo.begin_back(first.narrow(axis, 0, reach), last.narrow(axis, near, reach))
    parts.append(how.backward(gradient.narrow(axis, reach, length - near), x, weight, biased, wanted))
    of_x = parts[-1][0]
    if add:
        of_x.narrow(axis, 0, near).add_(first.narrow(axis, reach, near))
        of_x.narrow(axis, length - near, near).add_(last.narrow(axis, 0, near))
        add(of_x)
    of_bias = parts[0][2] + parts[1][2] + parts[2][2] if biased else parts[0][2]
    return of_x, parts[0][1] + parts[1][1] + parts[2][1], of_bias
