"""Boxes, columns or a sweep: what each computes, keeps and sends; measured, and modelled for large volumes.

    python -m benchmarks.schemes [--depths 30 85] [--size 192,128,128] [--memory 64]

Measured: a network of random weights on a volume of noise, in one thread, by `infer`'s engine: boxes with a halo of 32
and with the exact one, columns with a halo of 32, and the sweep; processor seconds, and how the model (voxels computed,
times what a voxel costs in a block) compares. All are compared with the un-tiled result.

Modelled: cubes of 256 to 4096 voxels along each edge, tasks with so much memory, 1 to 64 ranks: voxels computed for
each voxel kept, memory of a task, hours of a thread, and what ranks send each other.

Claims: the sweep is exact but for rounding, computes each voxel once, and costs within 1.3 times what the model says.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import options, publish, table
from medhpc import engine as engines
from medhpc.geometry import Box, Grid, Index
from medhpc.nets import MSD
from medhpc.run.plan import BASE, Cost, Halo, Stored
from medhpc.scaling.shares import shares_of_rows
from medhpc.tiling.halo import exact_halo
from medhpc.tiling.schemes import Sweeping, boxes
from medhpc.tiling.size import choose_tile

HALO = 32
EDGES = (256, 512, 1024, 2048, 4096)
RANKS = (1, 4, 16, 64)
STORED = Stored(kind="probability", dtype="uint8", channels=1, chunk=(0, 0, 0), shard=(0, 0, 0))


def main() -> None:
    arguments = _arguments()
    found: dict[str, Any] = {}
    for depth in arguments.depths:
        engine = engines.load(network(depth), device="cpu", threads=1)
        cost = cost_of(engine, arguments.memory * 2**30)
        measured = list(measure(engine, arguments.size, arguments.rounds))
        modelled = [row for edge in arguments.edges for row in model(engine, edge, cost)]
        over_ranks = [row for edge in arguments.edges for row in ranks_of(engine, edge, cost)]
        found[f"depth {depth}"] = {
            "engine": engine.name,
            "seconds_per_voxel": cost.seconds_per_voxel,
            "measured": measured,
            "modelled": modelled,
            "ranks": over_ranks,
        }
        print(f"\ndepth {depth}, engine {engine.name}, {1e9 * cost.seconds_per_voxel:.0f} ns a voxel and thread")
        for rows in (measured, modelled, over_ranks):
            print(table(tuple(rows[0]), [tuple(map(_text, row.values())) for row in rows]) + "\n")
    publish(arguments.results, "schemes", {"size": arguments.size, "memory_gib": arguments.memory, **found})


def network(depth: int) -> MSD:
    """Random weights that keep the numbers in range."""
    torch.manual_seed(0)
    made = MSD(1, 2, depth).eval().requires_grad_(False)
    torch.nn.init.normal_(made.head_weight, std=0.3)
    return made


def cost_of(engine: engines.Engine, memory: int) -> Cost:
    measured = engine.measure(1)
    return Cost(
        seconds_per_voxel=measured.seconds_per_voxel,
        bytes_per_voxel=measured.bytes_per_voxel,
        memory=memory,
        block_voxels=int((memory - BASE) / (measured.bytes_per_voxel + 4)),
        engine=engine.name,
        device="cpu",
        threads=1,
    )


# --- measured ------------------------------------------------------------------------------------


def measure(engine: engines.Engine, size: Index, rounds: int) -> Iterator[dict[str, Any]]:
    """Each way to compute a volume of this size, against all of it at once."""
    volume = np.random.default_rng(0).normal(size=(1, *size)).astype(np.float32)
    whole, seconds = timed(lambda: engine(volume, "probability"), rounds)
    yield {"scheme": "un-tiled", "computed / kept": 1.0, "seconds": seconds, "of the model": 1.0, "error": 0.0}
    per_voxel = seconds / whole[0].size
    radius, tile = (
        max(engine.network.receptive_radius),
        (max(32, size[0] // 2), max(32, size[1] // 2), max(32, size[2] // 2)),
    )
    ways: dict[str, tuple[Index, Index]] = {
        f"boxes, halo {HALO}": ((HALO,) * 3, tile),
        "boxes, exact": ((radius,) * 3, tile),
        f"columns, halo {HALO}": ((radius, HALO, HALO), (size[0], *tile[1:])),
        "sweep": ((radius,) * 3, size),
    }
    for name, (halo, written) in ways.items():
        grid = Grid(size, written, halo, Box.whole(size))
        compute = in_boxes if name.startswith("boxes") else in_columns
        result, seconds = timed(partial(compute, engine, volume, grid), rounds)
        yield {
            "scheme": name,
            "computed / kept": grid.read_amplification,
            "seconds": seconds,
            "of the model": seconds / (per_voxel * grid.read_voxels()),
            "error": float(np.abs(result - whole).max()),
        }


def in_boxes(engine: engines.Engine, volume: np.ndarray, grid: Grid) -> np.ndarray:
    result = np.empty(volume.shape, np.float32)
    for tile in grid:
        read = np.ascontiguousarray(volume[(slice(None), *tile.read.slices)])
        result[(slice(None), *tile.write.slices)] = engine(read, "probability", tile.write.relative_to(tile.read))
    return result


def in_columns(engine: engines.Engine, volume: np.ndarray, grid: Grid) -> np.ndarray:
    result = np.empty(volume.shape, np.float32)
    step = engine.sweep_step
    for tile in grid:
        read = volume[(slice(None), *tile.read.slices)]
        blocks = (read[:, z : z + step] for z in range(0, read.shape[1], step))
        finished = np.concatenate(list(engine.sweep(blocks, tile.read.shape, "probability", step)), axis=1)
        result[(slice(None), *tile.write.slices)] = finished[(slice(None), *tile.write.relative_to(tile.read).slices)]
    return result


def timed(call: Callable[[], np.ndarray], rounds: int) -> tuple[np.ndarray, float]:
    """What it returns, and the least processor seconds of some calls."""
    least = math.inf
    for _ in range(rounds):
        began = time.process_time()
        result = call()
        least = min(least, time.process_time() - began)
    return result, least


# --- modelled ------------------------------------------------------------------------------------


def model(engine: engines.Engine, edge: int, cost: Cost) -> Iterator[dict[str, Any]]:
    """Each scheme on a cube, on tasks of the memory in `cost`."""
    volume, region = (edge,) * 3, Box.whole((edge,) * 3)
    approximate = Halo(size=(HALO,) * 3, how="given", tolerance=0.0)
    exact = exact_halo(engine.network, max(engine.network.receptive_radius))
    sweeping = sweeping_of(engine, volume, cost)
    rows = []
    for halo in (approximate, exact):
        voxels, seconds = cost.block_voxels, cost.seconds_per_voxel
        tile = choose_tile(volume, region, halo.size, block_voxels=voxels, seconds_per_voxel=seconds)
        rows.append(boxes(Grid(volume, tile, halo.size, region), halo, cost))
    rows += [sweeping.scheme("columns", halo) for halo in (approximate, exact)] + [sweeping.scheme("sweep", exact)]
    for row in rows:
        yield {
            "cube": edge,
            "scheme": row.name + (", exact" if row.exact else f", halo {HALO}"),
            "computed / kept": row.computed / region.size,
            "tasks at most": len(Grid(volume, row.column, (0, 0, 0), region)),
            "GiB a task": row.bytes / 2**30,
            "fits": row.fits,
            "PFLOP": engine.network.n_flops(row.computed) / 1e15,
            "thread hours": row.computed * cost.seconds_per_voxel / 3600,
        }


def sweeping_of(engine: engines.Engine, volume: Index, cost: Cost) -> Sweeping:
    """A volume of 16-bit numbers in one channel, of which nothing but the shape is looked at."""
    made: Any = SimpleNamespace(shape=volume, channels=1, dtype=np.dtype(np.uint16))
    return Sweeping(
        engine=engine,
        volume=made,
        region=Box.whole(volume),
        stored=STORED,
        memory=cost.memory,
        seconds_per_voxel=cost.seconds_per_voxel,
    )


def ranks_of(engine: engines.Engine, edge: int, cost: Cost) -> Iterator[dict[str, Any]]:
    """The sweep of a cube by several ranks of one thread each, of which each has some rows."""
    net = engine.network
    for ranks in RANKS:
        if ranks > 1 and edge // ranks < max(net.dilations):
            continue
        shares = shares_of_rows((edge,) * 3, net, engine.sweep_step, ranks)
        rows = max(share.pixels for share in shares) // edge  # with the neighbours'
        plane = dataclasses.replace(sweeping_of(engine, (edge, rows, edge), cost), memory=2**60)
        scheme = plane.scheme("sweep", exact_halo(net, max(net.receptive_radius)))
        yield {
            "cube": edge,
            "ranks": ranks,
            "GiB a rank": scheme.bytes / 2**30,
            "hours": max(share.computed for share in shares) * cost.seconds_per_voxel / 3600,
            "GB sent by a rank": max(share.sent for share in shares) / 1e9,
        }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2g}" if value < 0.01 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"
    return str(value)


def _arguments() -> Any:
    parser = options(__doc__, size="192,128,128", rounds=2)
    parser.add_argument("--depths", type=int, nargs="+", default=[30, 85], help="of the networks (default 30 85)")
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES, help="of the cubes that are modelled")
    parser.add_argument("--memory", type=int, default=64, help="GiB of a task, in the model (default 64)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
