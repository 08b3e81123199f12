"""Fill README.md with what its commands print, and draw docs/seam.png: ``.venv/bin/python docs/refresh.py [FOLDER]``.

The commands run in FOLDER (a temporary one unless given), on the volume that `medhpc demo` makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medhpc.demo_data import write_demo
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.run import Run
from medhpc.tiling import tile
from medhpc.volume import open_volume

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
MARK = "<!-- README:commands -->\n```\n"
SIDE = 40  # voxels around the place that is shown


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="medhpc-readme-")).resolve()
    write_demo(folder)
    os.chdir(folder)
    before, _, rest = README.read_text().partition(MARK)
    commands, _, after = rest.partition("```")
    filled = [f"$ {command}\n{run(command)}" for command in re.findall(r"^\$ (.*)$", commands, re.MULTILINE)]
    README.write_text(before + MARK + "\n".join(filled) + "```" + after)
    draw_seam(folder / "volume.run", folder / "without_halo.run", DOCS / "seam.png")


def run(command: str) -> str:
    """What a command prints; of a training, the first and the last judgements."""
    print("$", command, flush=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = subprocess.run(command, shell=True, check=True, text=True, stdout=subprocess.PIPE, env=environment).stdout
    print(printed, flush=True)
    return re.sub(r"((?:^step .*\n){2})(?:^step .*\n)+(^step .*\n)", r"\1...\n\2", printed, flags=re.MULTILINE)


def draw_seam(right: Path, wrong: Path, picture: Path) -> None:
    """Draw the place at which a prediction without halo is furthest from one with it."""
    plan = Run(right).plan
    if not wrong.exists():
        tile(plan.source.path, wrong, network=plan.network.path, tile=plan.tile, halo=0)
        infer(wrong)
    probabilities = [np.asarray(Run(folder).shards.array[0]) / 255 for folder in (wrong, right)]
    difference = np.abs(probabilities[0] - probabilities[1])
    planes = np.arange(plan.source.shape[0]) % plan.tile[0]
    difference[(planes < SIDE // 4) | (planes >= plan.tile[0] - SIDE // 4)] = 0  # a face along z would not be seen
    z, y, x = np.unravel_index(difference.argmax(), difference.shape)
    corner = [min(max(0, middle - SIDE), length - 2 * SIDE) for middle, length in zip((y, x), plan.source.shape[1:])]
    box = Box((int(z), *corner), (int(z) + 1, *(start + 2 * SIDE for start in corner)))
    with open_volume(plan.source.path) as volume:
        image = volume.read(box)[0, 0]
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    titles = ("image and tile faces", "tiled without a halo", f"tiled by medhpc, halo {max(plan.halo.size)}")
    for axis, title, values in zip(figure.subplots(1, 3), titles, (image, *(p[box.slices][0] for p in probabilities))):
        scale = {"cmap": "gray"} if values is image else {"cmap": "magma", "vmin": 0, "vmax": 1}
        axis.imshow(values, interpolation="nearest", **scale)
        draw_faces(axis, box, plan.tile)
        axis.set(title=title, xticks=[], yticks=[], xlim=(-0.5, 2 * SIDE - 0.5), ylim=(2 * SIDE - 0.5, -0.5))
    figure.savefig(picture, dpi=100)


def draw_faces(axis: Any, box: Box, shape: tuple[int, int, int]) -> None:
    for start, stop, step, line in zip(box.start[1:], box.stop[1:], shape[1:], (axis.axhline, axis.axvline)):
        for face in range(-(-start // step) * step, stop, step):
            line(face - start - 0.5, color="tab:cyan", linewidth=0.8, linestyle="--")


if __name__ == "__main__":
    main()
