"""Any torch module as a network of medhpc: its owner declares what it sees and how far it strides."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.card import NetworkCard, default_classes


class Foreign(nn.Module):
    """A torch module with a declared halo and stride.

    The module maps (N, in_channels, z, y, x) to (N, out_channels, z, y, x), or the same without z. Where it strides
    or pools, inputs are filled up by reflection at the far end of each axis and the result is cut back.

    Parameters
    ----------
    module : torch.nn.Module
    in_channels, out_channels : int
    ndim : {2, 3}
    halo : int or one per axis
        Voxels from which a result depends on the input.
    stride : int or one per axis
        The module needs lengths that are multiples of this (2^n for n poolings).
    normalize : bool
        Whether it expects intensities of mean 0 and deviation 1; False: the volume's own numbers.
    classes : sequence of str, optional
        One name per output channel.

    Raises
    ------
    BadNetwork
        A number out of range.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        in_channels: int,
        out_channels: int,
        ndim: int,
        halo: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        normalize: bool = True,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if ndim not in (2, 3) or in_channels < 1 or out_channels < 1:
            raise BadNetwork(f"a {ndim}D network of {in_channels} to {out_channels} channels; expected 2D or 3D, >= 1")
        self.module = module
        self.in_channels, self.out_channels, self.ndim = in_channels, out_channels, ndim
        self.receptive_radius: tuple[int, ...] | None = per_axis(halo, ndim, "halo", least=0)
        self.stride = per_axis(stride, ndim, "stride", least=1)
        self.takes_raw = not normalize
        self.card = NetworkCard(classes=tuple(classes or default_classes(out_channels)))

    @property
    def minimum_shape(self) -> tuple[int, ...]:
        """Voxels per axis that an input must have: reflection cannot add as many voxels as there are."""
        return tuple(s // 2 + 1 for s in self.stride)

    def architecture(self) -> dict[str, Any]:
        """Return what tells two wrappings of the same module apart."""
        return {
            "name": f"{type(self.module).__module__}.{type(self.module).__qualname__}",
            "halo": self.receptive_radius,
            "stride": self.stride,
            "normalize": not self.takes_raw,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the input's shape but for the channels."""
        return apply_strided(self.module, x, self)


def apply_strided(module: Any, x: Tensor, network: Any) -> Tensor:
    """Call `module` on `x`, filled up to multiples of the network's stride; cut the result back and check it."""
    space = x.shape[2:]
    if len(space) != network.ndim or x.shape[1] != (network.in_channels or x.shape[1]):
        raise NetworkMismatch(
            f"input of {x.shape[1]} channels and {len(space)} axes for a {network.ndim}D network that takes "
            f"{network.in_channels or 'any'} channels"
        )
    fill = [-n % s for n, s in zip(space, network.stride, strict=True)]
    if any(f >= n for f, n in zip(fill, space, strict=True)):
        raise NetworkMismatch(
            f"input of {_times(space)} voxels is too thin for stride {_times(network.stride)}: "
            f"expected at least {_times(network.minimum_shape)}"
        )
    if any(fill):
        x = F.pad(x, [n for f in reversed(fill) for n in (0, f)], mode="reflect")
    result = module(x)
    expected = (len(x), network.out_channels, *x.shape[2:])
    if not isinstance(result, Tensor) or tuple(result.shape) != expected:
        got = _times(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise NetworkMismatch(f"the network returned {got}; expected {_times(expected)} (batch, channels, space)")
    inside: tuple[slice | EllipsisType, ...] = (..., *(slice(n) for n in space))
    return result[inside]


def per_axis(value: int | Sequence[int], ndim: int, what: str, *, least: int) -> tuple[int, ...]:
    """One whole number per axis, of one for all or one each.

    Raises
    ------
    BadNetwork
        Another number of them, or one below `least`.
    """
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim or not all(isinstance(v, int) and v >= least for v in values):
        raise BadNetwork(f"{what} {value!r} of a {ndim}D network: expected a whole number from {least} on, or {ndim}")
    return values


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
