"""How fast a training learns as its budget is spent, and when it ends before that.

The learning rate rises over a few steps, then falls to zero as half a cosine over the budget::

    rate  |  .-----.___         as planned
          | .          --_
          |.              -_
          |                | -_
          |   ended early: |    -_
          |                 .      --__
          +------------------'---------'---> spent
          0            0.5 stalled     1

The last part, at a low rate, gives some of the quality: a training that stalls does not end there, but its rate falls
to zero within the time of `COOL_DOWN` judgements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from medhpc.train.checkpoint import DICE_NOISE, State

LEARNING_RATE = 1e-2
WARM_UP_STEPS = 20
JUDGEMENTS = 20
"""How often the network is judged on what is held out, evenly over the budget."""
COOL_DOWN = 2
"""Judgements from stalling to the end."""
LOSS_NOISE = 0.01
"""Of the least held-out loss: a smaller fall is none."""

RISEN = 1.5
"""Times the least held-out loss, from which a training that stalls is said to overfit."""

Entry = Mapping[str, float]


def set_learning_rate(state: State, spent: float) -> None:
    """Set the rate of the next step; `spent` is the share of the budget that is spent."""
    warmth = min(1.0, (state.step + 1) / WARM_UP_STEPS)
    for group in state.optimizer.param_groups:
        group["lr"] = LEARNING_RATE * warmth * rate_at(spent, stalled_at(state))


def rate_at(spent: float, stalled: float | None = None) -> float:
    """Share of the highest rate, by the share of the budget that is spent now, and that was spent at stalling."""
    if stalled is None:
        return _half_cosine(spent)
    return _half_cosine(stalled) * _half_cosine(min(1.0, (spent - stalled) * JUDGEMENTS / COOL_DOWN))


def end_of(state: State) -> float:
    """Share of the budget at which the training ends."""
    stalled = stalled_at(state)
    return 1.0 if stalled is None else min(1.0, stalled + COOL_DOWN / JUDGEMENTS)


def stalled_at(state: State) -> float | None:
    """Share of the budget at which the training stalled."""
    return None if state.stalled_entry < 0 else state.history[state.stalled_entry]["spent"]


def is_judged(state: State, spent: float) -> bool:
    """Whether a judgement is due: evenly over the budget, and at the end."""
    return spent >= min((len(state.history) + 1) / JUDGEMENTS, end_of(state))


def has_stalled(history: Sequence[Entry], patience: int) -> bool:
    """Whether so many judgements in a row have bettered neither Dice nor loss, in the second half of the budget.

    Dice is bettered by more than `DICE_NOISE`, loss by more than `LOSS_NOISE` of itself; many small steps forward count
    once they are more together. In the first half, where the rate is high, both jump: it is never cut short.
    """
    return history[-1]["spent"] >= 0.5 and len(history) - 1 - last_progress(history) >= patience


def why_stalled(state: State) -> str:
    """Why a training ends before its budget is spent; empty where it does not."""
    if state.stalled_entry < 0:
        return ""
    history = state.history[: state.stalled_entry + 1]
    since = len(history) - 1 - last_progress(history)
    text = f"no better Dice or loss on the held-out slab in {since} judgements up to step {history[-1]['step']:,}"
    least, now = min(entry["validation_loss"] for entry in history), history[-1]["validation_loss"]
    return text + (f"; its loss rose from {least:.3g} to {now:.3g} (overfitting)" if now > RISEN * least else "")


def last_progress(history: Sequence[Entry]) -> int:
    """The judgement that was the last to better what the others had reached."""
    last, dice, loss = 0, history[0]["dice"], history[0]["validation_loss"]
    for number, entry in enumerate(history):
        if entry["dice"] > dice + DICE_NOISE or entry["validation_loss"] < (1 - LOSS_NOISE) * loss:
            last = number
            dice, loss = max(dice, entry["dice"]), min(loss, entry["validation_loss"])
    return last


def _half_cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
