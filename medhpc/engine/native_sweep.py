"""A sweep of the compiled kernel as the engine ``native`` runs it: by itself, or on ranks that share the rows.

As soon as a layer has computed its planes of a step, a rank gives the outer rows to its neighbours, once, and puts in
theirs, which later layers read. The rows of the input go the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from medhpc.geometry import Index
from medhpc.kernel import KernelNetwork, KernelSweep, SweepShape
from medhpc.ranks.group import Ranks
from medhpc.ranks.halo import Cut, Halo

ROWS = 2  # the axis of (channels, planes, y, x) along which ranks share planes


def rows_of_neighbours(kernel: KernelNetwork, ranks: Ranks) -> Halo:
    """Those that a rank keeps beside its own: as many as the largest dilation."""
    reach = max(kernel.architecture.dilations)
    return Cut(ranks=ranks, axis=ROWS).halo(reach, reach, "none")


def swept(
    kernel: KernelNetwork,
    steps: Iterator[np.ndarray],
    shape: Index,
    kind: str,
    step: int,
    threads: int,
    ranks: Ranks,
) -> Iterator[np.ndarray]:
    """See :meth:`medhpc.engine.Engine.sweep`; what is given has the planes of a step each."""
    halo = rows_of_neighbours(kernel, ranks)
    sweep = kernel.sweep(SweepShape(shape=shape, step=step, ghosts=halo.here), kind, threads)
    for _ in range(sweep.steps):
        planes = next(steps, None)
        finished = sweep.advance(planes) if ranks.size == 1 else _advance(sweep, planes, halo)
        if finished.size:
            yield finished


def _advance(sweep: KernelSweep, planes: np.ndarray | None, halo: Halo) -> np.ndarray:
    if planes is not None:
        below, above = _given(planes, halo)
        planes = np.concatenate([below, planes, above], ROWS)
    sweep.begin(planes)
    for layer in range(sweep.layers):
        sweep.layer(layer)
        start, stop = sweep.planes(layer)
        if start < stop and layer + 1 < sweep.layers:  # all ranks compute the same planes
            edges = np.concatenate(sweep.edge_rows(layer), ROWS)
            sweep.put_ghosts(layer, *_given(edges, halo))
    return sweep.finish()


def _given(rows: np.ndarray, halo: Halo) -> tuple[np.ndarray, np.ndarray]:
    """Give our outer rows to the neighbours; theirs below and above."""
    below, above = halo.begin(torch.from_numpy(np.ascontiguousarray(rows)))()
    return below.numpy(), above.numpy()
