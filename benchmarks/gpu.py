"""MS-D networks on one GPU: medhpc's kernels in Triton against PyTorch, for at most nine minutes in all.

    python -m benchmarks.gpu                  # on a GPU (written for an H200): one command, below ten minutes
    python -m benchmarks.gpu --device cpu --depth 2 --size 4,5,6 --block 5,5,9     # tries the script, by interpreter

Every way evaluates the network of 100,000 parameters (3D, depth 85) in a process of its own: first a small block, which
is compared with torch in float32 on the CPU (a way that is off is not timed), then a block that all ways can hold, by
the clock, without copies from and to the GPU; the least of a few rounds counts. What does not fit, fail or finish is
reported as such. Then the engines for GPUs compute one tile of the volume of 2304 x 1280 x 1024 voxels with its halo,
copies included, from which the whole volume is extrapolated for two halos.

TFLOP/s are useful ones: two operations a parameter and voxel. The roofline is the larger of two times: the bytes that
the kernels have to move at the measured copying rate, and the operations that they do (with what fills 16 channels and
16 or 32 columns) at the measured rate of matrix products.

Aims, never measured yet, for medhpc was written without a GPU: 10 x PyTorch, and 12 s for the whole volume.
By the roofline alone (8,280 bytes a voxel at 4.3 TB/s), an H200 cannot take less than 7 s for it at a halo of 32.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import engine_peers
from benchmarks.child import in_child_within
from benchmarks.measure import RESULTS, publish, table
from benchmarks.measure import shape as read_shape
from medhpc import engine as engines
from medhpc.engine import BlockTooLarge
from medhpc.engine.gpu.schedule import LANES, Head, Push, Schedule, schedule_of
from medhpc.engine.gpu.weights import TAPS, columns_of, taps_of
from medhpc.engine.triton import PRECISIONS
from medhpc.geometry import Box, Grid, Index
from medhpc.nets import MSD

VOLUME: Index = (2304, 1280, 1024)
TILE: Index = (768, 640, 512)
HALOS = (32, 48)
ENGINES = ("triton", "triton-f32", "torch")
PEERS = {  # dtype of autocast, whether compiled
    "PyTorch bf16": (torch.bfloat16, False),
    "PyTorch fp16": (torch.float16, False),
    "PyTorch fp32": (None, False),
    "torch.compile fp16": (torch.float16, True),
}
TOLERANCE = {"triton-f32": 1e-4}
ROUNDING = 5e-2  # of ways in 16 bit or TF32, of the largest score
SHORTEST = 10.0  # seconds without which a way is not begun
Forward = Callable[[Tensor], Tensor]


def main() -> None:
    arguments = _arguments()
    ends = time.monotonic() + 60 * arguments.minutes
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes of the ways
    machine = _tried(ends, machine_rates, arguments.device)
    ways = {way: _tried(ends, measure, way, arguments, ends) for way in arguments.ways.split(",")}
    tiles = {way: _tried(ends, measure_tile, way, arguments) for way in PRECISIONS if way in ways}
    content = {
        "gpu": machine,
        "depth": arguments.depth,
        "size": arguments.size,
        "ways": ways,
        "tile": tiles,
        "volume": {way: whole_volume(found) for way, found in tiles.items() if "seconds_per_voxel" in found},
        "roofline": {way: roofline(network_of(arguments.depth), way, machine) for way in PRECISIONS},
    }
    _print(content)
    publish(arguments.results, "gpu", content)


# --- in a process of their own -------------------------------------------------------------------


def machine_rates(device: str) -> dict[str, Any]:
    """What the GPU is, and what it does: operations a second of matrix products, bytes a second of copies."""
    edge = 8192 if device == "cuda" else 64
    matrix = torch.ones(edge, edge, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    source = torch.ones(edge * edge * 8, device=device)
    target = torch.empty_like(source)
    gpu = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "name": gpu.name if gpu else "none",
        "memory_gib": round(gpu.total_memory / 2**30, 1) if gpu else 0,
        "flops": 2 * edge**3 / _least(lambda: matrix @ matrix, 5, device),
        "bytes": 8 * source.numel() / _least(lambda: target.copy_(source), 5, device),
    }


def measure(way: str, arguments: argparse.Namespace, ends: float) -> dict[str, Any]:
    """One way: is it right, how long does it take, what memory at most."""
    network, device = network_of(arguments.depth), arguments.device
    small = noise(tuple(min(48, n) for n in arguments.size))
    expected = engines.load(network_of(arguments.depth), name="torch", device="cpu")(small, "raw")
    run = forward_of(way, network, device)
    found = run(torch.from_numpy(small).to(device)).float().cpu().numpy()
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not off <= TOLERANCE.get(way, ROUNDING):
        return {"failed": f"differs from torch in float32 by {off:.1e} of the largest score"}
    block = torch.from_numpy(noise(arguments.size)).to(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _least(lambda: run(block), arguments.rounds, device, ends)
    return {
        "difference": off,
        "seconds": seconds,
        "tflops": network.n_flops(math.prod(arguments.size)) / seconds / 1e12,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
    }


def measure_tile(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """An engine on the largest block that it can hold of the one asked for, numbers in and numbers out."""
    network = network_of(arguments.depth)
    engine = engines.load(network, name=way, device=arguments.device)
    z, y, x = arguments.block
    while True:
        try:
            return _measured_tile(engine, (z, y, x), arguments.device)
        except BlockTooLarge:
            z //= 2


def _measured_tile(engine: Any, shape: Index, device: str) -> dict[str, Any]:
    block, voxels = noise(shape), math.prod(shape)
    seconds = _least(lambda: engine(block, "probability"), 1, device)
    on_device = torch.from_numpy(block).to(engine.device)
    kernels = _least(lambda: _without_gradients(engine._scores, on_device), 1, device)
    return {
        "block": shape,
        "seconds": seconds,
        "kernels": kernels,
        "seconds_per_voxel": seconds / voxels,
        "tflops": engine.network.n_flops(voxels) / kernels / 1e12,
        "bytes_per_voxel": engine.bytes(shape) / voxels,
    }


def forward_of(way: str, network: MSD, device: str) -> Forward:
    """From a block (channels, z, y, x) on the device to its scores there."""
    if way in ENGINES:
        engine: Any = engines.load(network, name=way, device=device)
        return lambda block: _without_gradients(engine._scores, block)
    dtype, compiled = PEERS[way]
    network = network.to(device, memory_format=torch.channels_last_3d if network.ndim == 3 else torch.channels_last)

    def plain(batch: Tensor) -> Tensor:
        return engine_peers.cat(network, batch)

    evaluate = torch.compile(plain) if compiled else plain

    def run(block: Tensor) -> Tensor:
        batch = block[None].to(dtype or block.dtype).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            return _without_gradients(evaluate, batch)[0]

    return run


def _without_gradients(function: Forward, block: Tensor) -> Tensor:
    with torch.inference_mode():
        return function(block)


def _least(function: Callable[[], Any], rounds: int, device: str, ends: float = math.inf) -> float:
    """Seconds of the fastest of a few calls after a first one, as long as there is time."""
    seconds = []
    for turn in range(rounds + 1):
        began = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if turn and time.monotonic() > ends:
            break
    return min(seconds[1:])


# --- by numbers alone ----------------------------------------------------------------------------


def whole_volume(tile: dict[str, Any]) -> dict[str, Any]:
    """The volume of 2304 x 1280 x 1024 at the speed of one tile, for each halo."""
    found = {}
    for halo in HALOS:
        voxels = Grid(VOLUME, TILE, (halo, halo, halo), Box.whole(VOLUME)).read_voxels()
        found[str(halo)] = {
            "computed_per_kept": voxels / math.prod(VOLUME),
            "seconds": voxels * tile["seconds_per_voxel"],
            "seconds_of_kernels": voxels * tile["kernels"] / math.prod(tile["block"]),
        }
    return found


def roofline(network: MSD, way: str, machine: dict[str, Any]) -> dict[str, float]:
    """What the kernels have to move and to do for a voxel, and the least nanoseconds that takes."""
    schedule = schedule_of(network, 32 // taps_of(network))
    moved = sum(bytes_of(schedule, step, network, PRECISIONS[way].itemsize) for step in schedule.steps)
    done = sum(operations_of(schedule, step, network) for step in schedule.steps)
    found = {"bytes": moved, "operations": done, "useful": float(network.n_flops(1))}
    if way == "triton" and "bytes" in machine:  # the rate that was measured is that of the matrix units
        found["nanoseconds"] = 1e9 * max(moved / machine["bytes"], done / machine["flops"])
    return found


def bytes_of(schedule: Schedule, step: Push | Head, network: MSD, itemsize: int) -> float:
    """That one run of a kernel moves for a voxel: blocks of the ring once, sums once or twice, new maps by sector."""
    maps = len(schedule.ring_blocks(step.first, step.stop)) * LANES * itemsize
    sums = 4 if step.fresh else 8
    if isinstance(step, Head):
        return maps + sums * network.out_channels
    read_only = 0 if step.fresh else 4 * step.own
    return maps + sums * (len(step.targets) - step.own) + read_only + 32 * step.own


def operations_of(schedule: Schedule, step: Push | Head, network: MSD) -> float:
    """Of one run for a voxel, zeros included."""
    channels = len(schedule.ring_blocks(step.first, step.stop)) * LANES
    if isinstance(step, Head):
        return 2.0 * channels * network.out_channels
    return 2.0 * channels * TAPS * columns_of(len(step.targets), network)


def network_of(depth: int) -> MSD:
    """A network of random weights, whose scores are not zero."""
    torch.manual_seed(0)
    network = MSD(1, 2, depth).eval()
    torch.nn.init.normal_(network.head_weight, std=0.1)
    return network.requires_grad_(False)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, *shape), np.float32)


# --- what is told --------------------------------------------------------------------------------


def _tried(ends: float, function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The result of a call in a process of its own, or why there is none."""
    left = ends - time.monotonic()
    if left < SHORTEST:
        return {"failed": "no time was left"}
    try:
        found: dict[str, Any] = in_child_within(left, function, *args).value
        return found
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {left:.0f} s"}
    except subprocess.CalledProcessError:
        return {"failed": "ended in an error (printed above)"}


def _print(content: dict[str, Any]) -> None:
    gpu, ways = content["gpu"], content["ways"]
    print(f"GPU: {gpu.get('name')}, {gpu.get('flops', 0) / 1e12:.4g} TFLOP/s, {gpu.get('bytes', 0) / 1e9:.4g} GB/s")
    rows = [
        (way, found["failed"], "", "", "")
        if "failed" in found
        else (way, f"{found['seconds']:.4f}", *(f"{found[key]:.3g}" for key in ("tflops", "peak_mib", "difference")))
        for way, found in ways.items()
    ]
    print(table(("way", "seconds", "useful TFLOP/s", "MiB", "difference"), rows))
    for way, found in ways.items():
        if way != "triton" and "seconds" in found and "seconds" in ways.get("triton", {}):
            print(f"{way} / triton: {found['seconds'] / ways['triton']['seconds']:.1f}")
    for way, halos in content["volume"].items():
        for halo, found in halos.items():
            told = f"{found['seconds']:.1f} s, of which kernels {found['seconds_of_kernels']:.1f} s"
            print(f"{way}, whole volume, halo {halo} ({found['computed_per_kept']:.2f} x): {told}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the script")
    parser.add_argument("--depth", type=int, default=85, help="of the network (default 85)")
    parser.add_argument("--size", type=read_shape, default="128,128,128", help="for all ways (default 128,128,128)")
    parser.add_argument("--block", type=read_shape, default="832,672,544", help="for engines (default: a tile's)")
    everything = ",".join((*ENGINES, *PEERS))
    parser.add_argument("--ways", default=everything, help=f"of {everything} (default all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all together (default 9)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="not used")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA GPU is visible here; --device cpu tries the script")
    if not importlib.util.find_spec("triton"):
        parser.error("Triton is not installed; it comes with torch's builds for GPUs")
    return arguments


if __name__ == "__main__":
    main()
