"""The layers of hourglass networks, in two or three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medhpc.nets.normalise import Total, alone, normalise
from medhpc.nets.resample import lanczos2, pad_by_reflection
from medhpc.nets.slabs import InSlabs, convolve, lanczos2_of_slab

SLOPE = 0.2
"""Of LeakyReLU below zero."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "LeakyReLU": lambda: nn.LeakyReLU(SLOPE),
    "Swish": nn.SiLU,
    "ELU": nn.ELU,
    "none": nn.Identity,
}
PADDINGS = ("reflection", "zero")
UPSAMPLINGS = {"linear": ("bilinear", "trilinear"), "nearest": ("nearest", "nearest")}
DOWNSAMPLINGS = ("stride", "avg", "max", "lanczos2")


class Norm(nn.Module):
    """Batch normalisation by the statistics of the block at hand, in training and after it, and LeakyReLU by `slope`.

    There are no running averages, for there is one block only. Ranks that hold a part of it each set `total`, see
    :func:`medhpc.nets.normalise.normalise`.
    """

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = slope
        self.total: Total = alone

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, space), any floating dtype, to the same."""
        return normalise(x, self.weight, self.bias, slope=self.slope, total=self.total)


def activated(channels: int, activation: str | Callable[[], nn.Module], *, norm: bool) -> nn.Module:
    """An activation, and before it a norm if `norm`; LeakyReLU is done by the norm."""
    if norm and activation in ("LeakyReLU", "none"):
        return Norm(channels, SLOPE if activation == "LeakyReLU" else 1.0)
    chosen = ACTIVATIONS[activation]() if isinstance(activation, str) else activation()
    return nn.Sequential(Norm(channels), chosen) if norm else chosen


class Downsampling(nn.Sequential):
    """A convolution to half the resolution: by its stride, or with a filter behind it."""

    def __init__(self, in_channels: int, out_channels: int, size: int, mode: str, **options: Any) -> None:
        stride = 2 if mode == "stride" else 1
        convolved = convolution(in_channels, out_channels, size, stride=stride, **options)
        pools = {"avg": (nn.AvgPool2d, nn.AvgPool3d), "max": (nn.MaxPool2d, nn.MaxPool3d)}
        if mode in pools:
            super().__init__(convolved, pools[mode][options["ndim"] - 2](2))
        elif mode == "lanczos2":
            super().__init__(convolved, Lanczos2())
        else:
            super().__init__(convolved)


class Lanczos2(InSlabs, nn.Module):
    """Lanczos filter of support 2, to half the resolution."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, space) -> half of every axis."""
        return lanczos2(x, 2) if self.cut is None else lanczos2_of_slab(x, 2, self.cut)


def convolution(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    ndim: int,
    bias: bool,
    padding: str = "zero",
    stride: int = 1,
) -> nn.Module:
    """A convolution that keeps the shape (but for the stride)."""
    kind: Any = _Conv2d if ndim == 2 else _Conv3d
    reach = size // 2
    if padding == "zero" or not reach:
        return kind(in_channels, out_channels, size, stride, padding=reach, bias=bias)
    return kind(in_channels, out_channels, size, stride, bias=bias, reflected=reach)


class _Reflecting(InSlabs):
    """A convolution that sees `reflected` voxels beyond each border, and whose weights are not drawn without memory.

    (To draw on device meta, torch would import its compiler, for seconds.)
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]

    def __init__(self, *args: Any, reflected: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reflected = reflected

    def forward(self, x: Tensor) -> Tensor:
        if self.cut is not None and self.weight.shape[-1] > 1:
            reflected = self.reflected > 0
            return convolve(x, self.weight, self.bias, stride=self.stride[0], reflected=reflected, cut=self.cut)
        return super().forward(pad_by_reflection(x, self.reflected) if self.reflected else x)  # type: ignore[misc]

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()  # type: ignore[misc]


class _Conv2d(_Reflecting, nn.Conv2d):
    pass


class _Conv3d(_Reflecting, nn.Conv3d):
    pass
