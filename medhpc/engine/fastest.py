"""Which engine is the fastest on this machine's processor: measured once for a kind of network, and remembered.

What is measured is a small network of the same kind on a small block: some tenths of a second, with OpenVINO one. The
file is ``engines.json`` in the user's cache folder; without one it is measured each time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs
import torch

import medhpc
from medhpc.engine.base import Engine
from medhpc.geometry import Index
from medhpc.kernel import library_path, usable_variants
from medhpc.nets import MSD

FILE = "engines.json"
KEPT = 100  # kinds of network that the file remembers
MAPS = 32  # of the network that is measured, at most
DILATION = 10  # its largest: reflection makes blocks longer than that
FLOPS = 2.5e8  # of one evaluation by each thread: some milliseconds
THREADS = 16  # ... of so many at most
CALLS = 3  # of each engine; the first has to compile or to load libraries
PATIENCE = 0.8  # seconds after which an engine is not called again, and no further one is tried: the machine is busy

Make = Callable[[str, torch.nn.Module], Engine]


def fastest(network: MSD, names: Sequence[str], make: Make, threads: int) -> str:
    """The engine that evaluates networks like this one in the least time.

    Parameters
    ----------
    network : MSD
    names : sequence of str
        Engines that can be had here, the likeliest first.
    make : callable
        Gives the engine of a name, for a network.
    threads : int
        That the engines compute with.
    """
    if len(names) == 1:
        return names[0]
    file, kind = platformdirs.user_cache_path("medhpc") / FILE, kind_of(network, threads)
    known = _read(file)
    seconds = known.get(kind, {})
    if not set(names) <= seconds.keys():
        seconds = measure(example_of(network), names, make, threads)
        if set(names) <= seconds.keys():
            _write(file, {**known, kind: seconds})
    return min(set(names) & seconds.keys(), key=lambda name: seconds[name])


def measure(network: MSD, names: Sequence[str], make: Make, threads: int) -> dict[str, float]:
    """Seconds that one evaluation takes each engine that was tried; infinite where it does not work."""
    block = np.zeros((network.in_channels, *_block_shape(network, threads)), np.float32)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    for name in names:
        if time.monotonic() - began > PATIENCE:
            break
        try:
            seconds[name] = _least_seconds(make(name, network), block)
        except (ImportError, OSError, RuntimeError):  # an extra that is installed, and broken
            seconds[name] = math.inf
    return seconds


def example_of(network: MSD) -> MSD:
    """A small network of the same kind, the same one for all of a kind."""
    width = _power_below(min(network.width, MAPS))
    with torch.random.fork_rng(devices=[]):  # leave the user's random numbers alone
        example = MSD(
            network.in_channels,
            network.out_channels,
            _depth(network),
            width,
            network.ndim,
            [min(s, DILATION) for s in network.dilations],
            network.padding,
        )
    return example.eval().requires_grad_(False)


def kind_of(network: MSD, threads: int) -> str:
    """What the choice depends on: this machine, these versions, the network in coarse form."""
    turn = sorted({min(s, DILATION) for s in network.dilations})
    return "; ".join(
        [
            _machine(),
            f"threads {threads}",
            f"{network.ndim}D, depth {_depth(network)}, width {_power_below(min(network.width, MAPS))}",
            f"channels {network.in_channels} to {network.out_channels}, {network.padding}, dilations {turn}",
        ]
    )


@cache
def _machine() -> str:
    variants = usable_variants()
    kernel = hashlib.sha256(library_path(variants[0]).read_bytes()).hexdigest()[:12] if variants else "none"
    versions = [f"medhpc {medhpc.__version__}", f"torch {torch.__version__}"]
    with suppress(importlib.metadata.PackageNotFoundError):
        versions.append(f"openvino {importlib.metadata.version('openvino')}")
    return "; ".join([_processor(), f"kernel {kernel} for {', '.join(variants) or 'nothing'}", *versions])


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _depth(network: MSD) -> int:
    return _power_below(min(network.depth, max(1, MAPS // network.width)))


def _power_below(number: int) -> int:
    return 2 ** (number.bit_length() - 1)


def _block_shape(network: MSD, threads: int) -> Index:
    """As many voxels as the threads compute in some milliseconds, and no fewer than the network can pad."""
    voxels = FLOPS * min(threads, THREADS) / network.n_flops(1)
    edge = max(*network.minimum_shape, round(voxels ** (1 / network.ndim)))
    return (1, edge, edge) if network.ndim == 2 else (edge, edge, edge)


def _least_seconds(engine: Engine, block: np.ndarray) -> float:
    """Of a few calls."""
    times: list[float] = []
    while len(times) < CALLS and sum(times) < PATIENCE:
        began = time.perf_counter()
        engine(block, "raw")
        times.append(time.perf_counter() - began)
    return min(times)


def _read(file: Path) -> dict[str, dict[str, float]]:
    """What is remembered; nothing where the file is absent, damaged or not ours."""
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {kind: seconds for kind, seconds in known.items() if _is_measure(seconds)}


def _is_measure(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(seconds, float) for seconds in value.values())


def _write(file: Path, known: Mapping[str, Mapping[str, float]]) -> None:
    """Remember it, whole or not at all; of two at once the later one wins."""
    latest = dict(list(known.items())[-KEPT:])
    with suppress(OSError):  # no home, or no room in it: it is measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=FILE, delete=False) as aside:
            aside.write(json.dumps(latest, indent=1) + "\n")
        os.replace(aside.name, file)
