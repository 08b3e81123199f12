"""What each rank or task of a run does: integers only.

Ranks share the rows (y) of a column's planes. Of the input and of each map, but for those of the last layer, a rank
gives its outer rows to its neighbours, as many as the largest dilation; finished planes go to the first rank::

    rank 0   | . . . . . . . g |                rank 1 sends it 2 g of each plane of each map, and the finished rows
    rank 1             | g . . . . . g |        inner ranks send to two neighbours
    rank 2                       | g . . . . |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from medhpc.geometry import Index
from medhpc.infer.columns import stretches
from medhpc.nets import MSD
from medhpc.nets.frontiers import Frontiers
from medhpc.ranks.slabs import divide
from medhpc.run import Plan, select


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank or task does.

    Attributes
    ----------
    computed, read, written : int
        Voxels.
    ghosts : int
        Voxels of the neighbours' rows.
    sent, received : int
        Bytes.
    exchanges : int
        How often.
    pixels : int
        Of a plane that streams through, with the neighbours' rows: memory is proportional to them. 0 for boxes.
    """

    computed: int
    read: int
    written: int
    ghosts: int = 0
    sent: int = 0
    received: int = 0
    exchanges: int = 0
    pixels: int = 0


def shares_of_rows(
    shape: Index, network: MSD, step: int, ranks: int, *, written: int = 0, stored: int = 1
) -> list[Share]:
    """What ranks do that share the rows of one column.

    Parameters
    ----------
    shape : (z, y, x)
        Of what is read of the column.
    network : MSD
    step : int
        Planes of a step.
    ranks : int
    written : int
        Voxels that are kept of the column.
    stored : int
        Bytes of a voxel's result.

    Raises
    ------
    BadOption
        Too many ranks for the rows.
    """
    z, y, x = shape
    reach = max(network.dilations)
    bounds = divide(y, ranks, least=reach if ranks > 1 else 1, what="rows").all()
    layers, frontiers = range(-1, network.depth - 1), Frontiers.of(network, step)
    maps = network.in_channels + network.width * (network.depth - 1)
    turns = [_turns(frontiers, layer, z) for layer in (*layers, network.depth - 1)] if ranks > 1 else [0]
    found = []
    for rank, rows in enumerate(bounds):
        neighbours = (rank > 0) + (rank + 1 < ranks)
        faces = 4 * maps * z * x * reach * neighbours
        first, others = rank == 0, (y - len(rows)) * z * x * stored
        own = 0 if first else len(rows) * z * x * stored
        found.append(
            Share(
                computed=z * len(rows) * x,
                read=z * len(rows) * x,
                written=written if first else 0,
                ghosts=z * reach * neighbours * x,
                sent=faces + own,
                received=faces + (others if first else 0),
                exchanges=sum(turns),
                pixels=(len(rows) + reach * neighbours) * x,
            )
        )
    return found


def shares_of_ranks(plan: Plan, network: MSD, ranks: int) -> list[Share]:
    """What each rank does for all columns of a plan.

    Raises
    ------
    BadOption
        Too many ranks for the rows.
    """
    assert plan.sweep
    stored = plan.stored.channels * np.dtype(plan.stored.dtype).itemsize
    columns = [
        shares_of_rows(column.read.shape, network, plan.sweep.step, ranks, written=column.write.size, stored=stored)
        for column in plan.columns
    ]
    return [_together(of_rank) for of_rank in zip(*columns, strict=True)]


def shares_of_tasks(plan: Plan, tasks: int, around: int = 0) -> list[Share]:
    """What each of several tasks does (``--task K/N``); `around` as :func:`medhpc.infer.columns.stretches` has it."""
    chosen = [select(len(plan.grid), f"{task}/{tasks}") for task in range(1, tasks + 1)]
    if plan.sweep:
        return [_of_columns(plan, tiles, around) for tiles in chosen]
    amplified = plan.computed_voxels / sum(plan.read_box(tile).size for tile in plan.grid)
    return [_of_boxes(plan, tiles, amplified) for tiles in chosen]


def _of_boxes(plan: Plan, chosen: range, amplified: float) -> Share:
    """`amplified`: voxels computed for each voxel read, where tiles are computed in parts or windows."""
    tiles = [plan.grid[index] for index in chosen]
    read = sum(plan.read_box(tile).size for tile in tiles)
    return Share(computed=round(read * amplified), read=read, written=sum(tile.write.size for tile in tiles))


def _of_columns(plan: Plan, chosen: range, around: int) -> Share:
    swept = stretches(plan, chosen, around)
    read = sum(stretch.read.size for stretch in swept)
    return Share(
        computed=read,
        read=read,
        written=sum(tile.write.size for stretch in swept for tile in stretch.tiles),
        pixels=max((stretch.read.shape[1] * stretch.read.shape[2] for stretch in swept), default=0),
    )


def _together(shares: Iterable[Share]) -> Share:
    """One after the other: sums, but for the memory."""
    each = list(shares)
    sums = {field.name: sum(getattr(share, field.name) for share in each) for field in fields(Share)}
    return Share(**sums | {"pixels": max(share.pixels for share in each)})


def _turns(frontiers: Frontiers, layer: int, depth: int) -> int:
    """Steps in which a layer has planes."""
    return sum(len(frontiers.planes(layer, number, depth)) > 0 for number in range(frontiers.steps(depth)))
