"""The demo: the whole main job on a light-sheet volume that it makes itself, with cells whose centres are known.

Trains on one corner, predicts the whole volume in tiles, lists the cells, and judges them on the half that the network
never saw. Then the same volume once more without tiles, and once without halo: what a seam costs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.demo_data import write_demo
from medhpc.demo_figure import draw_demo
from medhpc.evaluate import evaluate
from medhpc.geometry import Index
from medhpc.infer import infer
from medhpc.run import Plan, Run
from medhpc.run.durable import write_durably
from medhpc.stitch import stitch
from medhpc.tiling import tile
from medhpc.train.msd import train_msd

SHAPE = (192, 384, 384)
CELLS = 860
LEAST_STEPS, LEAST_DEPTH = 150, 12  # below some 100 steps no cell has been found yet (measured)
RADIUS = 5.0  # micrometres: what a centre is drawn as
MIN_SIZE = 20  # voxels: smaller objects are specks
TOLERANCE = 5.0  # micrometres: how far a found centre may be from a true one

UNITS = {
    "halo": "voxels",
    "precision, recall, f1": "of 1",
    "max_error": "largest difference to the un-tiled probability, of 1",
    "labels_flipped": "voxels on the other side of probability 0.5 than un-tiled",
    "seconds": "s",
}

Say = Callable[[str], None]
Planned = Callable[[Plan, Path], None]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where things are, and what was measured."""

    folder: Path
    picture: Path
    figures: dict[str, Any]


def run_demo(
    folder: str | Path,
    *,
    minutes: float = 2.0,
    shape: Index = SHAPE,
    cells: int = CELLS,
    say: Say = lambda line: None,
    planned: Planned = lambda plan, run: None,
    report: Report | None = None,
) -> DemoResult:
    """Make a volume, train, tile, infer, stitch, evaluate, compare, draw.

    Parameters
    ----------
    folder : path
        Everything is written here; what an earlier demo left is made anew.
    minutes : float
        Training time.
    shape : (z, y, x)
        Of the volume; half of it along y and x must leave room for training (48 voxels do).
    cells : int
        How many to place.
    say : callable
        Gets each command as a user would type it, before its work is done, and how the training stands.
    planned : callable, optional
        Gets each plan and its run folder.
    report : callable, optional
        Gets (stage, done, total).

    Returns
    -------
    DemoResult
        Also written as ``figures.json`` and ``demo.png``.
    """
    began = time.monotonic()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    steps = _Steps(folder, shape, say, planned, report)
    say(f"making a light-sheet volume of {' x '.join(map(str, shape))} voxels with known cells")
    write_demo(folder, shape, cells)
    trained = steps.train(minutes)
    if trained.steps < LEAST_STEPS:
        say(f"{trained.steps} steps are too few to find a cell: this machine is slow or busy, so {LEAST_STEPS} instead")
        trained = steps.train(None)
    half = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    figures: dict[str, Any] = {
        "units": UNITS,
        "cells_match_within_um": TOLERANCE,
        "judged_region": steps.rest,
        "training": {"depth": trained.depth, "steps": trained.steps, "minutes": minutes, "region": steps.corner},
        "tiled": steps.predict("tiled", tile=half, halo="auto"),
        "whole": steps.predict("whole", tile=shape, halo=0),
        "without_halo": steps.predict("without_halo", tile=half, halo=0),
    }
    figures["tiled"]["title"] = f"tiled, halo {figures['tiled']['halo']} (auto)"
    figures["whole"]["title"] = "not tiled"
    figures["without_halo"]["title"] = "tiled without a halo"
    for name in ("tiled", "without_halo"):
        figures[name] |= steps.seam_error(name)
    figures["seconds"] = round(time.monotonic() - began, 1)
    say("drawing demo.png")
    write_durably(folder / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
    picture = folder / "demo.png"
    draw_demo(folder, picture, figures)
    return DemoResult(folder=folder, picture=picture, figures=figures)


@dataclass(frozen=True)
class _Steps:
    """The steps of the demo; each says the command that a user would type for it."""

    folder: Path
    shape: Index
    say: Say
    planned: Planned
    report: Report | None

    @property
    def corner(self) -> str:
        """What is trained on: a quarter of the volume."""
        return f":,:{self.shape[1] // 2},:{self.shape[2] // 2}"

    @property
    def rest(self) -> str:
        """What is judged: the half that the corner is not in."""
        return f":,{self.shape[1] // 2}:,:"

    def train(self, minutes: float | None) -> Any:
        """A network from the centres in one corner: for some minutes, or for the least number of steps."""
        volume, centres, network = (self.folder / name for name in ("volume.tif", "centres.csv", "network.safetensors"))
        steps = None if minutes else LEAST_STEPS
        length = f"--minutes {minutes:g}" if minutes else f"--depth {LEAST_DEPTH} --steps {LEAST_STEPS}"
        options = f"--radius {RADIUS} --region {self.corner} {length}"
        self.say(f"$ medhpc train msd {volume} {centres} --out {network} {options}")
        return train_msd(
            [(volume, centres)],
            network,
            radius=RADIUS,
            region=self.corner,
            minutes=minutes,
            steps=steps,
            depth=None if minutes else LEAST_DEPTH,
            resume=False,
            progress=self._bar("train"),
            report=lambda standing: self.say(str(standing)),
        )

    def predict(self, name: str, *, tile: Index, halo: str | int) -> dict[str, Any]:
        """Tile, infer, stitch and evaluate; the figures of one way to predict."""
        run, labels, cells = (self.folder / f"{name}{suffix}" for suffix in (".run", ".ome.zarr", ".csv"))
        if run.exists():
            shutil.rmtree(run)
        plan = self._tile(run, tile, halo)
        self.say(f"$ medhpc infer {run}")
        inferred = infer(run, progress=self._bar("infer"))
        self.say(f"$ medhpc stitch {run} {labels} --as labels --split --min-size {MIN_SIZE} --objects {cells}")
        bar = self._bar("stitch")
        stitched = stitch(run, labels, kind="labels", split=True, min_size=MIN_SIZE, objects=cells, progress=bar)
        centres = self.folder / "centres.csv"
        self.say(f"$ medhpc evaluate {cells} {centres} --tolerance {TOLERANCE} --region {self.rest}")
        judged = evaluate(cells, centres, tolerance_um=TOLERANCE, region=self.rest)
        found = judged.as_dict()
        return {
            "tiles": len(plan.grid),
            "halo": max(plan.halo.size),
            "halo_tolerance": plan.halo.tolerance or None,
            "cells": stitched.objects,
            "precision": found["precision"],
            "recall": found["recall"],
            "f1": found["f1"],
            "infer_seconds": round(inferred.seconds, 1),
        }

    def seam_error(self, name: str) -> dict[str, float | int]:
        """How far the tiled prediction is from the un-tiled one, in probability."""
        tiled, whole = (Run(self.folder / f"{which}.run").shards.array for which in (name, "whole"))
        largest, flipped = 0.0, 0
        for z in range(0, whole.shape[1], 32):
            a, b = tiled[0, z : z + 32], whole[0, z : z + 32]
            largest = max(largest, float(np.abs(a.astype(np.int16) - b).max()) / 255)
            flipped += int(np.count_nonzero((a >= 128) != (b >= 128)))
        return {"max_error": largest, "labels_flipped": flipped, "voxels": whole[0].size}

    def _tile(self, run: Path, tile_shape: Index, halo: str | int) -> Plan:
        volume, network = self.folder / "volume.tif", self.folder / "network.safetensors"
        text = ",".join(map(str, tile_shape))
        self.say(f"$ medhpc tile {volume} {run} --network {network} --tile {text} --halo {halo}")
        plan = tile(volume, run, network=network, tile=tile_shape, halo=halo, report=self.report)
        self.planned(plan, run)
        return plan

    def _bar(self, stage: str) -> Callable[[int, int], None] | None:
        report = self.report
        return None if report is None else lambda done, total: report(stage, done, total)
