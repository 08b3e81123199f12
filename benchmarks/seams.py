"""What tiling changes: the prediction in tiles against the prediction of the whole volume at once.

A trained network (benchmarks/network.py) on a volume that it was not trained on; naive tiling, medhpc with several
halos, MONAI's sliding window with its two ways of blending. Errors are of the foreground probability, before rounding.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import options, publish, table
from benchmarks.monai_window import Sliding, predict_sliding
from benchmarks.predictions import NETWORK, Errors, clip, errors_of, predict_tiled, predict_whole
from medhpc.demo_data import write_demo
from medhpc.geometry import Index

EDGE = 96  # voxels: of tiles and of windows
SETTINGS = [Sliding(roi=EDGE, mode=mode, overlap=n) for mode in ("constant", "gaussian") for n in (0.25, 0.5, 0.75)]
HALOS: tuple[int | str, ...] = (0, 8, 16, 32, "auto", "exact")


def main() -> None:
    arguments = options(__doc__, size="96,288,288", rounds=1).parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        found = measure(Path(folder), arguments.size)
    rows = [(name, *errors.cells(), f"{work:.1f}") for name, errors, work in found]
    text = table(("tiling", "max error", "mean error", "labels flipped", "computed / kept"), rows)
    print(text)
    worst = {name: errors.maximum for name, errors, _ in found}
    auto = next(value for name, value in worst.items() if "auto" in name)
    best = min(value for name, value in worst.items() if name.startswith("MONAI"))
    print(f"max error, MONAI's best setting / medhpc's halo auto: {best / max(auto, 1e-7):.0f}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "seams.md").write_text(text + "\n")
    result: list[dict[str, Any]] = [{"tiling": name, **vars(errors), "work": work} for name, errors, work in found]
    publish(arguments.results, "seams", {"voxels": arguments.size, "edge": EDGE, "rows": result})


def measure(folder: Path, size: Index) -> list[tuple[str, Errors, float]]:
    """(name, errors, voxels computed for each voxel kept) of each way."""
    source = write_demo(folder, shape=size, cells=round(np.prod(size) / 32768)).volume
    shape = clip((EDGE, EDGE, EDGE), size)
    found = []
    for halo in HALOS:
        prediction, plan = predict_tiled(source, folder / "run", NETWORK, shape, halo)
        if halo == 0:
            reference = predict_whole(source, NETWORK, plan)
        name = "naive, no halo" if halo == 0 else f"medhpc, halo {max(plan.halo.size)}"
        name += f" ({halo})" if isinstance(halo, str) else ""
        found.append((name, errors_of(prediction, reference), plan.grid.read_amplification))
    for setting in SETTINGS:
        prediction, work = predict_sliding(source, NETWORK, plan, setting)
        found.append((str(setting), errors_of(prediction, reference), work))
    return found


if __name__ == "__main__":
    main()
