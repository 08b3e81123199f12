"""The main job on real images: train on one part, judge on another, look at the pictures.

    python -m benchmarks.acceptance DATA [--only ovule] [--work FOLDER] [--minutes 5]

DATA holds folders of public images: nuclei_ovule (1135_mini.h5 of PlantSeg's tests), ct (TotalSegmentator's reference
files), cells3d (cellfinder's test data), nuclei3d (StarDist's example). Every step is a command of medhpc as a user
types it. Pictures go to the work folder, figures and commands also to benchmarks/results/acceptance.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage
from skimage.filters import threshold_otsu

from benchmarks.measure import provenance
from medhpc import objects
from medhpc.geometry import Box
from medhpc.metrics import average_precision, overlap
from medhpc.volume import create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "acceptance.json"


class Work:
    """The folder of one data set, the commands run in it, and their figures."""

    def __init__(self, folder: Path, data: Path, minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.minutes = folder, data, minutes
        self.figures: dict[str, Any] = {}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def medhpc(self, *arguments: object, name: str = "") -> dict[str, Any]:
        """Run a command; keep its JSON, time and peak memory under `name`."""
        words = [str(word) for word in arguments]
        print("$ medhpc", " ".join(words), flush=True)
        began = time.monotonic()
        code = "from medhpc.cli import main; main()"
        in_json = words[0] != "convert"
        command = [sys.executable, "-c", code, *words, *(["--json"] if in_json else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        result: dict[str, Any] = json.loads(done.stdout) if in_json else {}
        if name:
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            told = {"command": " ".join(["medhpc", *words]), "wall_seconds": round(time.monotonic() - began, 1)}
            self.figures[name] = told | {"peak_bytes_so_far": peak} | result
        return result

    def judge(self, result: Path, truth: object, *options: object, name: str) -> dict[str, Any]:
        """Evaluate, and print the figures that are there."""
        found = self.medhpc("evaluate", result, truth, *options, name=name)
        keys = ("dice", "iou", "ap50", "precision", "recall", "f1")
        print("  ", name, {key: round(found[key], 3) for key in keys if found.get(key) is not None}, flush=True)
        return found


def ovule(work: Work) -> None:
    """Nuclei of an ovule: half trains and tunes, the other half judges; Otsu and watershed likewise."""
    file = work.data / "nuclei_ovule" / "1135_mini.h5"
    image, truth, judged = f"{file}:/raw", f"{file}:/label", "55:,:,:"
    network, probability = work / "net.safetensors", work / "probability.ome.zarr"
    options = ("--out", network, "--region", ":50,:,:", "--minutes", work.minutes)
    work.medhpc("train", "msd", image, truth, *options, name="train")
    run = work / "run"
    work.medhpc("tile", image, run, "--network", network, "--tile", "64,64,64", name="tile")
    work.medhpc("infer", run, name="infer")
    work.medhpc("stitch", run, probability, "--as", "probability")
    smooth, depth, size = tune(whole(probability)[:50] / 255.0, whole(truth)[:50], [(0.5, 0.5)])[1:]
    labels = work / "labels.ome.zarr"
    splitting = ("--split", "--smooth", smooth, "--split-depth", depth, "--min-size", size)
    work.medhpc("stitch", run, labels, "--as", "labels", *splitting, "--objects", work / "cells.csv", name="stitch")
    work.judge(labels, truth, "--region", judged, name="medhpc")
    work.judge(labels, truth, "--region", judged, "--seams", run, name="seams")

    gray = whole(image).astype(float)
    level = threshold_otsu(gray[:50])
    levels = [(factor, factor * level) for factor in (0.8, 1.0, 1.2, 1.5, 1.8)]
    factor, *best = tune(gray[:50], whole(truth)[:50], levels)
    classical = segment(gray, factor * level, *best)
    work.figures["otsu_settings"] = {"factor": factor, "smooth": best[0], "split_depth": best[1], "min_size": best[2]}
    save(work / "otsu.tif", classical)
    work.judge(work / "otsu.tif", truth, "--region", judged, name="otsu_watershed")
    panels = {"image": gray, "truth": whole(truth), "medhpc": whole(labels), "Otsu + watershed": classical}
    draw(work / "ovule.png", panels, planes=(60, 75, 90))


def segment(image: np.ndarray, level: float, smooth: float, depth: float, size: int) -> np.ndarray:
    """Smooth, threshold, label, split; the classical way, and ours after the network."""
    labels = objects.label(ndimage.gaussian_filter(image, smooth) >= level)
    result = np.zeros(labels.shape, np.int32)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[box] == number
        parts = objects.split(mask, (2.24, 1, 1), depth)
        for part in range(1, parts.max() + 1):
            if np.count_nonzero(parts == part) >= size:
                result[box][parts == part] = result.max() + 1
    return result


def tune(image: np.ndarray, truth: np.ndarray, levels: Sequence[tuple[float, float]]) -> tuple[Any, ...]:
    """The settings (level's name, smooth, depth, size) of the best average precision on this part."""

    def score(setting: tuple[tuple[float, float], float, float, int]) -> float:
        (_, level), *rest = setting
        return average_precision(overlap(segment(image, level, *rest), truth))

    best = max(itertools.product(levels, (1.0, 2.0), (0.05, 0.1, 0.2, 0.3), (50, 300)), key=score)
    return (best[0][0], *best[1:])


def ct(work: Work) -> None:
    """Bone in a body CT: one side trains, the other judges; then a whole body, and a DICOM series.

    Hounsfield units mean the same in every scan, so they are normalised as those of the training.
    """
    folder = work.data / "ct"
    image, truth = folder / "example_ct_sm.nii.gz", folder / "example_ct_sm_seg.nii.gz"
    network, bone = work / "bone.safetensors", "bone=26-50,92-116"
    using = ("--network", network, "--normalize", "network")
    half = ("--region", ":,:,:61")
    training = ("--out", network, "--classes", bone, *half, "--minutes", work.minutes)
    work.medhpc("train", "msd", image, truth, *training, name="train")
    small = work / "small.nii.gz"
    work.medhpc("run", image, small, *using, name="run")
    judged = ("--region", ":,:,61:", "--classes", bone, "--as", "mask")
    work.judge(small, truth, *judged, name="other_side")
    body = work / "body.nii.gz"
    work.medhpc("run", folder / "example_ct.nii.gz", body, *using, name="body")
    series = folder / "dicom"
    work.medhpc("info", series, name="dicom_info")
    work.medhpc("convert", series, work / "dicom.nii.gz")
    work.medhpc("run", series, work / "dicom_bone.nii.gz", *using, name="dicom_run")
    scan, found = whole(folder / "example_ct.nii.gz").clip(-200, 800), whole(body)
    sides = {"CT": whole(image).clip(-200, 800), "truth": bones(whole(truth)), "bone": whole(small)}
    draw(work / "small.png", sides, planes=(4, 11, 18, 25))
    draw(work / "body.png", {"CT": scan, "bone": found}, planes=(20, 45, 70, 95))
    slices = {"DICOM": whole(work / "dicom.nii.gz").clip(-200, 800), "bone": whole(work / "dicom_bone.nii.gz")}
    draw(work / "dicom.png", slices, planes=(4, 10, 16))


def bones(labels: np.ndarray) -> np.ndarray:
    """The bones of a label map of TotalSegmentator: vertebrae, ribs and sternum."""
    return ((labels >= 26) & (labels <= 50)) | ((labels >= 92) & (labels <= 116))


def cells3d(work: Work) -> None:
    """Cells of a mouse cortex, a few of them annotated: recall of those that were not trained on."""
    folder = work.data / "cells3d"
    image, network, run = work / "cortex.ome.zarr", work / "cells.safetensors", work / "run"
    truth = folder / "cell_classification.xml"
    work.medhpc("convert", folder / "*.tif", image, "--voxel-size", "5,2,2", "--unit", "um")
    points = ("--radius", 6, "--background", "near", "--region", ":,:285,:")
    work.medhpc("train", "msd", image, truth, "--out", network, *points, "--minutes", work.minutes, name="train")
    work.medhpc("tile", image, run, "--network", network, "--tile", "30,128,128", name="tile")
    work.medhpc("infer", run, name="infer")
    labels, table = work / "cells.ome.zarr", work / "cells.csv"
    splitting = ("--as", "labels", "--split", "--min-size", 10)
    work.medhpc("stitch", run, labels, *splitting, "--objects", table, name="stitch")
    work.judge(table, truth, "--tolerance", 10, "--region", ":,285:,:", name="cells")
    panels = {"cortex": whole(image).astype(float).clip(0, 1200), "cells": whole(labels)}
    draw(work / "cortex.png", panels, planes=(12, 16), points=truth)


def nuclei3d(work: Work) -> None:
    """A few nuclei with instance labels: so small that the figures mean little."""
    image, truth = work.data / "nuclei3d" / "img3d.tif", work.data / "nuclei3d" / "mask3d.tif"
    network, labels = work / "net.safetensors", work / "labels.tif"
    options = ("--region", ":,:,:30", "--validation", 0, "--minutes", work.minutes / 2)
    work.medhpc("train", "msd", image, truth, "--out", network, *options, name="train")
    splitting = ("--as", "labels", "--split", "--smooth", 1, "--min-size", 30)
    work.medhpc("run", image, labels, "--network", network, *splitting, name="run")
    work.judge(labels, truth, "--region", ":,:,30:", name="other_half")
    panels = {"image": whole(image).astype(float), "truth": whole(truth), "medhpc": whole(labels)}
    draw(work / "nuclei.png", panels, planes=(10, 18))


def large(work: Work) -> None:
    """A volume of 2304 x 1280 x 1024: plan it, and infer two of its tiles in 4 GB."""
    volume, run = work / "large.tif", work / "run"
    if not volume.exists():
        enlarge(work.data / "cells3d", volume)
    network = work.folder.parent / "cells3d" / "cells.safetensors"
    work.medhpc("info", volume, name="info")
    plan = work.medhpc("tile", volume, run, "--network", network, "--memory", "4G", name="tile")
    work.medhpc("infer", run, "--tiles", "0:2", name="infer")
    print("  ", {key: plan[key] for key in ("tiles", "tile", "halo", "seconds", "memory_bytes")})


def enlarge(planes: Path, out: Path, shape: tuple[int, int, int] = (2304, 1280, 1024)) -> None:
    """Repeat the cortex, mirrored so that nothing jumps, with noise."""
    with open_volume(planes / "*.tif") as volume:
        block = volume.read(Box.whole(volume.shape))[0]
    block = np.pad(np.concatenate([block, block[::-1]]), [(0, 0), (0, 770), (0, 357)], mode="symmetric")
    noise = np.random.default_rng(0).normal(0, 12, block.shape[1:])
    with create_volume(out, shape, np.uint16, voxel_size=(5, 2, 2), unit="um") as writer:
        for z in range(shape[0]):
            shifted = np.roll(noise, (z * 37, z * 91), (0, 1))
            writer.write(z, np.clip(block[z % len(block)] + shifted, 0, 65535).astype(np.uint16)[None])


def whole(path: object) -> np.ndarray:
    """A small volume, (z, y, x)."""
    with open_volume(str(path)) as volume:
        return volume.read(Box.whole(volume.shape))[0]


def save(path: Path, labels: np.ndarray) -> None:
    """Write labels as a volume."""
    with create_volume(path, labels.shape, np.uint16) as writer:
        writer.write(0, labels.astype(np.uint16))


def draw(path: Path, panels: dict[str, np.ndarray], planes: Sequence[int], points: Path | None = None) -> None:
    """A row per plane, a column per volume; integer volumes in many colours."""
    figure = Figure(figsize=(4 * len(panels), 3.6 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), len(panels), squeeze=False)
    for (row, z), (column, name) in itertools.product(enumerate(planes), enumerate(panels)):
        plane, axis = panels[name][z], axes[row, column]
        if np.issubdtype(plane.dtype, np.floating) or name in ("CT", "DICOM"):
            axis.imshow(plane, cmap="gray")
        else:
            axis.imshow(np.ma.masked_equal(plane.astype(int), 0) % 19, cmap="tab20", interpolation="nearest")
        if points is not None:
            from medhpc.points import read_points

            marked = read_points(points).positions
            near = marked[np.abs(marked[:, 0] - z) <= 1]
            axis.scatter(near[:, 2], near[:, 1], s=30, facecolors="none", edgecolors="tab:red")
        axis.set_title(f"{name}, z = {z}")
        axis.set_axis_off()
    figure.savefig(path, dpi=70)


PARTS: dict[str, Callable[[Work], None]] = {part.__name__: part for part in (ovule, ct, cells3d, nuclei3d, large)}


def main() -> None:
    """Run the parts asked for, and keep the figures of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--work", type=Path, default=Path("acceptance"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    options = parser.parse_args()
    for name in [options.only] if options.only else PARTS:
        work = Work(options.work / name, options.data.resolve(), options.minutes)
        PARTS[name](work)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        told = json.dumps({"measured": provenance(), **work.figures})
        for folder, word in ((options.data.resolve(), "DATA"), (options.work.resolve(), "WORK")):
            told = told.replace(str(folder), word)  # the figures name no place of this machine
        kept[name] = json.loads(told)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
