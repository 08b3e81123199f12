"""How fast the engines are on this machine, and how near to what its processor can do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medhpc.engine.base import Engine
from medhpc.engine.choice import NAMES, TRIED, load, why_not
from medhpc.engine.threads import usable_threads
from medhpc.engine.triton import PRECISIONS, why_not_triton
from medhpc.geometry import Index
from medhpc.kernel import load_library, usable_variants
from medhpc.nets import MSD

PEAK_ROUNDS = 4_000_000  # of 12 multiply-adds: some tens of milliseconds


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one engine did with one network."""

    engine: str
    device: str
    threads: int
    variant: str  # instruction set of the native engine
    why_not: str  # "" where the engine is here; else the figures are 0
    voxels_per_second: float = 0.0  # of elapsed time
    gflops: float = 0.0  # direct convolution's operations per second of one thread's processor time
    of_peak: float | None = None  # the same over the measured peak; Winograd can exceed 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_engines(
    network: MSD, shape: Index = (48, 64, 64), *, names: Sequence[str] = TRIED, threads: int | None = None
) -> list[Speed]:
    """Run engines in turn on a block of noise.

    Parameters
    ----------
    network : MSD
    shape : (z, y, x)
    names : sequence of str
        Of :data:`medhpc.engine.NAMES`; the reference takes minutes where the others take seconds.
    threads : int, optional

    Returns
    -------
    list of Speed
        One for each engine that medhpc has; those not in `names` say so.
    """
    peak = measured_peak() if usable_variants() else None
    return [
        _measured(name, network, shape, threads, peak) if name in names else _left_out(name, network) for name in NAMES
    ]


def measured_peak(variant: str | None = None) -> float:
    """Floating-point operations per second of one thread, a multiply-add as two, with no memory in the way.

    Parameters
    ----------
    variant : str, optional
        Instruction set; the best of this processor by default.
    """
    library = load_library(variant or usable_variants()[0])
    return statistics.median(library.msd_peak(PEAK_ROUNDS) for _ in range(5))


def processor_seconds(engine: Engine, block: np.ndarray, rounds: int = 3) -> tuple[float, float]:
    """Medians of the process's CPU time and of the elapsed time of one evaluation, in seconds."""
    engine(block, "raw")  # memory and libraries
    times = []
    for _ in range(rounds):
        before = time.process_time(), time.perf_counter()
        engine(block, "raw")
        times.append((time.process_time() - before[0], time.perf_counter() - before[1]))
    return statistics.median(cpu for cpu, _ in times), statistics.median(elapsed for _, elapsed in times)


def _measured(name: str, network: MSD, shape: Index, threads: int | None, peak: float | None) -> Speed:
    threads = threads or usable_threads()
    variant = usable_variants()[0] if name == "native" and usable_variants() else ""
    reason = why_not(name, network)
    if reason:
        return Speed(engine=name, device="cpu", threads=threads, variant="", why_not=reason)
    engine = load(network, name=name, device="cpu", threads=threads)
    block = np.random.default_rng(0).normal(size=(network.in_channels, *shape)).astype(np.float32)
    processor, elapsed = processor_seconds(engine, block)
    voxels = math.prod(shape)
    flops = network.n_flops(voxels) / processor
    return Speed(
        engine=name,
        device=str(engine.device),
        threads=threads,
        variant=variant,
        why_not="",
        voxels_per_second=voxels / elapsed,
        gflops=flops / 1e9,
        of_peak=flops / peak if peak else None,
    )


def _left_out(name: str, network: MSD) -> Speed:
    reason = "not measured: slow, and the truth for the others"
    if name in PRECISIONS:
        reason = why_not_triton(network) or "not measured: this is about processors"
    return Speed(engine=name, device="cpu", threads=0, variant="", why_not=reason)


def example_network(depth: int = 30) -> MSD:
    """An MS-D network with random weights."""
    torch.manual_seed(0)
    return MSD(1, 2, depth).eval()
