"""Layers over slabs: as over the whole, for every number of ranks (see :mod:`medhpc.ranks.halo`).

On a GPU with room for it, a convolution is computed in three parts, so that the planes of the neighbours travel while
the inner one is computed::

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

from medhpc.nets.resample import fold_by_reflection, join_by_reflection, lanczos2, lanczos2_reach
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
    how = _Filter(
        stride=stride,
        reach=reach,
        reflected=reflected,
        biased=bias is not None,
        halo=cut.halo(reach, reach + 1 - stride, "reflection" if reflected else "zero"),
    )
    if cut.overlaps and x.is_cuda and stride == 1 and x.shape[cut.axis] > 4 * reach:
        return _InParts.apply(x, weight, bias, how)
    return how.forward(_Seen.apply(x, how), weight, bias)


def upsample(x: Tensor, mode: str, cut: Cut) -> Tensor:
    """Twice as many voxels along each axis of a slab, linear between the centres of the old ones."""
    fine = F.interpolate(extend(x, cut.halo(1, 1, "repeat")), scale_factor=2, mode=mode, align_corners=False)
    return fine.narrow(cut.axis, 2, 2 * x.shape[cut.axis])


def lanczos2_of_slab(x: Tensor, factor: int, cut: Cut) -> Tensor:
    """As :func:`medhpc.nets.resample.lanczos2`, of a slab."""
    beyond = lanczos2_reach(factor)
    return lanczos2(extend(x, cut.halo(beyond, beyond, "repeat")), factor, extended=cut.axis)


@dataclass(frozen=True, kw_only=True)
class _Filter:
    """A convolution but for its weights; `reach` is half its kernel."""

    stride: int
    reach: int
    reflected: bool
    biased: bool
    halo: Halo

    def seen(self, *pieces: Tensor) -> Tensor:
        """Pieces of a slab and its halo as one block, padded on the other axes if it is reflected there."""
        axis = self.halo.cut.axis
        if self.reflected:
            return join_by_reflection(pieces, axis, self.around(pieces[0]))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)

    def forward(self, seen: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Of a block that has its halo."""
        apply = F.conv2d if seen.ndim == 4 else F.conv3d
        return apply(seen, weight, bias, self.stride, padding=0 if self.reflected else self.around(seen))

    def backward(self, gradient: Tensor, seen: Tensor, weight: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the block (if they are wanted), without its padding, of weights and bias (if there is one)."""
        ndim, around = seen.ndim - 2, self.around(seen)
        of_seen, of_weight, of_bias = torch.ops.aten.convolution_backward(
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
            [wanted, True, self.biased],
        )
        of_block = fold_by_reflection(of_seen, around) if wanted and self.reflected else of_seen
        return of_block, of_weight, of_bias

    def around(self, x: Tensor) -> list[int]:
        """Voxels that are padded on both sides of each axis of space; none along that of the slabs."""
        return [0 if axis == self.halo.cut.axis else self.reach for axis in range(2, x.ndim)]


class _Seen(torch.autograd.Function):
    """What a convolution sees of a slab, all at once."""

    @staticmethod
    def forward(context: Any, x: Tensor, how: _Filter) -> Tensor:
        context.how = how
        below, above = how.halo.begin(x)()
        return how.seen(below, x, above)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """In place of the gradient, which is the convolution's alone: one block less when memory is needed most."""
        how: _Filter = context.how
        axis, low, high = how.halo.cut.axis, how.halo.low, how.halo.high
        block = fold_by_reflection(gradient, how.around(gradient)) if how.reflected else gradient
        length = block.shape[axis] - low - high
        add = how.halo.begin_back(block.narrow(axis, 0, low), block.narrow(axis, low + length, high))
        of_x = block.narrow(axis, low, length)
        add(of_x)
        return of_x, None


class _InParts(torch.autograd.Function):
    """A convolution whose outer parts wait for the neighbours while the inner one is computed."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: _Filter) -> Tensor:
        axis, near = how.halo.cut.axis, 2 * how.reach
        wait = how.halo.begin(x)
        seen = how.seen(x)
        inner = how.forward(seen, weight, bias)
        below, above = wait()
        first = how.seen(below, x.narrow(axis, 0, near))
        last = how.seen(x.narrow(axis, x.shape[axis] - near, near), above)
        context.how = how
        context.save_for_backward(weight, first, seen, last)
        return torch.cat([how.forward(first, weight, bias), inner, how.forward(last, weight, bias)], axis)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        """The outer parts first: their gradients for the neighbours travel while the inner part's are computed."""
        weight, *seen = context.saved_tensors
        how, wanted = context.how, context.needs_input_grad[0]
        axis, reach = how.halo.cut.axis, how.reach
        near, length = 2 * reach, gradient.shape[axis]
        outputs = gradient.narrow(axis, 0, reach), gradient.narrow(axis, length - reach, reach)
        first, last = (how.backward(one, block, weight, wanted) for one, block in zip(outputs, seen[::2], strict=True))
        if wanted:
            add = how.halo.begin_back(first[0].narrow(axis, 0, reach), last[0].narrow(axis, near, reach))
        inner = how.backward(gradient.narrow(axis, reach, length - near), seen[1], weight, wanted)
        if wanted:
            inner[0].narrow(axis, 0, near).add_(first[0].narrow(axis, reach, near))
            inner[0].narrow(axis, length - near, near).add_(last[0].narrow(axis, 0, near))
            add(inner[0])
        of_bias = first[2] + inner[2] + last[2] if how.biased else None
        return inner[0] if wanted else None, first[1] + inner[1] + last[1], of_bias, None
