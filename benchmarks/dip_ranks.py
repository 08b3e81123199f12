"""Deep Image Prior over 1, 2 and 4 ranks: memory of a rank, and that the result does not depend on their number.

Each rank is a process of its own, over gloo. `plan` is what `medhpc dip-plan --ranks` says beforehand of the rank with
the thickest slab, `tensors` what those of the first two iterations held at most, `resident` what the process grew by.
The peer is one rank. In fp32 the first output is compared, in fp64 that after some iterations: trajectories of fp32 go
their own ways after a while, for any reason.

Last, what a rank's process grows by where nothing is computed: the volume is read, measured, cut, gathered and written
(`medhpc dip` with a descent that gives the noisy image back), a uint16 NIfTI file of --host-size voxels.

Claims: the plan is within 10 % of what tensors hold; N ranks need little more than an N-th each; the first output is
that of one rank within 1e-5, that in fp64 within 1e-8.

    python -m benchmarks.dip_ranks                                      # 64^3 and 32 channels, in minutes
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.child import in_child
from benchmarks.measure import options as common_options
from benchmarks.measure import publish, shape, table
from medhpc.dip import work
from medhpc.dip.denoise import denoise
from medhpc.dip.descent import begin, make_code, result_of, take_step
from medhpc.dip.draws import Draws
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.dip.plan import need
from medhpc.dip.precision import DOUBLE
from medhpc.dip.problem import Problem, pose
from medhpc.dip.share import Share
from medhpc.dip.state import State
from medhpc.dip.tally import Tally
from medhpc.geometry import Index
from medhpc.ranks.group import Ranks, joined
from medhpc.volume import create_volume

WAYS: Mapping[str, tuple[str, int]] = {"fp32": ("fp32", 0), "fp32, 2 levels twice": ("fp32", 2)}
SMALL: Index = (32, 24, 24)  # of the comparison in fp64


def main() -> None:
    arguments = _arguments()
    found: dict[str, dict[int, dict[str, Any]]] = {}
    outputs: dict[int, Any] = {}
    for way, (precision, levels) in WAYS.items():
        for ranks in arguments.ranks:
            parts = on_ranks(ranks, memory, arguments.size, arguments.channels, precision, levels)
            outputs.setdefault(ranks, parts[0].value["output"])
            plan = need((1, 1, *arguments.size), Options(channels=arguments.channels), precision, levels, ranks)
            found.setdefault(way, {})[ranks] = {
                "plan_bytes": plan.peak,
                "tensor_bytes": max(part.value["tensor_bytes"] for part in parts),
                "resident_bytes": max(part.peak - part.idle for part in parts),
                "seconds": max(part.seconds for part in parts),
            }
    doubles = {n: on_ranks(n, result, SMALL, 8, arguments.iterations)[0].value for n in arguments.ranks}
    apart = {"fp32, first output": _apart(outputs), f"fp64, {arguments.iterations} iterations": _apart(doubles)}
    print(f"{' x '.join(map(str, arguments.size))} voxels, {arguments.channels} channels; GiB of a rank")
    rows = [
        _cells(way, n, one, of_way[arguments.ranks[0]]) for way, of_way in found.items() for n, one in of_way.items()
    ]
    print(table(("way", "ranks", "plan", "tensors", "resident", "plan / tensors", "tensors of one / of each"), rows))
    for name, distances in apart.items():
        words = ", ".join(f"{n} ranks {distance:.1e}" for n, distance in distances.items())
        print(f"largest difference from one rank, {name}: {words}")
    print(f"{' x '.join(map(str, arguments.host_size))} voxels read, gathered and written; MiB that ranks grow by")
    host = {n: reading(arguments.host_size, n, arguments.scratch) for n in arguments.ranks}
    rows = [(str(n), _mib(each[:1]), _mib(each[1:])) for n, each in host.items()]
    print(table(("ranks", "the first", "of the others the largest"), rows))
    content = {"size": arguments.size, "channels": arguments.channels, "ways": found, "differences": apart}
    content |= {"host_size": arguments.host_size, "host_bytes": host}
    publish(arguments.results, "dip_ranks", content)


def _mib(sizes: Sequence[int]) -> str:
    return f"{max(sizes) / 2**20:.0f}" if sizes else "-"


def on_ranks(size: int, function: Any, *details: Any) -> list[Any]:
    """Outcomes of a function on each rank, in processes of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ThreadPoolExecutor(size) as pool:
        waiting = [pool.submit(in_child, function, rank, size, port, *details) for rank in range(size)]
        return [each.result() for each in waiting]


def memory(rank: int, size: int, port: int, space: Index, channels: int, precision: str, levels: int) -> dict[str, Any]:
    """Two iterations: the most that tensors held, and the first output (of the first rank)."""
    with _joined(rank, size, port) as ranks, Tally() as tally:
        options = Options(channels=channels, stop="none")
        problem = _problem(ranks, space, options)
        state, draws = begin(problem, options, 0, precision, levels), Draws(0, torch.device("cpu"))
        tally.adopt(state.network.parameters())
        code = make_code(problem, options, draws, precision)
        for number in range(2):
            take_step(state, problem, options, draws, code, problem.known, precision)
            if number == 0:
                first = _whole(problem, result_of(state))
    return {"tensor_bytes": tally.peak, "output": first}


def result(rank: int, size: int, port: int, space: Index, channels: int, iterations: int) -> Any:
    """What some iterations in fp64 make (on the first rank)."""
    with _joined(rank, size, port) as ranks:
        options = Options(channels=channels, scales=3, stop="none")
        problem = _problem(ranks, space, options)
        tensors = {name: getattr(problem, name).double() for name in ("image", "seen", "known")}
        problem = Problem(**{**vars(problem), **tensors})
        state, draws = begin(problem, options, 0, DOUBLE), Draws(0, torch.device("cpu"))
        code = make_code(problem, options, draws, DOUBLE)
        for _ in range(iterations):
            take_step(state, problem, options, draws, code, problem.known, DOUBLE)
        return _whole(problem, result_of(state))


def reading(size: Index, ranks: int, scratch: Path | None) -> list[int]:
    """What each rank grows by where nothing is computed."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        random, path = np.random.default_rng(0), Path(folder) / "noisy.nii"
        with create_volume(path, size, np.uint16) as writer:
            for z in range(size[0]):
                writer.write(z, random.normal(1000, 50, size[1:]).astype(np.uint16)[None])
        return [part.peak - part.idle for part in on_ranks(ranks, copied, str(path), f"{folder}/clean.nii")]


def copied(rank: int, size: int, port: int, noisy: str, clean: str) -> None:
    """`medhpc dip`, but for what is computed."""
    work.descend = _untouched
    with _joined(rank, size, port) as ranks:
        options = Options(preset="small", scales=1, channels=1)
        denoise(noisy, clean, options=options, device="cpu", threads=1, ranks=ranks)


def _untouched(problem: Problem, options: Options, seed: int, **_: Any) -> State:
    state = begin(problem, options, seed, "fp32")
    state.average, state.iteration = problem.image, 1
    nothing = dict.fromkeys(("held_out", "psnr", "ssim"))
    state.history.append({"iteration": 1, "seconds": 0.0, "loss": 1.0, "emv": 1.0, **nothing})
    return state


def _joined(rank: int, size: int, port: int) -> Any:
    torch.set_num_threads(1)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), **meeting})
    return joined("cpu")


def _problem(ranks: Ranks, space: Index, options: Options) -> Problem:
    image = np.random.default_rng(0).normal(0.5, 0.1, (1, *space)).astype(np.float32)
    share = Share.of(ranks, space, 1, options.network(3, 1))
    return pose(image, Noise(kind="gaussian", sigma=0.1), torch.device("cpu"), share=share)


def _whole(problem: Problem, part: torch.Tensor) -> Any:
    whole = part if problem.share.ranks.size == 1 else problem.share.whole(part)
    return None if whole is None else whole.numpy().copy()


def _apart(outputs: Mapping[int, Any]) -> dict[int, float]:
    """Largest differences from the first."""
    first, *others = outputs
    return {n: float(np.abs(outputs[n] - outputs[first]).max()) for n in others}


def _cells(way: str, ranks: int, one: Mapping[str, Any], alone: Mapping[str, Any]) -> Sequence[str]:
    sizes = [f"{one[name] / 2**30:.3f}" for name in ("plan_bytes", "tensor_bytes", "resident_bytes")]
    shares = f"{one['plan_bytes'] / one['tensor_bytes']:.2f}", f"{alone['tensor_bytes'] / one['tensor_bytes']:.2f}"
    return way, str(ranks), *sizes, *shares


def _arguments() -> Any:
    parser = common_options(__doc__, size="64,64,64", rounds=1)
    parser.add_argument("--host-size", type=shape, default="128,512,512", help="(default 128,512,512)")
    parser.add_argument("--channels", type=int, default=32, help="(default 32)")
    parser.add_argument("--iterations", type=int, default=20, help="in fp64 (default 20)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="the first is the peer (default 1 2 4)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
