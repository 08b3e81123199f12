"""The link between two ranks, by exchanges as a sweep makes them; two ranks of this program print it as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from medhpc.ranks.group import Ranks, joined
from medhpc.ranks.halo import Cut, Halo

SMALL, LARGE = 1, 4 * 2**20  # numbers in float32
ROUNDS = 20


def ping(ranks: Ranks, rounds: int = ROUNDS) -> dict[str, float]:
    """Latency (seconds) and bandwidth (bytes a second, both ways at once) of exchanges with a neighbour: medians."""
    latency, seconds = (_seconds(ranks, numbers, rounds) for numbers in (SMALL, LARGE))
    return {"latency": latency, "bandwidth": 4 * LARGE / max(seconds - latency, 1e-9)}


def _seconds(ranks: Ranks, numbers: int, rounds: int) -> float:
    """Of an exchange of so many numbers."""
    slab = torch.zeros(numbers, device="cpu" if ranks.device == "auto" else ranks.device)
    halo = Cut(ranks=ranks, axis=0).halo(numbers, numbers, "none")
    took = [_once(halo, slab) for _ in range(rounds + 1)]
    return statistics.median(took[1:])  # the first one connects


def _once(halo: Halo, slab: torch.Tensor) -> float:
    began = time.perf_counter()
    halo.begin(slab)()
    if slab.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Print what the first rank finds."""
    with joined(sys.argv[1]) as ranks:
        found = ping(ranks)
    if ranks.is_first:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
