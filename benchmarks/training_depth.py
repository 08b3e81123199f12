"""How deep a network is worth its time: MS-D networks of several depths, trained for equal minutes on one core.

    python -m benchmarks.training_depth DATA [--minutes 4] [--depths 12,24,50,85] [--sets ovule,cells3d]

DATA holds the folders of `benchmarks.acceptance`. Minutes are those of the processor, so that what else the machine
does takes no steps away. Of the ovule, one half trains and tunes how objects are parted, the other half is judged: Dice
and average precision at an IoU of 0.5. Of the cortex, the part that did not train is judged by F1 of its cells. A row
is written once it is there; what is written for the same minutes and another depth stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.acceptance import Work, segment, tune, whole
from benchmarks.child import in_child
from benchmarks.measure import RESULTS, publish, table
from medhpc import engine, nets
from medhpc.metrics import average_precision, dice, overlap
from medhpc.train.msd import train_msd

SETS = ("ovule", "cells3d")
SAME = ("minutes", "patch", "seed")
COLUMNS = ("set", "depth", "steps", "seconds a step", "held-out Dice", "Dice", "AP", "F1")


def main() -> None:
    """Train and judge row by row."""
    chosen = _arguments()
    place = chosen.results / "training_depth.json"
    rows: list[dict[str, Any]] = json.loads(place.read_text())["rows"] if place.exists() else []
    for name in chosen.sets.split(","):
        for depth in map(int, chosen.depths.split(",")):
            with tempfile.TemporaryDirectory(dir=chosen.scratch) as folder:
                work = Work(Path(folder), chosen.data.resolve(), chosen.minutes)
                key = {"set": name, "depth": depth, **{word: getattr(chosen, word) for word in SAME}}
                row = key | JUDGED[name](work, key)
            rows = [other for other in rows if any(other[word] != key[word] for word in key)] + [row]
            publish(chosen.results, "training_depth", {"rows": rows})
            print(json.dumps(row), flush=True)
    print(table(COLUMNS, [[_cell(row.get(column)) for column in COLUMNS] for row in rows]))


def ovule(work: Work, key: dict[str, Any]) -> dict[str, Any]:
    """One half trains and tunes, the other is judged."""
    file = work.data / "nuclei_ovule" / "1135_mini.h5"
    network = work / "net.safetensors"
    trained = train(f"{file}:/raw", f"{file}:/label", network, key, region=":50,:,:")
    image, truth = whole(f"{file}:/raw").astype(np.float32), whole(f"{file}:/label")
    probability = engine.load(nets.load(network), threads=1)((image - image.mean())[None] / image.std(), "classes")[1]
    settings = tune(probability[:50], truth[:50], [(0.5, 0.5)])[1:]
    labels = segment(probability, 0.5, *settings)[55:]
    voxels, objects = overlap(probability[55:] >= 0.5, truth[55:] > 0), overlap(labels, truth[55:])
    return trained | {"Dice": dice(voxels), "AP": average_precision(objects)}


def cells3d(work: Work, key: dict[str, Any]) -> dict[str, Any]:
    """Points teach on one side of the cortex; the cells found on the other side are judged."""
    folder, image = work.data / "cells3d", work / "cortex.ome.zarr"
    truth, network, found = folder / "cell_classification.xml", work / "net.safetensors", work / "cells.csv"
    work.medhpc("convert", folder / "*.tif", image, "--voxel-size", "5,2,2", "--unit", "um")
    trained = train(image, truth, network, key, radius=6.0, background="near", region=":,:285,:")
    options = ("--as", "labels", "--split", "--min-size", 10, "--objects", found, "--threads", 1)
    work.medhpc("run", image, work / "cells.ome.zarr", "--network", network, *options)
    judged = work.judge(found, truth, "--tolerance", 10, "--region", ":,285:,:", name="cells")
    return trained | {"F1": judged["f1"]}


JUDGED = {"ovule": ovule, "cells3d": cells3d}


def train(image: object, truth: object, network: Path, key: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Train in a process of its own, and say what came of it."""
    result = in_child(trained, str(image), str(truth), str(network), key, options).value
    return {
        "steps": result["steps"],
        "seconds a step": round(result["seconds_per_step"], 4),
        "best step": result["best_step"],
        "held-out Dice": result["dice"],
    }


def trained(image: str, truth: str, network: str, key: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Train on one core, by the processor's clock instead of that on the wall."""
    numbers = {name: key[name] for name in ("depth", "minutes", "patch", "seed")}
    with mock.patch("time.perf_counter", time.process_time):
        result = train_msd([(image, truth)], network, threads=1, device="cpu", resume=False, **numbers, **options)
    return result.as_dict()


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value}"


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="of the processor, for each training (default 4)")
    parser.add_argument("--depths", default="12,24,50,85", help="separated by commas (default 12,24,50,85)")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {','.join(SETS)} (default both)")
    parser.add_argument("--patch", help="voxels of a patch, Z,Y,X (default: that of train msd)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and patches (default 0)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    parser.add_argument("--scratch", type=Path, help="folder for temporary data (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
