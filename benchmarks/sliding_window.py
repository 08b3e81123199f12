"""Tiled inference with the same network, from a volume on disk to a prediction on disk: medhpc against MONAI.

Both use the same cores and the same tile (MONAI's window is as large as medhpc's tile without its halo), read the same
TIFF, and write ``round(255 p)`` to a sharded Zarr array with the same codec. Plans are made before; imports do not
count as time, but as memory. Every result is compared with the un-tiled prediction. A setting of MONAI is then compared
with the fastest halo of medhpc whose seam error is no worse by each of three measures: largest, mean, labels flipped.

Claims: at equal seam error medhpc is faster, with less memory.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.child import Outcome, in_child
from benchmarks.measure import alternate, median_peak, median_seconds, options, publish, table
from benchmarks.monai_window import Sliding, slide
from benchmarks.predictions import NETWORK, Errors, clip, errors_of, infer_anew, predict_whole
from benchmarks.volumes import write_cells
from medhpc.geometry import Index
from medhpc.run import Run
from medhpc.tiling import tile

EDGE = 128  # voxels: of tiles and windows
HALOS: tuple[int | str, ...] = (8, 16, "auto")
SETTINGS = [Sliding(roi=EDGE, mode=mode, overlap=n) for mode in ("constant", "gaussian") for n in (0.25, 0.5)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one way took, and how far it is from the un-tiled prediction."""

    seconds: float
    peak_mib: float  # of the process
    beyond_mib: float  # of it, beyond what the imports take
    errors: Errors


def main() -> None:
    arguments = options(__doc__, size="160,384,384", rounds=3).parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        ours, theirs = measure(Path(folder), arguments.size, arguments.rounds)
    rows = [
        (name, f"{result.seconds:.1f}", f"{result.peak_mib:.0f}", f"{result.beyond_mib:.0f}", *result.errors.cells())
        for name, result in (ours | theirs).items()
    ]
    print(table(("way", "seconds", "peak MiB", "beyond imports", "max error", "mean error", "labels flipped"), rows))
    comparisons = [compare(name, result, ours) for name, result in theirs.items()]
    for c in comparisons:
        print(
            f"{c['monai']} / {c['medhpc']}: time {c['time_ratio']:.2f}, memory {c['memory_ratio']:.2f}"
            f" (beyond imports {c['memory_ratio_beyond_imports']:.2f})"
        )
    ways = {name: asdict(result) for name, result in (ours | theirs).items()}
    content = {"voxels": arguments.size, "rounds": arguments.rounds, "ways": ways, "comparisons": comparisons}
    publish(arguments.results, "sliding_window", content)


def compare(name: str, theirs: Result, ours: dict[str, Result]) -> dict[str, Any]:
    """A setting of MONAI against the fastest halo of medhpc whose errors are no worse."""
    as_good = {way: result for way, result in ours.items() if _no_worse(result.errors, theirs.errors)}
    way = min(as_good, key=lambda way: as_good[way].seconds)
    return {
        "monai": name,
        "medhpc": way,
        "time_ratio": theirs.seconds / ours[way].seconds,
        "memory_ratio": theirs.peak_mib / ours[way].peak_mib,
        "memory_ratio_beyond_imports": theirs.beyond_mib / ours[way].beyond_mib,
    }


def measure(folder: Path, size: Index, rounds: int) -> tuple[dict[str, Result], dict[str, Result]]:
    """Results of medhpc's halos, and of MONAI's settings."""
    source, shape = write_cells(folder / "volume.tif", size, seed=7), clip((EDGE,) * 3, size)
    runs, jobs = {}, {}
    for halo in HALOS:
        run = folder / f"halo-{halo}.run"
        plan = tile(source, run, network=NETWORK, tile=shape, halo=halo)
        name = f"medhpc, tile {EDGE}, halo {max(plan.halo.size)}" + (" (auto)" if halo == "auto" else "")
        runs[name] = run
        jobs[name] = lambda run=run: in_child(infer_anew, run)
    for setting in SETTINGS:
        runs[str(setting)] = folder / f"{setting}.zarr"
        jobs[str(setting)] = lambda setting=setting: in_child(slide, source, plan, setting, folder / f"{setting}.zarr")
    outcomes = alternate(jobs, rounds)
    reference = predict_whole(source, NETWORK, plan)
    results = {name: _result(runs[name], outcomes[name], reference) for name in jobs}
    ours = {name: result for name, result in results.items() if name.startswith("medhpc")}
    return ours, {name: result for name, result in results.items() if name not in ours}


def _result(path: Path, outcomes: list[Outcome], reference: np.ndarray) -> Result:
    array = Run(path).shards.array[0] if path.suffix == ".run" else zarr.open_array(path, mode="r")[...]
    return Result(
        seconds=median_seconds(outcomes),
        peak_mib=median_peak(outcomes),
        beyond_mib=statistics.median(outcome.peak - outcome.idle for outcome in outcomes) / 2**20,
        errors=errors_of(np.asarray(array) / np.float32(255), np.rint(reference * 255) / np.float32(255)),
    )


def _no_worse(ours: Errors, theirs: Errors) -> bool:
    return ours.maximum <= theirs.maximum and ours.mean <= theirs.mean and ours.flipped <= theirs.flipped


if __name__ == "__main__":
    main()
