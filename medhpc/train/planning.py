"""What a training would be on this machine, before it begins: depth, steps, their time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medhpc import engine as engines
from medhpc.geometry import Index
from medhpc.nets.identity import Identity
from medhpc.train.depth import DEPTHS, STEPS_PER_LAYER, StepTime, depth_for_seconds, depth_for_steps, measure_step
from medhpc.train.examples import CACHE_BYTES, MOST_JUDGED, Example, open_examples, region_of
from medhpc.train.options import Options, minimum_shape
from medhpc.train.patches import default_patch, patch_of
from medhpc.volume import open_volume

PATCHES: Mapping[int, Sequence[Index]] = {
    2: ((1, 256, 256), (1, 384, 384), (1, 512, 512)),
    3: ((32, 48, 48), (48, 64, 64), (64, 96, 96), (96, 96, 96)),
}
"""Tried where none is asked for, by the dimensions of the network."""
PADDING = 1.3
"""How much more than their voxels maps take in memory: their rows and planes are kept off powers of two."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A training on patches of one size.

    Attributes
    ----------
    patch : (z, y, x)
        The largest; it is clipped in each volume to what there is.
    depth : int
        Asked for, or what the budget trains well.
    seconds_per_step : float
        Continued from the steps of two smaller depths; the mean over the volumes.
    steps : int
        In the budget.
    bytes : int
        Of maps and their gradients.
    """

    patch: Index
    depth: int
    seconds_per_step: float
    steps: int
    bytes: int

    @property
    def suffices(self) -> bool:
        """Whether there are steps enough to be worth the depth."""
        return self.steps >= STEPS_PER_LAYER * self.depth

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "patch": list(self.patch), "suffices": self.suffices}


def plan_training(
    pairs: Sequence[tuple[str | Path, str | Path]],
    options: Options,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> list[Choice]:
    """Measure steps on patches of several sizes, or of the one asked for; nothing is trained or written.

    The first choice is what :func:`medhpc.train.msd.train_msd` would do with these options.
    """
    chosen = engines.load(Identity(), device=device, threads=threads).device
    with ExitStack() as files:
        examples = open_examples(pairs, options, minimum_shape(options), files)
        tried = [options.patch] if options.patch else [default_patch(options.ndim), *PATCHES[options.ndim]]
        wanted = {largest_patch(examples, patch): patch for patch in reversed(tried)}  # each once
        return [_choice(examples, options, patch, chosen) for patch in reversed(wanted.values())]


def bytes_kept(pairs: Sequence[tuple[str | Path, str | Path]], options: Options) -> int:
    """Memory for volumes and truths while a network is trained on them; only their headers are read."""
    found = 0
    for path, _ in pairs:
        with open_volume(path) as volume:
            found += region_of(volume, options).size * (volume.channels * volume.dtype.itemsize + 1)
    return 2 * min(found, CACHE_BYTES)  # what is read is there twice for a moment


def bytes_of_maps(pairs: Sequence[tuple[str | Path, str | Path]], options: Options) -> int:
    """At most: maps and gradients of a step, or the maps of what is held out; only headers are read."""
    found = 0
    for path, _ in pairs:
        with open_volume(path) as volume:
            shape = region_of(volume, options).shape
            wanted = options.patch or default_patch(options.ndim)
            step = 2 * math.prod(min(n, length) for n, length in zip(wanted, shape, strict=True))
            judged = min(math.prod(shape), MOST_JUDGED) if options.validation else 0
            found = max(found, _bytes(volume.channels, options.depth or DEPTHS[-1], options, max(step, judged)))
    return found


def largest_patch(examples: Sequence[Example], wanted: Index) -> Index:
    """Of what the wanted patch becomes in each volume."""
    return max((patch_of(example, wanted) for example in examples), key=math.prod)


def mean_step(examples: Sequence[Example], options: Options, wanted: Index, device: torch.device) -> StepTime:
    """Measure the largest patch; thin volumes, which are drawn as often, have smaller ones that take their part."""
    step = measure_step(largest_patch(examples, wanted), device, network_numbers(examples, options))
    sizes = [math.prod(patch_of(example, wanted)) for example in examples]
    return replace(step, seconds=step.seconds * sum(sizes) / len(sizes) / max(sizes))


def choose_depth(examples: Sequence[Example], options: Options, wanted: Index, device: torch.device) -> int:
    """The depth asked for, or what the budget trains well on this machine."""
    if options.depth is not None:
        return options.depth
    if options.seconds is None:
        return depth_for_steps(options.steps or 0)
    return depth_for_seconds(options.seconds, mean_step(examples, options, wanted, device))


def network_numbers(examples: Sequence[Example], options: Options) -> dict[str, int]:
    """The numbers of the network to be, but its depth."""
    return {
        "in_channels": examples[0].volume.channels,
        "out_channels": len(options.class_names),
        "width": options.width,
        "ndim": options.ndim,
    }


def _choice(examples: Sequence[Example], options: Options, wanted: Index, device: torch.device) -> Choice:
    patch, step = largest_patch(examples, wanted), mean_step(examples, options, wanted, device)
    depth = options.depth or _depth(options, step)
    seconds = step.at(depth)
    return Choice(
        patch=patch,
        depth=depth,
        seconds_per_step=seconds,
        steps=options.steps or round((options.seconds or 0) / seconds),
        bytes=_bytes(examples[0].volume.channels, depth, options, 2 * math.prod(patch)),
    )


def _bytes(channels: int, depth: int, options: Options, voxels: int) -> int:
    """Of all maps of a network, in float32."""
    return round(PADDING * 4 * (channels + depth * options.width) * voxels)


def _depth(options: Options, step: StepTime) -> int:
    if options.seconds is None:
        return depth_for_steps(options.steps or 0)
    return depth_for_seconds(options.seconds, step)
