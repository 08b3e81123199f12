"""Hourglass networks with skip connections, whose structure alone is a prior for images (Deep Image Prior)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.card import NetworkCard, default_classes
from medhpc.nets.division import Division
from medhpc.nets.files import save_network
from medhpc.nets.layers import (
    ACTIVATIONS,
    DOWNSAMPLINGS,
    PADDINGS,
    UPSAMPLINGS,
    Downsampling,
    Norm,
    activated,
    convolution,
)
from medhpc.nets.resample import fill_by_reflection
from medhpc.nets.slabs import InSlabs, upsample

PerLevel = int | Sequence[int]


class Skip(nn.Module):
    r"""The network of Ulyanov, Vedaldi & Lempitsky, "Deep Image Prior", CVPR 2018, in two or three dimensions.

    ::

        x --- skip: k1 conv, norm, act ------------------------- cat -- norm, k3 conv, norm, act, 1x1, norm, act -->
          \- down: k3 conv / 2, norm, act, k3 conv, norm, act -- (next level) -- upsample x 2 -/

    and at the end a 1x1 convolution and a sigmoid. Norms take mean and deviation of the block at hand (there is one),
    in training and after it. The default in 3D is that of the paper: 6,466,149 parameters.

    Parameters
    ----------
    in_channels, out_channels : int
    ndim : {2, 3}
    down, up, skip : sequence of int, or int
        Channels per level, from the finest on; `down` says how many levels there are. `up` is as `down` unless given.
        No skip connection where `skip` is 0.
    kernel_down, kernel_up, kernel_skip : int or one per level
        Odd.
    downsample : {"stride", "avg", "max", "lanczos2"}
    upsample : {"linear", "nearest"}
    padding : {"reflection", "zero"}
    activation : {"LeakyReLU", "Swish", "ELU", "none"} or callable that returns a module
        A network with a callable cannot be saved.
    up_1x1 : bool
        Whether a 1x1 convolution follows that of `kernel_up`.
    norm, bias, sigmoid : bool
    checkpointed : int
        Levels, from the finest on, whose units are computed again in the backward pass rather than kept: slower, in
        less memory, to the same result. No part of the architecture.

    Input is (N, in_channels, z, y, x), or without z, of any size: it is filled up by reflection at the far ends, to
    what the levels need, and the result is cut back.

    Raises
    ------
    BadNetwork
        An option out of range.
    """

    takes_raw = False
    receptive_radius = None  # everything depends on everything, by the norms

    def __init__(
        self,
        in_channels: int = 32,
        out_channels: int = 1,
        *,
        ndim: int = 3,
        down: Sequence[int] = (128,) * 5,
        up: PerLevel | None = None,
        skip: PerLevel = 4,
        kernel_down: PerLevel = 3,
        kernel_up: PerLevel = 3,
        kernel_skip: PerLevel = 1,
        downsample: str = "stride",
        upsample: str = "linear",
        padding: str = "reflection",
        activation: str | Callable[[], nn.Module] = "LeakyReLU",
        up_1x1: bool = True,
        norm: bool = True,
        bias: bool = True,
        sigmoid: bool = True,
        checkpointed: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.ndim = in_channels, out_channels, ndim
        self.down, scales = tuple(down), len(down)
        self.up = _per_level(down if up is None else up, scales)
        self.skip = _per_level(skip, scales)
        self.kernels = {
            "down": _per_level(kernel_down, scales),
            "up": _per_level(kernel_up, scales),
            "skip": _per_level(kernel_skip, scales),
        }
        self.downsample, self.upsample, self.padding = downsample, upsample, padding
        self.activation, self.up_1x1, self.norm, self.bias = activation, up_1x1, norm, bias
        self.sigmoid, self.checkpointed = sigmoid, checkpointed
        self.float32_up_to = 0
        """Levels whose shortest axis has no more voxels are computed in float32, also where autocast says otherwise."""
        self.division: Division | None = None
        """How several ranks share the work (see :func:`medhpc.nets.division.divide`); None for one alone."""
        _check(self)
        self.card = NetworkCard(classes=default_classes(out_channels))
        inputs = (in_channels, *self.down[:-1])
        self.levels = nn.ModuleList(_Level(self, number, inputs[number]) for number in range(scales))
        self.end = convolution(self.up[0], out_channels, 1, ndim=ndim, bias=bias)

    @property
    def scales(self) -> int:
        """Number of levels."""
        return len(self.down)

    @property
    def stride(self) -> tuple[int, ...]:
        """What the lengths of an input are filled up to multiples of."""
        return (2**self.scales,) * self.ndim

    @property
    def minimum_shape(self) -> tuple[int, ...]:
        """Voxels per axis that an input must have."""
        return (1,) * self.ndim

    @property
    def n_parameters(self) -> int:
        """Number of weights, biases and norms."""
        return sum(p.numel() for p in self.parameters())

    def filled_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Lengths at which a block of that shape is computed: the coarsest level must be wide enough to be padded."""
        reach = max(self.kernels["down"]) // 2 if self.padding == "reflection" else 0
        return tuple(max(n + -n % s, s * (reach + 1)) for n, s in zip(shape, self.stride, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return a batch of the input's shape but for the channels; no half floats where there is a sigmoid."""
        space = tuple(x.shape[2:])
        if len(space) != self.ndim or x.shape[1] != self.in_channels:
            raise NetworkMismatch(
                f"input of {x.shape[1]} channels and {len(space)} axes for a {self.ndim}D network of "
                f"{self.in_channels} channels"
            )
        filled = self.filled_shape(space) if self.division is None else self.division.filled_shape(self, space)
        device = x.device
        x = self._level(0, fill_by_reflection(x, filled))
        result = self._unit(0)(self._ended, x).to(device)
        inside: tuple[slice | EllipsisType, ...] = (..., *(slice(n) for n in space))
        result = result[inside]
        return result.to(torch.promote_types(result.dtype, torch.float32)).sigmoid() if self.sigmoid else result

    def _level(self, number: int, x: Tensor) -> Tensor:
        """(N, channels, space) -> (N, up[number], space), before the last norm: this level and all below it."""
        space = tuple(x.shape[2:])
        shortest = min(space) if self.division is None else self.division.shortest(number, space)
        if shortest <= self.float32_up_to and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._level(number, x.float())
        level = self._at(number)
        aside = level.skip(x) if self.skip[number] else None
        deeper = level.descend(x, self._unit(number))
        finish: Callable[[Tensor], Tensor] = level.conv_norm
        if number + 1 < self.scales:
            deeper, finish = self._below(number + 1, finish(deeper))
        return level.ascend(deeper, finish, aside, self._unit(number))

    def _below(self, number: int, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What the levels from `number` on make of x, and what finishes it."""
        finish = self._at(number).finish
        if self.division is None or not self.division.begins_whole(number):
            return self._level(number, x), finish
        whole = finish(self._level(number, self.division.gather(number, x)))
        return self.division.take(number, whole), nn.Identity()

    def _ended(self, x: Tensor) -> Tensor:
        result: Tensor = self.end(self._at(0).finish(x))
        return result

    def _at(self, number: int) -> _Level:
        level = self.levels[number]
        assert isinstance(level, _Level)
        return level

    def _unit(self, number: int) -> Callable[..., Tensor]:
        """How units of a level are called: as they are, or so that their insides are not kept."""
        if number < self.checkpointed and torch.is_grad_enabled():
            return _not_kept
        return _kept

    def architecture(self) -> dict[str, Any]:
        """Return what :func:`medhpc.nets.load` needs to build this network again.

        Raises
        ------
        BadNetwork
            The activation is not one of those with a name.
        """
        if not isinstance(self.activation, str):
            raise BadNetwork(f"activation {self.activation!r} cannot be saved; expected one of {_or(ACTIVATIONS)}")
        return {
            "name": "skip",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "ndim": self.ndim,
            **{name: list(getattr(self, name)) for name in ("down", "up", "skip")},
            **{f"kernel_{name}": list(sizes) for name, sizes in self.kernels.items()},
            **{name: getattr(self, name) for name in ("downsample", "upsample", "padding", "activation")},
            **{name: getattr(self, name) for name in ("up_1x1", "norm", "bias", "sigmoid")},
        }

    def save(self, path: str | Path) -> None:
        """Write weights and card into one .safetensors file, aside first and then renamed.

        Raises
        ------
        BadNetwork
            The name does not end in .safetensors, or the activation has no name.
        NoPermission, DiskFull
        """
        save_network(self, path)

    def extra_repr(self) -> str:
        """Describe the network inside ``print(network)``."""
        return f"{self.in_channels}, {self.out_channels}, ndim={self.ndim}, {self.n_parameters:,} parameters"


class _Level(InSlabs, nn.Module):
    """One level; `call` runs a unit, and decides what of it is kept for the backward pass."""

    def __init__(self, net: Skip, number: int, in_channels: int) -> None:
        super().__init__()
        down, up, skip = net.down[number], net.up[number], net.skip[number]
        below = net.up[number + 1] if number + 1 < net.scales else down
        options: dict[str, Any] = {"ndim": net.ndim, "bias": net.bias, "padding": net.padding}
        sizes = {name: kernels[number] for name, kernels in net.kernels.items()}
        behind = partial(activated, activation=net.activation, norm=net.norm)
        self.mode = UPSAMPLINGS[net.upsample][net.ndim - 2]
        if skip:
            self.skip = convolution(in_channels, skip, sizes["skip"], **options)
            self.skip_norm = behind(skip)
        self.narrow = Downsampling(in_channels, down, sizes["down"], net.downsample, **options)
        self.narrow_norm = behind(down)
        self.conv = convolution(down, down, sizes["down"], **options)
        self.conv_norm = behind(down)
        self.cat_norm = Norm(skip + below) if net.norm else nn.Identity()
        self.merge = convolution(skip + below, up, sizes["up"], **options)
        self.merge_norm = behind(up)
        if net.up_1x1:
            self.mix = convolution(up, up, 1, **options)
            self.mix_norm = behind(up)
        self.mixes = net.up_1x1

    def descend(self, x: Tensor, call: Callable[..., Tensor]) -> Tensor:
        """To half the resolution, before `conv_norm`."""
        return call(self._narrowed, x)

    def ascend(
        self,
        deeper: Tensor,
        finish: Callable[[Tensor], Tensor],
        aside: Tensor | None,
        call: Callable[..., Tensor],
    ) -> Tensor:
        """Back to this resolution and together with what was put aside, before :meth:`finish`.

        What comes from below lacks its norm and activation, `finish`: done in here, their result is not kept.
        """
        x = call(self._merged, deeper, finish, aside)
        return call(self._mixed, x) if self.mixes else x

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation behind the last convolution of this level."""
        result: Tensor = self.mix_norm(x) if self.mixes else self.merge_norm(x)
        return result

    def _narrowed(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(self.narrow_norm(self.narrow(x)))
        return result

    def _merged(self, deeper: Tensor, finish: Callable[[Tensor], Tensor], aside: Tensor | None) -> Tensor:
        device = next(self.merge.parameters()).device  # another than that of the way down, where there are two
        x = self._enlarged(finish(deeper).to(device))
        if aside is not None:
            x = torch.cat([self.skip_norm(aside.to(device)).to(x.dtype), x], 1)
        result: Tensor = self.merge(self.cat_norm(x))
        return result

    def _enlarged(self, x: Tensor) -> Tensor:
        if self.cut is None or self.mode == "nearest":
            return F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=_align(self.mode))
        return upsample(x, self.mode, self.cut)

    def _mixed(self, x: Tensor) -> Tensor:
        result: Tensor = self.mix(self.merge_norm(x))
        return result


def _kept(unit: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return unit(*inputs)


def _not_kept(unit: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return checkpoint(unit, *inputs, use_reentrant=False, preserve_rng_state=False)


def _align(mode: str) -> bool | None:
    return None if mode == "nearest" else False


def _per_level(values: PerLevel, scales: int) -> tuple[int, ...]:
    return (values,) * scales if isinstance(values, int) else tuple(values)


def _check(net: Skip) -> None:
    """Refuse what no real network has; the limits also keep a forged file from filling the memory."""
    for name, values in {"down": net.down, "up": net.up, "skip": net.skip}.items():
        least = 0 if name == "skip" else 1
        if len(values) != net.scales or not all(isinstance(n, int) and least <= n <= 1024 for n in values):
            raise BadNetwork(f"{name} {list(values)!r} of a skip network: expected {least} to 1024 channels per level")
    for name, sizes in net.kernels.items():
        if len(sizes) != net.scales or not all(isinstance(k, int) and k % 2 == 1 and 1 <= k <= 11 for k in sizes):
            raise BadNetwork(f"kernel_{name} {list(sizes)!r} of a skip network: expected an odd number, 1 to 11")
    if not 1 <= net.scales <= 10 or net.ndim not in (2, 3):
        raise BadNetwork(f"{net.scales} levels in {net.ndim!r}D: expected 1 to 10 levels, in 2D or 3D")
    if not all(isinstance(n, int) and 1 <= n <= 4096 for n in (net.in_channels, net.out_channels)):
        raise BadNetwork(f"{net.in_channels!r} to {net.out_channels!r} channels: expected whole numbers from 1 to 4096")
    choices = {"downsample": DOWNSAMPLINGS, "upsample": UPSAMPLINGS, "padding": PADDINGS, "activation": ACTIVATIONS}
    for name, known in choices.items():
        value = getattr(net, name)
        if value not in known and not (name == "activation" and callable(value)):
            raise BadNetwork(f"{name} {value!r} of a skip network: expected {_or(known)}")


def _or(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
