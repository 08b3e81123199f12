"""Peak memory of infer and stitch, for volumes of growing length: it must not grow with them.

There is no peer: the measure is the longest volume against the shortest. Each call runs in a process of its own; its
peak holds Python, torch and the other libraries too.

Claim: flat. (Whatever holds the whole volume would show the ratio of the lengths.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bright import bright
from benchmarks.child import in_child
from benchmarks.measure import options, publish, table
from benchmarks.volumes import write_cells
from medhpc.geometry import Index
from medhpc.infer import infer
from medhpc.stitch import stitch
from medhpc.tiling import tile

TILE = (64, 256, 256)
MIN_SIZE = 50  # voxels: smaller objects are noise


def infer_bright(run: Path) -> None:
    infer(run, network=bright())


def main() -> None:
    parser = options(__doc__, size="64,512,512", rounds=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 4, 8], help="times the planes of --size")
    arguments = parser.parse_args()
    z, y, x = arguments.size
    lengths = [z * n for n in arguments.lengths]
    peaks: dict[str, list[float]] = {}
    for length in lengths:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            for job, peak in measure(Path(folder), (length, y, x)).items():
                peaks.setdefault(job, []).append(peak)
    growth = {job: values[-1] / values[0] for job, values in peaks.items()}
    rows = [(job, *(f"{peak:.0f}" for peak in values), f"{growth[job]:.2f}") for job, values in peaks.items()]
    print(f"peak memory in MiB, volumes of N x {y} x {x} voxels")
    print(table(("job", *(f"N = {n}" for n in lengths), "longest / shortest"), rows))
    print(f"largest ratio: {max(growth.values()):.2f} (volumes: {lengths[-1] / lengths[0]:.0f})")
    publish(arguments.results, "memory", {"planes": lengths, "plane": [y, x], "peak_mib": peaks, "growth": growth})


def measure(folder: Path, size: Index) -> dict[str, float]:
    """Peak memory of each job in MiB."""
    source = write_cells(folder / "volume.tif", size)
    fitting: Any = tuple(min(t, n) for t, n in zip(TILE, size, strict=True))
    raw, probability = folder / "raw.run", folder / "probability.run"
    tile(source, raw, network="identity", store="raw", tile=fitting)
    tile(source, probability, network=bright(), halo="exact", tile=fitting)
    jobs: dict[str, Callable[[], Any]] = {
        "infer, raw": lambda: in_child(infer, raw),
        "infer, probability": lambda: in_child(infer_bright, probability),
        "stitch, raw": lambda: in_child(stitch, raw, folder / "raw.ome.zarr", kind="raw"),
        "stitch, mask": lambda: in_child(stitch, probability, folder / "mask.ome.zarr", kind="mask"),
        "stitch, labels": lambda: in_child(
            stitch,
            probability,
            folder / "labels.ome.zarr",
            kind="labels",
            min_size=MIN_SIZE,
            objects=folder / "cells.csv",
        ),
        "stitch, labels split": lambda: in_child(
            stitch,
            probability,
            folder / "split.ome.zarr",
            kind="labels",
            min_size=MIN_SIZE,
            split=True,
        ),
    }
    return {job: run().peak / 2**20 for job, run in jobs.items()}


if __name__ == "__main__":
    main()
