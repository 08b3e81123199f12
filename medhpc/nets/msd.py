"""Mixed-scale dense (MS-D) networks: every layer sees all earlier maps through dilated 3^n convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.card import NetworkCard, default_classes
from medhpc.nets.files import save_network
from medhpc.nets.kernel import kernel_scores, kernel_serves
from medhpc.nets.visits import torch_scores, visits

Window = tuple[float, float]
"""Lowest and highest intensity that a network tells from lower and higher ones."""
WINDOW_EDGE = 3.0
"""What the ends of a window become: three deviations of what lies around its middle."""


class MSD(nn.Module):
    """The network of Pelt & Sethian, "A mixed-scale dense convolutional neural network", PNAS 115 (2018) 254.

    Layer i has `width` maps; map m = i * width + j convolves the input and the maps of *all* earlier layers with a
    3^ndim kernel of its own dilation, adds a bias and applies ReLU. A 1x1 convolution of everything makes the scores.
    Weights start as N(0, 2 / (3^ndim (in_channels + width (depth - 1)) + out_channels)), biases and the last layer
    at zero (the paper's supplement).

    Parameters
    ----------
    in_channels, out_channels : int
    depth : int
        Layers; 16 to 30 are trained in minutes, 85 is the size of published segmentation networks.
    width : int
        Maps per layer.
    ndim : {2, 3}
    dilations : sequence of int, optional
        Taken in turn by the maps; 1 to 10 by default.
    padding : {"reflect", "zero"}
        "reflect" does not repeat the edge voxel.
    window : sequence of (low, high) or None, optional
        One per input channel: the intensities between which the objects differ from what is around them. The channel
        is clipped to them and they become -3 and 3; a channel of None is taken as it is.

    Input is (N, in_channels, z, y, x), or (N, in_channels, y, x) for ``ndim=2``; the result has out_channels instead.
    In float32 on a CPU, medhpc's compiled kernel computes it and its gradients (once: not those of gradients), where
    it was built; elsewhere torch does. ``MEDHPC_ENGINE=torch`` keeps the kernel out.

    Raises
    ------
    BadNetwork
        A number out of range.
    """

    takes_raw = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        width: int = 1,
        ndim: int = 3,
        dilations: Sequence[int] | None = None,
        padding: str = "reflect",
        window: Sequence[Window | None] | None = None,
    ) -> None:
        super().__init__()
        _check_numbers(in_channels, out_channels, depth, width, ndim, padding)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.depth, self.width, self.ndim, self.padding = depth, width, ndim, padding
        self.window = _check_window(window, in_channels)
        turn = _check_dilations(dilations)
        self.dilations = tuple(turn[m % len(turn)] for m in range(depth * width))
        self.visits = list(visits(in_channels, width, self.dilations))
        self.card = NetworkCard(classes=default_classes(out_channels))
        inputs = [in_channels + i * width for i in range(depth)]
        self.weights = nn.ParameterList(torch.empty(width, n, *(3,) * ndim) for n in inputs)
        self.biases = nn.ParameterList(torch.empty(width) for _ in inputs)
        self.head_weight = nn.Parameter(torch.empty(out_channels, in_channels + depth * width))
        self.head_bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew, from torch's global generator."""
        if self.head_weight.is_meta:  # nothing to draw, and torch would import its compiler (seconds) to say so
            return
        connections = 3**self.ndim * (self.in_channels + self.width * (self.depth - 1)) + self.out_channels
        for weight in self.weights:
            nn.init.normal_(weight, std=math.sqrt(2 / connections))
        for bias in (*self.biases, self.head_weight, self.head_bias):
            nn.init.zeros_(bias)

    @property
    def parameters_in_order(self) -> list[Tensor]:
        """Kernels of all layers, biases of all layers, weight and bias of the head."""
        return [*self.weights, *self.biases, self.head_weight, self.head_bias]

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Voxels from which a result depends on the input, per axis: the longest path, one map of each layer."""
        layers = range(0, len(self.dilations), self.width)
        return (sum(max(self.dilations[m : m + self.width]) for m in layers),) * self.ndim

    @property
    def stride(self) -> tuple[int, ...]:
        """Always 1: results do not depend on where a block starts."""
        return (1,) * self.ndim

    @property
    def minimum_shape(self) -> tuple[int, ...]:
        """Voxels per axis that an input must have; reflection at dilation s needs s + 1."""
        return (max(self.dilations) + 1 if self.padding == "reflect" else 1,) * self.ndim

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(p.numel() for p in self.parameters())

    def n_flops(self, voxels: int) -> int:
        """Floating-point operations for that many voxels: a multiplication and an addition per parameter."""
        return 2 * self.n_parameters * voxels

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of a batch (softmax or sigmoid not applied)."""
        self.check_shape(x.shape)
        if self.ndim == 2:  # the planes of a batch do not see each other
            return self._scores(x.transpose(0, 1)).transpose(0, 1)
        return torch.stack([self._scores(block) for block in x])

    def _scores(self, planes: Tensor) -> Tensor:
        """(in_channels, planes, y, x) -> (out_channels, planes, y, x)."""
        planes = self.through_window(planes)
        return kernel_scores(self, planes) if kernel_serves(self, planes) else torch_scores(self, planes)

    def through_window(self, planes: Tensor) -> Tensor:
        """Clip and stretch the channels, along the first axis, that have a window; shapes as given."""
        if self.window is None:
            return planes
        seen = planes.clone()
        for channel, window in enumerate(self.window):
            if window is not None:
                low, high = window
                seen[channel] = (planes[channel].clamp(low, high) - (low + high) / 2) * (2 * WINDOW_EDGE / (high - low))
        return seen

    def weight_between(self, targets: Sequence[int], first: int, stop: int) -> Tensor:
        """Kernels from channels ``first:stop`` to some maps: (targets, stop - first, 3 or 1 in z, 3, 3)."""
        kernels = [self.weights[m // self.width][m % self.width, first:stop] for m in targets]
        weight = torch.stack(kernels)
        return weight if self.ndim == 3 else weight.unsqueeze(2)

    def architecture(self) -> dict[str, Any]:
        """Return what :func:`medhpc.nets.load` needs to build this network again."""
        return {
            "name": "msd",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "depth": self.depth,
            "width": self.width,
            "ndim": self.ndim,
            "dilations": list(self.dilations),
            "padding": self.padding,
            "window": self.window and [window and list(window) for window in self.window],
        }

    def save(self, path: str | Path) -> None:
        """Write weights and card into one .safetensors file, aside first and then renamed.

        Raises
        ------
        BadNetwork
            The name does not end in .safetensors.
        NoPermission, DiskFull
        """
        save_network(self, path)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse an input (N, channels, space) that the network cannot take.

        Raises
        ------
        NetworkMismatch
        """
        if len(shape) != self.ndim + 2:
            raise NetworkMismatch(
                f"input of {len(shape)} axes for a {self.ndim}D network; expected {self.ndim + 2}: "
                "batch, channels, space"
            )
        if shape[1] != self.in_channels:
            raise NetworkMismatch(f"input of {shape[1]} channels for a network that takes {self.in_channels}")
        if any(n < least for n, least in zip(shape[2:], self.minimum_shape, strict=True)):
            raise NetworkMismatch(
                f"input of {' x '.join(map(str, shape[2:]))} voxels is too thin for reflection at dilation "
                f"{max(self.dilations)}: every axis needs {self.minimum_shape[0]} (thin stacks: a 2D network)"
            )

    def extra_repr(self) -> str:
        """Describe the network inside ``print(network)``."""
        radius = self.receptive_radius[0]
        return (
            f"{self.in_channels}, {self.out_channels}, depth={self.depth}, width={self.width}, ndim={self.ndim}, "
            f"{self.n_parameters:,} parameters, receptive radius {radius}"
        )


def _check_numbers(in_channels: int, out_channels: int, depth: int, width: int, ndim: int, padding: str) -> None:
    """Refuse what no real network has; the limits also keep a forged file from filling the memory."""
    limits = {"in_channels": 4096, "out_channels": 4096, "depth": 1000, "width": 100}
    given = {"in_channels": in_channels, "out_channels": out_channels, "depth": depth, "width": width}
    for name, most in limits.items():
        value = given[name]
        if not isinstance(value, int) or not 1 <= value <= most:
            raise BadNetwork(f"{name} {value!r} of an MS-D network: expected a whole number from 1 to {most}")
    if depth * width > 2000:
        raise BadNetwork(f"{depth} layers of {width} maps in an MS-D network: expected at most 2000 maps")
    if ndim not in (2, 3):
        raise BadNetwork(f"ndim {ndim!r} of an MS-D network: expected 2 or 3")
    if padding not in ("reflect", "zero"):
        raise BadNetwork(f"padding {padding!r} of an MS-D network: expected 'reflect' or 'zero'")


def _check_dilations(dilations: Sequence[int] | None) -> tuple[int, ...]:
    turn = tuple(dilations) if dilations is not None else tuple(range(1, 11))
    if not turn or not all(isinstance(s, int) and 1 <= s <= 1000 for s in turn):
        raise BadNetwork(f"dilations {list(turn)!r} of an MS-D network: expected whole numbers from 1 to 1000")
    return turn


def _check_window(window: Sequence[Window | None] | None, channels: int) -> tuple[Window | None, ...] | None:
    if window is None:
        return None
    if not isinstance(window, list | tuple) or len(window) != channels or not all(map(_is_window, window)):
        raise BadNetwork(f"window {window!r} of an MS-D network: expected low and high, or None, for each channel")
    return tuple(None if ends is None else (float(ends[0]), float(ends[1])) for ends in window)


def _is_window(ends: Any) -> bool:
    if ends is None:
        return True
    numbers = isinstance(ends, list | tuple) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return numbers and bool(-math.inf < ends[0] < ends[1] < math.inf)
