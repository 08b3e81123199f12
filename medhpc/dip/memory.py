"""Whether a denoising fits into the memory that is there, and how much of the network must be computed twice for it."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

from medhpc.dip.options import Options
from medhpc.dip.plan import WORKSPACE, levels_to_save, need
from medhpc.engine.threads import control_groups
from medhpc.errors import NotEnoughMemory

MAPS = 16
"""Arrays of the finest level's size and widest level's channels that a step never exceeds, in float32."""
WEIGHTS = 10
"""Numbers per weight that a step never exceeds: itself, its gradient, Adam's moments, all of them once more."""


def levels_that_fit(
    shape: Sequence[int], options: Options, precision: str, device: torch.device, ranks: int, levels: int | None
) -> int:
    """Return how many levels are computed twice for an image of shape (1, channels, space): `levels`, if given.

    Raises
    ------
    NotEnoughMemory
        Not even so it fits.
    """
    free = torch.cuda.mem_get_info(device)[0] - WORKSPACE if device.type == "cuda" else free_bytes()
    if _at_most(shape, options) <= free:
        return levels or 0
    if levels is None:
        levels = levels_to_save(shape, options, precision, free, ranks)
    wanted = need(shape, options, precision, levels, ranks).peak
    if wanted > free:
        raise too_large(shape, options, wanted, ranks, free)
    return levels


def too_large(
    shape: Sequence[int], options: Options, wanted: int, ranks: int = 1, free: float = math.inf
) -> NotEnoughMemory:
    """What it takes, and what would fit."""
    levels = len(options.level_channels)
    small = Options(preset="small", method=options.method, factor=options.factor)
    ways = {
        f"--precision bf16 --checkpoint {levels}": need(shape, options, "bf16", levels, ranks).peak,
        "--preset small": need(shape, small, "fp32", 0, ranks).peak,
    }
    fitting = [f"{way} takes {_told(size)}" for way, size in ways.items() if size < min(wanted, free)]
    found = "this device has" if free == math.inf else f"{_told(free)} are free"
    advice = ", ".join([*fitting, "fewer --scales or a crop take less"])
    return NotEnoughMemory(f"tensors take {_told(wanted)}, more than {found}: {advice} (see medhpc dip-plan)")


def free_bytes() -> float:
    """Memory that this process can still get: of the machine, its control groups and its own limit."""
    free = [_machine(), *_groups()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - _numbers("/proc/self/statm")[0] * resource.getpagesize())
    return max(0.0, min(free))


def _machine() -> float:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return math.inf


def _groups() -> list[float]:
    """What is left of the limits of the control groups; files that the system keeps in memory give way."""
    left: list[float] = []
    for folder in control_groups():
        limit, used = _numbers(folder / "memory.max"), _numbers(folder / "memory.current")
        rows = [row.split() for row in _lines(folder / "memory.stat")]
        files = sum(int(size) for name, size in rows if name in ("active_file", "inactive_file"))
        left += [limit[0] - used[0] + files] if limit and used else []
    return left


def _numbers(path: str | Path) -> list[int]:
    return [int(word) for line in _lines(path) for word in line.split() if word.isdecimal()]


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _at_most(shape: Sequence[int], options: Options) -> int:
    """More bytes than a step takes; at once, while :func:`medhpc.dip.plan.need` takes a second."""
    space = [options.factor * n for n in shape[2:]]
    with torch.device("meta"):
        network = options.network(len(space), shape[1])
    widest = max(*options.level_channels, options.input_channels(shape[1]))
    return 4 * (MAPS * math.prod(network.filled_shape(space)) * widest + WEIGHTS * network.n_parameters)


def _told(size: float) -> str:
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 2**20:.3g} MiB"
