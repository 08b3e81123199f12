"""The volume that medhpc was made for: 2304 x 1280 x 1024 voxels, an MS-D network of 100,000 parameters, on CPUs.

A part of it goes through tile, infer and stitch on this machine, in two tiles, with three halos. The processor time of
infer is scaled to the voxels that the tiles of the whole volume compute on one node (as `medhpc tile` would choose them
for its memory), that of stitch to the voxels of the whole volume, and both are divided by the node's cores: these are
taken to be like the ones here, and to add up as two of them do in `benchmarks.engine`. What planning takes is added as
it is.

Published in 2019 for this volume and a network of that size: 480 s on 30 V100, 5000 s on 80 hyperthreads a task, and
16 PFLOP, which are 27 times what the network takes for each voxel once: most of that was overlap. So every figure here
names its halo, and how often a voxel is computed.

Claim: under 200 s on one node of 40 cores, at the halo of 32 voxels (a trained network of this kind flips 10 labels in
a million there, and none at 48).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.child import in_child
from benchmarks.measure import alternate, options, publish, table
from benchmarks.volumes import write_cells
from medhpc.geometry import Box, Index
from medhpc.infer import infer
from medhpc.nets import MSD
from medhpc.run import Plan
from medhpc.stitch import stitch
from medhpc.tiling import tile
from medhpc.tiling.size import block_voxels, choose_tile
from medhpc.volume import open_volume

SEED: Index = (2304, 1280, 1024)
DEPTH = 85
CLAIM = 200.0  # seconds
PUBLISHED = {"30 V100": 480.0, "80 hyperthreads a task": 5000.0}  # seconds; 16 PFLOP


@dataclass(frozen=True, kw_only=True)
class Node:
    """What the whole volume is extrapolated to."""

    cores: int
    memory: int  # bytes


@dataclass(frozen=True, kw_only=True)
class Result:
    """One halo: measured on the part, extrapolated to the whole volume."""

    halo: str
    voxels: int  # of the halo
    tile_seconds: float  # to plan; with the measure of the halo's error
    part_computed: int  # voxels that infer computed here
    infer_cpu_seconds: float
    stitch_cpu_seconds: float
    tile: Index  # of the whole volume
    computed_per_kept: float  # there
    voxels_per_core_second: float  # kept, there
    node_infer_seconds: float
    node_seconds: float  # tile, infer and stitch

    def cells(self) -> tuple[str, ...]:
        """For a row of a table."""
        return (
            f"{self.halo} ({self.voxels})",
            " x ".join(map(str, self.tile)),
            f"{self.computed_per_kept:.2f}",
            f"{self.voxels_per_core_second:,.0f}",
            f"{self.node_infer_seconds:.0f}",
            f"{self.node_seconds:.0f}",
        )


def main() -> None:
    parser = options(__doc__, size="192,384,384", rounds=3)
    parser.add_argument("--halos", default="32,48,exact", help="(default 32,48,exact)")
    parser.add_argument("--depth", type=int, default=DEPTH, help=f"of the network (default {DEPTH})")
    parser.add_argument("--cores", type=int, default=40, help="of the node (default 40)")
    parser.add_argument("--node-memory", type=float, default=160.0, help="GiB of the node (default 160)")
    arguments = parser.parse_args()
    node = Node(cores=arguments.cores, memory=int(arguments.node_memory * 2**30))
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        source, network = write_cells(Path(folder, "part.tif"), arguments.size), _network(Path(folder), arguments.depth)
        results = [measure(source, network, halo, arguments.rounds, node) for halo in arguments.halos.split(",")]
    header = ("halo", "tile", "computed / kept", "voxels/s per core", "infer, s", "tile + infer + stitch, s")
    print(
        f"{' x '.join(map(str, SEED))} voxels, depth {arguments.depth}, one node of {node.cores} cores (extrapolated)"
    )
    print(table(header, [result.cells() for result in results]))
    for result in results:
        published = ", ".join(f"{s / result.node_seconds:.1f} x {name}" for name, s in PUBLISHED.items())
        told = f"halo {result.halo}: {result.node_seconds:.0f} s (claim at 32: {CLAIM:.0f} s)"
        print(f"{told}; published / this: {published}")
    publish(
        arguments.results,
        "seed_volume",
        {
            "volume": SEED,
            "part": arguments.size,
            "depth": arguments.depth,
            "rounds": arguments.rounds,
            "node": asdict(node),
            "published": PUBLISHED,
            "results": [asdict(result) for result in results],
        },
    )


def measure(source: Path, network: Path, halo: str, rounds: int, node: Node) -> Result:
    """Take the part through all steps with one halo."""
    run, out = source.with_name(f"{halo}.run"), source.with_name(f"{halo}.ome.zarr")
    planning = in_child(plan_anew, source, run, network, halo)
    plan: Plan = planning.value
    turns = alternate(
        {
            "infer": lambda: in_child(infer_anew, source, run, network, halo),
            "stitch": lambda: in_child(stitch_anew, run, out),
        },
        rounds,
    )
    cpu = sorted(outcome.value for outcome in turns["infer"])[rounds // 2]
    stitched = sorted(outcome.value for outcome in turns["stitch"])[rounds // 2]
    size, computed = whole_volume(plan, node, cpu / plan.computed_voxels)
    voxels = math.prod(SEED)
    node_infer = computed * cpu / plan.computed_voxels / node.cores
    return Result(
        halo=halo,
        voxels=max(plan.halo.size),
        tile_seconds=planning.seconds,
        part_computed=plan.computed_voxels,
        infer_cpu_seconds=cpu,
        stitch_cpu_seconds=stitched,
        tile=size,
        computed_per_kept=computed / voxels,
        voxels_per_core_second=voxels / (node_infer * node.cores),
        node_infer_seconds=node_infer,
        node_seconds=planning.seconds + node_infer + stitched * voxels / plan.region.size / node.cores,
    )


def whole_volume(plan: Plan, node: Node, cpu_seconds_per_voxel: float) -> tuple[Index, int]:
    """The tile that medhpc would choose for the whole volume on that node, and the voxels that all tiles compute."""
    cost = plan.cost
    most = block_voxels(node.memory, cost.bytes_per_voxel, plan.source.channels, 2, plan.stored)
    region, halo = Box.whole(SEED), plan.halo.size
    size = choose_tile(SEED, region, halo, block_voxels=most, seconds_per_voxel=cpu_seconds_per_voxel / node.cores)
    source = dataclasses.replace(plan.source, shape=SEED)
    whole = dataclasses.replace(
        plan, source=source, tile=size, region=region, cost=dataclasses.replace(cost, block_voxels=most)
    )
    return size, whole.computed_voxels


def plan_anew(source: Path, run: Path, network: Path, halo: str) -> Plan:
    """Plan the part in two tiles, one behind the other along x."""
    shutil.rmtree(run, ignore_errors=True)
    with open_volume(source) as volume:
        z, y, x = volume.shape
    return tile(source, run, network=network, device="cpu", halo=halo, tile=(z, y, -(-x // 2)))


def infer_anew(source: Path, run: Path, network: Path, halo: str) -> float:
    """Processor seconds of the infer step alone."""
    plan_anew(source, run, network, halo)
    began = time.process_time()
    infer(run, device="cpu")
    return time.process_time() - began


def stitch_anew(run: Path, out: Path) -> float:
    """Processor seconds of a stitch to a mask, the second in this process: libraries are loaded."""
    stitch(run, out)
    shutil.rmtree(out)
    began = time.process_time()
    stitch(run, out)
    return time.process_time() - began


def _network(folder: Path, depth: int) -> Path:
    torch.manual_seed(0)
    network = MSD(1, 2, depth)
    torch.nn.init.normal_(network.head_weight, std=0.1)
    network.save(folder / "network.safetensors")
    return folder / "network.safetensors"


if __name__ == "__main__":
    main()
