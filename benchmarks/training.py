"""One training step of MS-D networks on one CPU: medhpc's kernel against PyTorch.

A step is that of :func:`medhpc.train.msd.take_step` without the optimizer: scores, cross-entropy, and the gradients of
all weights. All ways take it on the same patch in turn, each in a process of its own; what counts is the processor time
of the step alone, and its least, for what else the machine does only adds to it. Memory is that of the process beyond
its imports. The peers are the network as a user writes it in PyTorch (torch.cat), with the checkpoints of a layer where
the plain one does not fit the memory, and medhpc without its kernel.

Of the kernel, the three parts are measured too: the forward pass, the backward pass to maps and biases only, and what
the gradients of the weights add. GF/s are operations of the direct convolution, two a parameter and voxel, so that
Winograd can exceed the peak of multiply-adds, which is measured between the others.

Claims: at depth 85, a step takes a 40th of PyTorch's processor time or less, at depth 30 a 25th; two threads are 1.85 x
as fast as one.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.child import Outcome, in_child
from benchmarks.measure import RESULTS, publish, table
from benchmarks.measure import shape as read_shape
from medhpc.engine.speed import measured_peak
from medhpc.geometry import Index
from medhpc.kernel import Spare, load_library, usable_variants
from medhpc.nets import MSD
from medhpc.nets.kernel import kernel_network, without_kernel


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network, and a patch that it learns from."""

    ndim: int
    depth: int
    patch: Index
    plain_fits: bool = True  # whether PyTorch's graph does, in 20 GiB


NETS: Mapping[str, Net] = {
    "3D depth 85, 96^3": Net(ndim=3, depth=85, patch=(96, 96, 96), plain_fits=False),
    "3D depth 85, 64^3": Net(ndim=3, depth=85, patch=(64, 64, 64)),
    "3D depth 30, 64^3": Net(ndim=3, depth=30, patch=(64, 64, 64)),
    "2D depth 100, 512^2": Net(ndim=2, depth=100, patch=(1, 512, 512)),
}
WAYS = ("kernel", "torch", "PyTorch", "PyTorch, checkpoints")
SLOW = ("PyTorch", "PyTorch, checkpoints")
"""Peers that take minutes: they take part in the first round only."""
PARTS = ("forward", "backward, maps", "backward, weights")
STEPS = 3
"""Of a way in one process, the least counts; the first has to get memory. Slow ones take one."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one way took for one step."""

    cpu_seconds: float
    peak_mib: float
    difference: float  # of the gradients of all weights, to the kernel's, over the largest

    def cells(self) -> tuple[str, ...]:
        """For a row of a table."""
        return f"{self.cpu_seconds:.3f}", f"{self.peak_mib:.0f}", f"{self.difference:.1e}"


def main() -> None:
    arguments = _arguments()
    content: dict[str, Any] = {"threads": 1, "rounds": arguments.rounds, "nets": {}}
    for name in arguments.nets.split(";"):
        patch = arguments.shape or NETS[name].patch
        found = measure(name, patch, arguments.ways.split(";") if arguments.ways else ways_of(name), arguments.rounds)
        content["nets"][name] = found
        print(f"{name}; measured on {' x '.join(map(str, patch))} voxels")
        print(_told(found))
    publish(arguments.results, "training", content)


def measure(name: str, patch: Index, ways: Sequence[str], rounds: int) -> dict[str, Any]:
    """Every way in turn, the kernel's parts and two threads; what is published."""
    outcomes: dict[str, list[Outcome]] = {way: [] for way in ways}
    parts, peaks = [], []
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for way in ways:
            if turn == 0 or way not in SLOW:
                outcomes[way].append(in_child(step, name, patch, way))
        parts.append(in_child(parts_of_a_step, name, patch).value)
        peaks.append(measured_peak() / 1e9)
        for threads, found in seconds.items():
            found.append(in_child(elapsed, name, patch, threads).value)
    expected = outcomes["kernel"][0].value[1]
    results = {way: _result(outcome, expected) for way, outcome in outcomes.items()}
    gflop = network_of(name).n_flops(math.prod(patch)) / 1e9
    gflops = {part: gflop / min(each[part] for each in parts) for part in PARTS}
    peak = statistics.median(peaks)
    return {
        "patch": list(patch),
        "ways": {way: asdict(result) for way, result in results.items()},
        "ratios": {way: r.cpu_seconds / results["kernel"].cpu_seconds for way, r in results.items() if way != "kernel"},
        "peak_gflops": peak,
        "gflops": gflops,
        "of_peak": {part: value / peak for part, value in gflops.items()},
        "two_threads": min(seconds[1]) / min(seconds[2]),
    }


def ways_of(name: str) -> list[str]:
    """The peers that fit the memory."""
    return [way for way in WAYS if way != ("PyTorch" if not NETS[name].plain_fits else "PyTorch, checkpoints")]


def step(name: str, patch: Index, way: str, threads: int = 1) -> tuple[float, np.ndarray]:
    """Least processor seconds of a step, and the gradients of all weights."""
    torch.set_num_threads(threads)
    network, image, targets = network_of(name), *patch_of(name, patch)
    took = []
    for _ in range(1 if way in SLOW else STEPS):
        network.zero_grad()
        began = time.process_time()
        take_step(network, image, targets, way)
        took.append(time.process_time() - began)
    return min(took), np.concatenate([weight.grad.numpy().ravel() for weight in network.weights])


def elapsed(name: str, patch: Index, threads: int) -> float:
    """Least seconds of a step by the kernel, by the clock."""
    torch.set_num_threads(threads)
    network, image, targets = network_of(name), *patch_of(name, patch)
    took = []
    for _ in range(STEPS):
        began = time.perf_counter()
        take_step(network, image, targets, "kernel")
        took.append(time.perf_counter() - began)
    return min(took)


def parts_of_a_step(name: str, patch: Index) -> dict[str, float]:
    """Least processor seconds of each part."""
    network, (image, _) = network_of(name), patch_of(name, patch)
    library = load_library(usable_variants()[0])
    block = image.numpy()[0] if network.ndim == 3 else image.numpy().swapaxes(0, 1)
    compiled, spare = kernel_network(network, library), Spare(library)
    of_scores = np.full((network.out_channels, *block.shape[1:]), 1 / block.size, np.float32)
    took: dict[str, list[float]] = {"forward": [], "maps": [], "all": []}
    for _ in range(STEPS):
        now = [time.process_time()]
        _, recording = compiled.record(block, 1, spare)
        now.append(time.process_time())
        for kernels in (False, True):
            recording.backward(of_scores, 1, inputs=False, kernels=kernels)
            now.append(time.process_time())
        for part, before, after in zip(took, now[:-1], now[1:], strict=True):
            took[part].append(after - before)
    forward, maps, everything = (min(values) for values in took.values())
    return dict(zip(PARTS, (forward, maps, everything - maps), strict=True))


def take_step(network: MSD, image: Tensor, targets: Tensor, way: str) -> None:
    """Gradients of the mean cross-entropy."""
    scores: Callable[[Tensor], Tensor] = network
    if way in SLOW:
        scores = lambda x: torch_cat(network, x, checkpoints=way != "PyTorch")  # noqa: E731
    with nullcontext() if way == "kernel" else without_kernel():
        F.cross_entropy(scores(image), targets).backward()


def torch_cat(network: MSD, maps: Tensor, checkpoints: bool) -> Tensor:
    """The network layer by layer, all earlier maps concatenated."""
    convolve = F.conv3d if network.ndim == 3 else F.conv2d
    mode = "reflect" if network.padding == "reflect" else "constant"

    def layer(maps: Tensor, number: int) -> Tensor:
        s = network.dilations[number]
        padded = F.pad(maps, (s,) * (2 * network.ndim), mode=mode)
        return F.relu(convolve(padded, network.weights[number], network.biases[number], dilation=s))

    for number in range(network.depth):
        made = checkpoint(layer, maps, number, use_reentrant=False) if checkpoints else layer(maps, number)
        maps = torch.cat([maps, made], 1)
    head = network.head_weight.unflatten(1, (-1, *(1,) * network.ndim))
    return convolve(maps, head, network.head_bias)


def network_of(name: str) -> MSD:
    """Random weights, and a last layer that is not zero."""
    torch.manual_seed(0)
    network = MSD(1, 2, NETS[name].depth, ndim=NETS[name].ndim)
    torch.nn.init.normal_(network.head_weight, std=0.1)
    return network


def patch_of(name: str, patch: Index) -> tuple[Tensor, Tensor]:
    """Noise, and what is bright in it: (1, 1, ...) float32 and (1, ...) classes."""
    image = torch.randn(1, 1, *patch[3 - NETS[name].ndim :], generator=torch.Generator().manual_seed(0))
    return image, (image[:, 0] > 0.5).long()


def _result(outcomes: Sequence[Outcome], expected: np.ndarray) -> Result:
    return Result(
        cpu_seconds=min(outcome.value[0] for outcome in outcomes),
        peak_mib=statistics.median((outcome.peak - outcome.idle) / 2**20 for outcome in outcomes),
        difference=float(np.abs(outcomes[0].value[1] - expected).max() / np.abs(expected).max()),
    )


def _told(found: Mapping[str, Any]) -> str:
    rows = [(way, *Result(**result).cells()) for way, result in found["ways"].items()]
    parts = ((part, f"{found['gflops'][part]:.0f}", f"{100 * found['of_peak'][part]:.0f} %") for part in PARTS)
    return "\n".join(
        [
            table(("way", "CPU seconds", "MiB", "difference"), rows),
            *(f"{way} / kernel: {ratio:.1f}" for way, ratio in found["ratios"].items()),
            table(("part", "GF/s", "of peak"), list(parts)),
            f"two threads / one: {found['two_threads']:.2f} (claim: at least 1.85)",
        ]
    )


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=";".join(NETS), help=f"of {'; '.join(NETS)}, separated by ; (default all)")
    parser.add_argument("--ways", help=f"of {'; '.join(WAYS)}, separated by ; (default all that fit the memory)")
    parser.add_argument("--size", dest="shape", type=read_shape, help="voxels, Z,Y,X, instead of the network's own")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3; slow peers once)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="not used")
    return parser.parse_args()


if __name__ == "__main__":
    main()
