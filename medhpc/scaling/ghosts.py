"""What the neighbours' rows cost a rank: they are taken, put in, and transformed with its own, though not computed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.imagined import ImaginedRanks

if TYPE_CHECKING:
    from medhpc.engine import Engine

WIDEST, STEPS, ROUNDS = 192, 3, 3


def cost_of_ghosts(engine: Engine, width: int, step: int) -> float:
    """Measured on a small block: seconds of a neighbour's row, in those of a row of its own.

    Parameters
    ----------
    engine : Engine
        It sweeps this network.
    width : int
        Of a row, in voxels.
    step : int
        Planes of a step.
    """
    reach = max(engine.network.dilations)
    rows = max(32, 2 * reach)
    shape = (STEPS * step, rows, min(width, WIDEST))
    times: dict[int, float] = {}
    for _ in range(ROUNDS):  # in turn, so that what else the machine does hits both alike
        for ranks in (ALONE, ImaginedRanks(1, 3)):
            times[ranks.size] = min(times.get(ranks.size, np.inf), _seconds(engine, shape, step, ranks))
    return max(0.0, times[3] / times[1] - 1) * rows / (2 * reach)


def _seconds(engine: Engine, shape: tuple[int, int, int], step: int, ranks: Ranks) -> float:
    """Of a sweep over zeros."""
    clock = time.process_time if engine.device.type == "cpu" else time.perf_counter
    blocks = (np.zeros((engine.network.in_channels, step, *shape[1:]), np.float32) for _ in range(STEPS))
    began = clock()
    for _ in engine.sweep(blocks, shape, "probability", step, ranks):
        pass
    return clock() - began
