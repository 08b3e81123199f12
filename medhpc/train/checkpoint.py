"""Everything that a killed training needs to go on exactly as if it had not been killed; no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medhpc.errors import BadOption
from medhpc.nets.files import read_tensors, write_tensors
from medhpc.nets.msd import MSD
from medhpc.train.judge import Judgement

VERSION = 2

DICE_NOISE = 0.005
"""A held-out slab tells no smaller differences apart."""


@dataclass(kw_only=True)
class State:
    """A training between two steps.

    Attributes
    ----------
    step : int
        Steps done.
    seconds : float
        Time used, over all attempts.
    loss_sum, loss_steps
        Training loss since the last judgement.
    history : list of dict
        One entry per judgement: step, seconds, spent, loss, validation_loss, dice.
    best : dict
        Weights of the best judgement so far, and `best_entry` its place in `history` (-1: none yet).
    stalled_entry : int
        Place in `history` of the judgement that ended the training early (-1: none).
    """

    network: MSD
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_entry: int = -1
    stalled_entry: int = -1

    def add_loss(self, loss: float) -> None:
        """Count the loss of a step."""
        self.loss_sum += loss
        self.loss_steps += 1

    def enter(self, judgement: Judgement, spent: float) -> None:
        """Put a judgement into the history, and keep the weights unless earlier ones were better.

        Those of the first half of the budget give way to any later ones: a network that has just begun can have a
        fair Dice by chance. Later ones are kept until one comes that is hardly worse (`DICE_NOISE`), for it has
        learnt longer. `spent` is the share of the budget that is spent.
        """
        counted = [entry["dice"] for entry in self.history if entry["spent"] >= 0.5]
        loss = self.loss_sum / max(1, self.loss_steps)
        self.loss_sum, self.loss_steps = 0.0, 0
        entry = {"step": self.step, "seconds": self.seconds, "spent": spent, "loss": loss}
        self.history.append({**entry, "validation_loss": judgement.loss, "dice": judgement.dice})
        if counted and judgement.dice < max(counted) - DICE_NOISE:
            return
        self.best_entry = len(self.history) - 1
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}


def checkpoint_path(out: Path) -> Path:
    """Where the state of the training of `out` is kept until it is finished."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def save_checkpoint(state: State, out: Path, identity: Mapping[str, Any]) -> None:
    """Write the state aside and rename it; `identity` tells trainings apart."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in values.items()}
    about = {
        "checkpoint_version": VERSION,
        "identity": dict(identity),
        "depth": state.network.depth,
        "step": state.step,
        "seconds": state.seconds,
        "loss_sum": state.loss_sum,
        "loss_steps": state.loss_steps,
        "history": state.history,
        "best_entry": state.best_entry,
        "stalled_entry": state.stalled_entry,
        "scaler": state.scaler.state_dict(),
    }
    write_tensors(checkpoint_path(out), tensors, about)


def saved_depth(out: Path, identity: Mapping[str, Any]) -> int | None:
    """Depth of the network in the checkpoint; None where there is no checkpoint.

    Raises
    ------
    BadOption
        It belongs to a training with other options or volumes, or to another version of medhpc.
    """
    path = checkpoint_path(out)
    if not path.exists():
        return None
    _, about = read_tensors(path)
    if (version := about.get("checkpoint_version")) != VERSION:
        raise BadOption(
            f"{path} was written by another version of medhpc (checkpoint {version}, this one goes on from {VERSION}); "
            "go on with that version, or begin anew with --no-resume"
        )
    other = about["identity"]
    changed = sorted(key for key in {*identity, *other} if identity.get(key) != other.get(key))
    if changed:
        raise BadOption(
            f"{path} belongs to a training that differs in {', '.join(changed)}; repeat that one's options to go on "
            "with it, remove the file to begin anew, or write to another place"
        )
    return int(about["depth"])


def restore(state: State, out: Path) -> None:
    """Bring a fresh state to where the checkpoint was."""
    tensors, about = read_tensors(checkpoint_path(out))
    state.network.load_state_dict(_part(tensors, "network."))
    device = next(state.network.parameters()).device
    state.best = {name: tensor.to(device) for name, tensor in _part(tensors, "best.").items()}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(tensors, "adam.").items():
        number, name = key.split(".")
        moments.setdefault(int(number), {})[name] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.scaler.load_state_dict(about["scaler"])
    for name in ("step", "seconds", "loss_sum", "loss_steps", "history", "best_entry", "stalled_entry"):
        setattr(state, name, about[name])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
