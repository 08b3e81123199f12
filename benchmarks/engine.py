"""MS-D networks on one CPU: medhpc's native engine against PyTorch, OpenVINO and ONNX Runtime.

All evaluate the same network on the same block in one process, in turn; what counts is the processor time of the
process, and its median. GF/s are operations of the direct convolution, two a parameter and voxel, so that Winograd can
exceed the peak; the peak is that of multiply-adds in registers, measured between the others for each instruction set.
Peers that are not installed are left out.

Claims: the native engine is 70 x faster than PyTorch as a user writes it on the network of 100,000 parameters (3D,
depth 85, 96 x 96 x 96 voxels), and within 1e-5 of the definition in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import engine_peers as peers
from benchmarks.measure import RESULTS, publish, table
from benchmarks.measure import shape as read_shape
from medhpc.engine.native import usable_variants
from medhpc.engine.speed import measured_peak
from medhpc.geometry import Index
from medhpc.nets import MSD

NETS: Mapping[str, tuple[int, int, Index]] = {  # ndim, depth, block
    "3D depth 85": (3, 85, (96, 96, 96)),
    "3D depth 30": (3, 30, (96, 96, 96)),
    "2D depth 100": (2, 100, (1, 512, 512)),
}
SLOW = ("PyTorch", "OpenVINO", "OpenVINO bf16", "ONNX Runtime")
"""Peers of which a round takes a minute: they take part in the first rounds only."""
SLOW_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one way took for one network."""

    cpu_seconds: float
    gflops: float
    of_peak: float  # of the instruction set that it uses; of the best one for peers
    error: float  # largest difference to the native engine, over the largest score


def main() -> None:
    arguments = _arguments()
    results, peaks = {}, {}
    for name in arguments.nets.split(","):
        ndim, depth, shape = NETS[name]
        shape = arguments.shape or shape
        results[name], peaks[name] = measure(random_network(depth, ndim), shape, arguments.rounds, arguments.threads)
        rows = [
            (way, f"{r.cpu_seconds:.3f}", f"{r.gflops:.1f}", f"{100 * r.of_peak:.0f} %", f"{r.error:.1e}")
            for way, r in results[name].items()
        ]
        print(f"{name}, {' x '.join(map(str, shape))} voxels, threads: {arguments.threads}")
        print(table(("way", "CPU seconds", "GF/s", "of peak", "difference"), rows))
        for way, ratio in _ratios(results[name]).items():
            print(f"{way} / native: {ratio:.1f}")
    content = {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "peak_gflops": peaks,
        "nets": {name: {way: asdict(r) for way, r in ways.items()} for name, ways in results.items()},
        "ratios": {name: _ratios(ways) for name, ways in results.items()},
    }
    publish(arguments.results, "engine" if arguments.threads == 1 else f"engine-{arguments.threads}", content)


def measure(network: MSD, shape: Index, rounds: int, threads: int) -> tuple[dict[str, Result], dict[str, float]]:
    """Every way in turn, with the peaks between them; the results, and the peaks in GF/s."""
    ways = _ways(network, threads)
    block = np.random.default_rng(0).normal(size=(network.in_channels, *shape)).astype(np.float32)
    expected = ways["native"](block)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, list[float]] = {variant: [] for variant in usable_variants()}
    errors = {}
    for turn in range(rounds):
        for way, evaluate in ways.items():
            if turn < SLOW_ROUNDS or way not in SLOW:
                began = time.process_time()
                found = evaluate(block)
                seconds[way].append(time.process_time() - began)
                errors[way] = float(np.abs(found - expected).max() / np.abs(expected).max())
        for variant, found_peaks in peaks.items():
            found_peaks.append(measured_peak(variant) / 1e9)
    peak = {variant: statistics.median(found_peaks) for variant, found_peaks in peaks.items()}
    flops = network.n_flops(math.prod(shape)) / 1e9
    results = {}
    for way, times in seconds.items():
        took = statistics.median(times)
        variant = way.removeprefix("native ") if way.startswith("native ") else usable_variants()[0]
        results[way] = Result(
            cpu_seconds=took, gflops=flops / took, of_peak=flops / took / peak[variant], error=errors[way]
        )
    return results, peak


def random_network(depth: int, ndim: int) -> MSD:
    """A network whose scores are not zero."""
    torch.manual_seed(0)
    network = MSD(1, 2, depth, ndim=ndim).eval()
    torch.nn.init.normal_(network.head_weight, std=0.1)
    return network.requires_grad_(False)


def _ways(network: MSD, threads: int) -> dict[str, peers.Evaluate]:
    made: dict[str, Callable[[MSD, int], peers.Evaluate]] = {"native": peers.native, "torch": peers.torch_engine}
    made |= {f"native {v}": partial(peers.native, variant=v) for v in usable_variants()[1:]}
    made["PyTorch"] = peers.torch_cat
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        made["ONNX Runtime"] = peers.onnx_runtime
    if importlib.util.find_spec("openvino") and importlib.util.find_spec("onnx"):
        made["OpenVINO"] = peers.openvino
        made["OpenVINO bf16"] = partial(peers.openvino, precision="bf16")
    return {way: make(network, threads) for way, make in made.items()}


def _ratios(results: Mapping[str, Result]) -> dict[str, float]:
    ours = results["native"].cpu_seconds
    return {way: result.cpu_seconds / ours for way, result in results.items() if way != "native"}


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help=f"of {', '.join(NETS)} (default all)")
    parser.add_argument("--size", dest="shape", type=read_shape, help="voxels, Z,Y,X, instead of the network's own")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is run (default 5; slow peers twice)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="not used")
    return parser.parse_args()


if __name__ == "__main__":
    main()
