"""In which numbers is computed: autocast, TF32, and a fault of CPUs that is looked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DOUBLE = "fp64"
"""No user asks for it; it shows that ranks compute what one computes, where fp32 would go its own way soon."""
FAULTY_UP_TO = 4
"""Levels with an axis of no more voxels have convolutions whose shortest axis has two, or will have after a stride."""


def settle(precision: str, device: torch.device) -> str:
    """What ``auto`` means: 16 bit on a GPU (bf16 where it has that), float32 on a CPU."""
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def dtype_of(precision: str) -> torch.dtype:
    """What inputs are given in; weights too, but not in 16 bit."""
    return torch.float64 if precision == DOUBLE else HALVES.get(precision, torch.float32)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A block in which convolutions are computed in 16 bit, if `precision` says so; weights stay float32."""
    return torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Matrix products and convolutions of float32 use TF32 inside the block if `precision` is that, and only then."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def float32_up_to(precision: str, device: torch.device, ndim: int) -> int:
    """Which levels (by their shortest axis) must not be computed in 16 bit here; 0 for none."""
    faulty = device.type == "cpu" and precision == "bf16" and ndim == 3 and not bf16_gradients_are_sound()
    return FAULTY_UP_TO if faulty else 0


@cache
def bf16_gradients_are_sound() -> bool:
    """Whether this CPU's weight gradients of small 3D convolutions in bfloat16 are right.

    oneDNN reads memory that it has not written where the first spatial axis has two voxels. What lies there is made
    NaN before each trial, so that reading it shows.
    """
    return all(
        _gradient_is_sound(channels, space) for channels in (8, 48) for space in ((2, 2, 2), (2, 2, 4), (2, 4, 2))
    )


def _gradient_is_sound(channels: int, space: tuple[int, int, int]) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, *space, generator=generator)
    weight = torch.randn(channels, channels, 3, 3, 3, generator=generator) * 0.1
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        _leave_nan_behind(weight.numel())
        w = weight.clone().requires_grad_()
        F.conv3d(x.to(dtype), w.to(dtype), padding=1).float().square().sum().backward()
        assert w.grad is not None
        gradients.append(w.grad)
    exact, half = gradients
    return bool((half - exact).abs().max() < 0.1 * exact.abs().max())  # false for NaN


def _leave_nan_behind(numbers: int) -> None:
    """Fill memory of the sizes that are asked for next, and give it back."""
    blocks = [torch.full((numbers * factor,), torch.nan) for factor in (1, 1, 2, 2, 4) for _ in range(4)]
    del blocks
