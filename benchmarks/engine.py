"""MS-D networks on one CPU: medhpc's native engine against PyTorch, OpenVINO and ONNX Runtime.

All evaluate the same network on the same block in turn, each in a process of its own; what counts is the processor
time of the evaluation alone, and its median. GF/s are operations of the direct convolution, two a parameter and voxel,
so that Winograd can exceed the peak; the peak is that of multiply-adds in registers, measured between the others for
each instruction set. Peers that are not installed are left out.

Two threads against one are measured by the clock, on a block of their own.

Claims: the native engine is 70 x faster than PyTorch as a user writes it on the network of 100,000 parameters (3D,
depth 85, 96 x 96 x 96 voxels), and within 1e-5 of the definition in float64. Its memory is at most that of depth + 12
maps in float32, whose rows are filled up to an odd number of cache lines (7 for 96 voxels). Two threads are 1.9 x as
fast as one on 128 x 128 x 128 voxels.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import engine_peers as peers
from benchmarks.child import Outcome, in_child
from benchmarks.measure import RESULTS, publish, table
from benchmarks.measure import shape as read_shape
from medhpc.engine.speed import measured_peak
from medhpc.geometry import Index
from medhpc.kernel import VARIANTS, usable_variants
from medhpc.nets import MSD

NETS: Mapping[str, tuple[int, int, Index]] = {  # ndim, depth, block
    "3D depth 85": (3, 85, (96, 96, 96)),
    "3D depth 30": (3, 30, (96, 96, 96)),
    "2D depth 100": (2, 100, (1, 512, 512)),
}
WAYS: Mapping[str, Callable[[MSD, int], peers.Evaluate]] = {
    "native": peers.native,
    **{f"native {variant}": partial(peers.native, variant=variant) for variant in VARIANTS},
    "torch": partial(peers.stock_engine, name="torch"),
    "openvino": partial(peers.stock_engine, name="openvino"),
    "PyTorch": peers.torch_cat,
    "ONNX Runtime": peers.onnx_runtime,
    "OpenVINO": peers.openvino,
    "OpenVINO bf16": partial(peers.openvino, precision="bf16"),
}
SLOW = ("PyTorch", "ONNX Runtime", "OpenVINO", "OpenVINO bf16")
"""Peers that take up to a minute: they take part in the first rounds only."""
SLOW_ROUNDS = 1
SPARE_MAPS = 12  # beyond one for each layer, for inputs, borders and scratch
CACHE_LINE = 16  # voxels in float32
TWO_THREADS: Index = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one way took for one network."""

    cpu_seconds: float
    gflops: float
    of_peak: float  # of the instruction set that it uses; of the best one for peers
    peak_mib: float  # of memory, beyond what the imports take
    difference: float  # largest, to the native engine, over the largest score

    def cells(self) -> tuple[str, ...]:
        """For a row of a table."""
        peak, memory = f"{100 * self.of_peak:.0f} %", f"{self.peak_mib:.0f}"
        return f"{self.cpu_seconds:.3f}", f"{self.gflops:.1f}", peak, memory, f"{self.difference:.1e}"


def main() -> None:
    arguments = _arguments()
    results, peaks = {}, {}
    for name in arguments.nets.split(","):
        shape = arguments.shape or NETS[name][2]
        ways = [way for way in installed_ways() if not arguments.ways or way in arguments.ways.split(",")]
        results[name], peaks[name] = measure(name, shape, ways, arguments.rounds, arguments.threads)
        rows = [(way, *result.cells()) for way, result in results[name].items()]
        print(f"{name}, {' x '.join(map(str, shape))} voxels, threads: {arguments.threads}")
        print(table(("way", "CPU seconds", "GF/s", "of peak", "MiB", "difference"), rows))
        for way, ratio in _ratios(results[name]).items():
            print(f"{way} / native: {ratio:.1f}")
        print(_told(memory_of(name, shape, results[name])))
    gain = gain_of_two_threads(arguments.nets.split(",")[0], arguments.shape or TWO_THREADS, arguments.rounds)
    print(f"two threads / one: {gain:.2f} (claim: at least 1.9)")
    content = {
        "two_threads": gain,
        "memory_mib": {
            name: memory_of(name, arguments.shape or NETS[name][2], result) for name, result in results.items()
        },
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "peak_gflops": peaks,
        "nets": {name: {way: asdict(r) for way, r in ways.items()} for name, ways in results.items()},
        "ratios": {name: _ratios(ways) for name, ways in results.items()},
    }
    publish(arguments.results, "engine" if arguments.threads == 1 else f"engine-{arguments.threads}", content)


def measure(
    net: str, shape: Index, ways: Sequence[str], rounds: int, threads: int
) -> tuple[dict[str, Result], dict[str, float]]:
    """Every way in turn, with the peaks between them; the results, and the peaks in GF/s."""
    found: dict[str, list[Outcome]] = {way: [] for way in ways}
    peaks: dict[str, list[float]] = {variant: [] for variant in usable_variants()}
    for turn in range(rounds):
        for way in ways:
            if turn < SLOW_ROUNDS or way not in SLOW:
                found[way].append(in_child(evaluate, net, shape, way, threads))
        for variant, measured in peaks.items():
            measured.append(measured_peak(variant) / 1e9)
    peak = {variant: statistics.median(measured) for variant, measured in peaks.items()}
    expected = found["native"][0].value[1]
    flops = network_of(net).n_flops(math.prod(shape)) / 1e9
    results = {}
    for way, outcomes in found.items():
        took = statistics.median(outcome.value[0] for outcome in outcomes)
        variant = way.removeprefix("native ") if way.startswith("native ") else usable_variants()[0]
        results[way] = Result(
            cpu_seconds=took,
            gflops=flops / took,
            of_peak=flops / took / peak[variant],
            peak_mib=statistics.median((outcome.peak - outcome.idle) / 2**20 for outcome in outcomes),
            difference=float(np.abs(outcomes[0].value[1] - expected).max() / np.abs(expected).max()),
        )
    return results, peak


def evaluate(net: str, shape: Index, way: str, threads: int) -> tuple[float, np.ndarray]:
    """Processor seconds of one evaluation, and the scores; in a process of its own, for its memory."""
    network = network_of(net)
    run = WAYS[way](network, threads)
    block = np.random.default_rng(0).normal(size=(network.in_channels, *shape)).astype(np.float32)
    if way != "PyTorch":  # has nothing to prepare, and takes a minute
        run(block)
    began = time.process_time()
    scores = run(block)
    return time.process_time() - began, scores


def gain_of_two_threads(net: str, shape: Index, rounds: int) -> float:
    """How many times as fast two threads are as one, by the clock, in turn."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, found in seconds.items():
            found.append(in_child(elapsed, net, shape, threads).value)
    return statistics.median(seconds[1]) / statistics.median(seconds[2])


def elapsed(net: str, shape: Index, threads: int) -> float:
    """Seconds of one evaluation by the native engine."""
    network = network_of(net)
    run = peers.native(network, threads)
    block = np.random.default_rng(0).normal(size=(network.in_channels, *shape)).astype(np.float32)
    run(block)
    began = time.perf_counter()
    run(block)
    return time.perf_counter() - began


def memory_of(net: str, shape: Index, results: Mapping[str, Result]) -> dict[str, float]:
    """What the native engine took, what its claim allows, and what PyTorch took where that was measured."""
    planes, rows, columns = shape
    lines = -(-columns // CACHE_LINE) // 2 * 2 + 1  # odd, so that rows do not meet in the same sets of the cache
    allowed = (NETS[net][1] + SPARE_MAPS) * planes * rows * lines * CACHE_LINE * 4 / 2**20
    found = {"native": results["native"].peak_mib, "allowed": allowed}
    return found | ({"PyTorch": results["PyTorch"].peak_mib} if "PyTorch" in results else {})


def _told(memory: Mapping[str, float]) -> str:
    text = (
        f"memory: {memory['native']:.0f} MiB, depth + {SPARE_MAPS} maps with their padding are {memory['allowed']:.0f}"
    )
    return text + (f"; PyTorch {memory['PyTorch']:.0f}" if "PyTorch" in memory else "")


def network_of(net: str) -> MSD:
    """A network of random weights, whose scores are not zero."""
    ndim, depth, _ = NETS[net]
    torch.manual_seed(0)
    network = MSD(1, 2, depth, ndim=ndim).eval()
    torch.nn.init.normal_(network.head_weight, std=0.1)
    return network.requires_grad_(False)


def installed_ways() -> list[str]:
    """The native engine with each instruction set, medhpc's other engines, and the peers that are installed."""
    here = {"native", "torch", "PyTorch", *(f"native {variant}" for variant in usable_variants()[1:])}
    here |= {"openvino"} if importlib.util.find_spec("openvino") else set()
    if importlib.util.find_spec("onnx"):
        here |= {"ONNX Runtime"} if importlib.util.find_spec("onnxruntime") else set()
        here |= {"OpenVINO", "OpenVINO bf16"} if importlib.util.find_spec("openvino") else set()
    return [way for way in WAYS if way in here]


def _ratios(results: Mapping[str, Result]) -> dict[str, float]:
    ours = results["native"].cpu_seconds
    return {way: result.cpu_seconds / ours for way, result in results.items() if way != "native"}


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help=f"of {', '.join(NETS)} (default all)")
    parser.add_argument("--ways", help=f"of {', '.join(WAYS)} (default all that are installed)")
    parser.add_argument("--size", dest="shape", type=read_shape, help="voxels, Z,Y,X, instead of the network's own")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is run (default 5; slow peers once)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="not used")
    return parser.parse_args()


if __name__ == "__main__":
    main()
