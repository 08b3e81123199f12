"""What a training tells: how it stands, and what came of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a training stands after a judgement; ``str()`` is one line for people.

    Losses are mean cross-entropies (`loss` over the patches since the last judgement), `dice` that of the held-out
    slab; `steps` in all and `seconds_left` are estimates where the budget is a time.
    """

    step: int
    steps: int
    seconds: float
    seconds_left: float
    loss: float
    validation_loss: float
    dice: float

    def __str__(self) -> str:
        minutes = self.seconds_left / 60
        left = f"{minutes:.1f} min left" if minutes >= 1 else f"{self.seconds_left:.0f} s left"
        return f"step {self.step} of {self.steps}  loss {self.loss:.4f}  validation Dice {self.dice:.3f}  {left}"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came of a training.

    Attributes
    ----------
    network, curve, slices : Path
        Files written; `slices` is None where nothing was held out.
    depth, width, ndim, parameters, receptive_radius
        Of the network.
    steps, seconds, seconds_per_step
        Taken in all, over all attempts.
    resumed_at : int
        Steps that an earlier, interrupted attempt had done.
    best_step : int
        After how many steps the kept weights were the best on the held-out slab.
    stalled : str
        Why it ended before its budget was spent; empty where it did not.
    loss, validation_loss, dice : float
        At that step; NaN where nothing was held out.
    device, precision : str
        Where and in what numbers it was computed.
    """

    network: Path
    curve: Path
    slices: Path | None
    depth: int
    width: int
    ndim: int
    parameters: int
    receptive_radius: int
    steps: int
    seconds: float
    seconds_per_step: float
    resumed_at: int
    best_step: int
    stalled: str
    loss: float
    validation_loss: float
    dice: float
    device: str
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them; NaN becomes None."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}
