"""One iteration of Deep Image Prior: memory and time of each precision, against a plain loop in PyTorch.

The plain loop is the same network in fp32 as one writes it of torch's own layers (reflecting convolutions, BatchNorm,
LeakyReLU, Upsample, cat), with Adam and the running average. Every way runs in a process of its own. On a CPU the time
is processor time, the memory that of all tensors (counted from birth to death) and what is resident beyond the imports;
on a GPU, time by the clock and what was allocated at most. `plan` is what `medhpc dip-plan` says beforehand.

Claims: on a GPU, 256 x 256 x 150 voxels and 128 channels take at most 15 GiB in bf16 with two levels computed twice,
and a third of the time of fp32; the plan is within 10 % of what was measured.

    python -m benchmarks.dip_step                                       # 48^3 and 64^3 on a CPU
    python -m benchmarks.dip_step --device cuda --sizes 150,256,256     # at full size, in minutes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.child import in_child
from benchmarks.measure import RESULTS, publish, table
from benchmarks.measure import shape as read_shape
from medhpc.dip.descent import begin, make_code, take_step
from medhpc.dip.draws import Draws
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.dip.plan import need
from medhpc.dip.precision import arithmetic
from medhpc.dip.problem import Problem, pose
from medhpc.dip.tally import Tally
from medhpc.geometry import Index

PLAIN = "plain PyTorch, fp32"
WAYS: Mapping[str, tuple[str, int]] = {  # precision, levels computed twice
    "fp32": ("fp32", 0),
    "fp32, 2 levels twice": ("fp32", 2),
    "bf16": ("bf16", 0),
    "bf16, 2 levels twice": ("bf16", 2),
}
ON_GPUS: Mapping[str, tuple[str, int]] = {"tf32": ("tf32", 0), "fp16, 2 levels twice": ("fp16", 2)}


def main() -> None:
    arguments = _arguments()
    results: dict[str, dict[str, Any]] = {}
    ways = {**WAYS, **(ON_GPUS if arguments.device == "cuda" else {})}
    for size in arguments.sizes:
        name = " x ".join(map(str, size))
        results[name] = {PLAIN: measure(PLAIN, size, arguments)}
        results[name] |= {way: measure(way, size, arguments) for way in ways}
        base = results[name][PLAIN]
        print(f"{name} voxels, {arguments.channels} channels")
        print(
            table(
                ("way", "s / iteration", "GiB", "plan", "time", "memory"),
                [_cells(*i, base) for i in results[name].items()],
            )
        )
    content = {"device": arguments.device, "channels": arguments.channels, "sizes": results}
    publish(arguments.results, "dip_step" if arguments.device == "cpu" else f"dip_step-{arguments.device}", content)


def measure(way: str, size: Index, arguments: Any) -> dict[str, Any]:
    """Time, memory and the plan of one way."""
    outcome = in_child(iterate, way, size, arguments.channels, arguments.rounds, arguments.device)
    found: dict[str, Any] = {**outcome.value, "resident_bytes": outcome.peak - outcome.idle}
    if way != PLAIN:
        precision, levels = (WAYS | ON_GPUS)[way]
        found["plan_bytes"] = need((1, 1, *size), Options(channels=arguments.channels), precision, levels).peak
    return found


def iterate(way: str, size: Index, channels: int, rounds: int, device: str) -> dict[str, Any]:
    """Seconds of an iteration (the fastest one), and the most that tensors held; in a process of its own."""
    torch.set_num_threads(1)
    step = plain(size, channels, device) if way == PLAIN else ours(way, size, channels, device)
    step()  # moments of the optimizer, plans of the libraries
    seconds = min(_timed(step, device) for _ in range(rounds))
    if device == "cuda":
        return {"seconds": seconds, "bytes": torch.cuda.max_memory_allocated()}
    with Tally() as tally:
        step = plain(size, channels, device) if way == PLAIN else ours(way, size, channels, device)
        step()
        step()
    return {"seconds": seconds, "bytes": tally.peak}


def ours(way: str, size: Index, channels: int, device: str) -> Any:
    """One iteration as ``medhpc dip`` makes it."""
    precision, levels = (WAYS | ON_GPUS)[way]
    options, problem = Options(channels=channels, stop="none"), _problem(size, device)
    draws = Draws(0, problem.image.device)
    state = begin(problem, options, 0, precision, levels)
    code = make_code(problem, options, draws, precision)

    def step() -> None:
        with arithmetic(precision):
            take_step(state, problem, options, draws, code, problem.known, precision)

    return step


def plain(size: Index, channels: int, device: str) -> Any:
    """One iteration as one writes it."""
    image = _problem(size, device).image
    network = PlainSkip(32, channels, 5).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    filled = (max(n + -n % 32, 64) for n in size)  # reflection needs two voxels on the coarsest level
    code = torch.rand(1, 32, *filled, device=device) * 0.1
    inside = (..., *(slice(n) for n in size))
    average: list[Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        output = network(code + torch.randn_like(code) / 30)[inside]
        loss = nn.functional.mse_loss(output, image)
        loss.backward()
        optimizer.step()
        average[:] = [output.detach().lerp(average[0], 0.99) if average else output.detach()]

    def exact() -> None:
        with arithmetic("fp32") if device == "cuda" else nullcontext():
            step()

    return exact


class PlainSkip(nn.Module):
    """The hourglass of the paper in torch's own layers."""

    def __init__(self, inputs: int, channels: int, levels: int) -> None:
        super().__init__()
        self.skip = _unit(inputs, 4, 1)
        self.down = nn.Sequential(_unit(inputs, channels, 3, 2), _unit(channels, channels, 3))
        self.deeper = PlainSkip(channels, channels, levels - 1) if levels > 1 else nn.Identity()
        self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear")
        self.up = nn.Sequential(
            nn.BatchNorm3d(channels + 4), _unit(channels + 4, channels, 3), _unit(channels, channels, 1)
        )
        self.end = nn.Sequential(nn.Conv3d(channels, 1, 1), nn.Sigmoid()) if inputs == 32 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(1, inputs, z, y, x) -> (1, 1, z, y, x); of inner levels, `channels`."""
        result: Tensor = self.end(self.up(torch.cat([self.skip(x), self.enlarge(self.deeper(self.down(x)))], 1)))
        return result


def _unit(inputs: int, channels: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, channels, size, stride, padding=size // 2, padding_mode="reflect")
    return nn.Sequential(convolution, nn.BatchNorm3d(channels), nn.LeakyReLU(0.2, inplace=True))


def _problem(size: Index, device: str) -> Problem:
    image = np.random.default_rng(0).normal(0.5, 0.1, (1, *size)).astype(np.float32)
    return pose(image, Noise(kind="gaussian", sigma=0.1), torch.device(device))


def _timed(step: Any, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _cells(way: str, found: Mapping[str, Any], base: Mapping[str, Any]) -> Sequence[str]:
    plan = f"{found['plan_bytes'] / found['bytes']:.2f} x" if "plan_bytes" in found else ""
    ratios = (f"{base[key] / found[key]:.2f} x less" for key in ("seconds", "bytes"))
    return way, f"{found['seconds']:.3g}", f"{found['bytes'] / 2**30:.2f}", plan, *ratios


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [(48, 48, 48), (64, 64, 64)]
    parser.add_argument("--sizes", type=read_shape, nargs="+", default=sizes, help="voxels, Z,Y,X (default 48^3, 64^3)")
    parser.add_argument("--channels", type=int, default=128, help="(default 128)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=2, help="iterations measured (default 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="not used")
    return parser.parse_args()


if __name__ == "__main__":
    main()
