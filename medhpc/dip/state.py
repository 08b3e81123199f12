"""All that the descent of one image remembers between two steps, and how it is kept on disk; no pickle."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medhpc.dip.share import Share
from medhpc.nets.files import Streamed, read_tensors, write_tensors
from medhpc.nets.skip import Skip
from medhpc.ranks.group import Ranks

SMOOTHING = 0.99
"""Of the output's running average, which is the result: 1 dB better than the last iterate."""
EMV_SMOOTHING = 0.9
"""Of mean and variance by which ES-EMV stops (Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023)."""

IMAGES = ("average", "emv_mean", "best", "kept_average")
NUMBERS = ("iteration", "seconds", "emv", "best_value", "best_iteration", "kept_fit", "restores", "history")


@dataclass(kw_only=True)
class State:
    """A descent between two steps: what is learnt is the same on all ranks, of images each has its own planes.

    Attributes
    ----------
    share : Share
        Which planes these are.
    iteration : int
        Steps done.
    seconds : float
        Time used, over all attempts.
    loss : float
        Mean squared distance of the last output from the image.
    average : Tensor or None
        Running mean of the outputs.
    emv_mean, emv
        Mean of the outputs and their variance around it, both forgetting faster.
    best, best_value, best_iteration
        The average that the stopping rule likes most so far.
    kept : dict
        Weights and moments to which a sudden loss of quality goes back, `kept_average` and `kept_fit` with them.
    restores : int
        How often that happened.
    history : list of dict
    """

    network: Skip
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    share: Share
    iteration: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    average: Tensor | None = None
    emv_mean: Tensor | None = None
    emv: float = 0.0
    best: Tensor | None = None
    best_value: float = math.inf
    best_iteration: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    kept_average: Tensor | None = None
    kept_fit: float = -math.inf
    restores: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, output: Tensor) -> None:
        """Take an output into the averages; the first hundred weigh the same."""
        if self.average is None or self.emv_mean is None:
            self.average, self.emv_mean, self.emv = output.clone(), output.clone(), 0.0
            return
        self.average.lerp_(output, max(1 - SMOOTHING, 1 / (self.iteration + 1)))
        distance = self.share.mean((output - self.emv_mean).square())
        self.emv = EMV_SMOOTHING * (self.emv + (1 - EMV_SMOOTHING) * distance)
        self.emv_mean.lerp_(output, 1 - EMV_SMOOTHING)

    def prefer(self, value: float) -> None:
        """Take the average as the best one if `value` is below those before."""
        assert self.average is not None
        if value < self.best_value:
            self.best, self.best_value, self.best_iteration = self.average.clone(), value, self.iteration

    def keep(self, fit: float) -> None:
        """Remember where we are, to come back."""
        self.kept = {name: tensor.clone() for name, tensor in self._learnt().items()}
        self.kept_average = None if self.average is None else self.average.clone()
        self.kept_fit = fit

    def go_back(self) -> None:
        """To what was remembered; iterations go on, so that the noise is another."""
        self._learn(self.kept)
        self.average = None if self.kept_average is None else self.kept_average.clone()
        self.restores += 1

    def _learnt(self) -> dict[str, Tensor]:
        """Weights and Adam's moments by name."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in values.items()}
        return tensors

    def _learn(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(_part(tensors, "network."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _part(tensors, "adam.").items():
            number, name = key.split(".")
            moments.setdefault(int(number), {})[name] = tensor.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write everything into one safetensors file, aside first and then renamed: the first rank does, images whole.

        So it can be read by any number of ranks; no more than a piece of an image is in memory for it.
        """
        ours = {name: image for name in IMAGES if (image := getattr(self, name)) is not None}
        streamed = {f"image.{name}": self.share.streamed(image) for name, image in ours.items()}
        tensors = self._learnt() | {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        numbers = {name: getattr(self, name) for name in NUMBERS}
        about = {"identity": dict(identity), "scaler": self.scaler.state_dict(), **numbers}
        write_together(path, tensors, about, streamed, self.share.ranks)

    def restore(self, path: Path) -> None:
        """Bring a fresh state to where the file was written."""
        axis, planes = self.share.axis, self.share.own.of(self.share.ranks.rank)
        ours = (*[slice(None)] * (axis + 2), slice(planes.start, planes.stop))
        with self.share.ranks.agreed():
            tensors, about = read_tensors(path, {f"image.{name}": ours for name in IMAGES})
        device = next(self.network.parameters()).device
        self._learn(_part(tensors, "network.", keep=True) | _part(tensors, "adam.", keep=True))
        self.kept = {name: tensor.to(device) for name, tensor in _part(tensors, "kept.").items()}
        for name, image in _part(tensors, "image.").items():
            setattr(self, name, image.to(device))
        self.scaler.load_state_dict(about["scaler"])
        for name in NUMBERS:
            setattr(self, name, copy.deepcopy(about[name]))


def write_together(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], streamed: Mapping[str, Streamed], ranks: Ranks
) -> None:
    """Let the first rank write what all ranks have parts of; where it cannot, the others still give theirs."""
    with ranks.agreed():
        try:
            if ranks.is_first:
                write_tensors(path, tensors, about, streamed)
        finally:
            for each in streamed.values():
                for _ in each.pieces:
                    pass


def _part(tensors: Mapping[str, Tensor], prefix: str, *, keep: bool = False) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, which is taken off unless kept."""
    chosen = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return chosen if keep else {name.removeprefix(prefix): tensor for name, tensor in chosen.items()}
