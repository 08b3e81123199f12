"""The table of objects, as CSV."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np

from medhpc.errors import BadOption, NoPermission
from medhpc.objects import Table
from medhpc.run.durable import write_durably

COLUMNS = (
    *("id", "z", "y", "x", "z_um", "y_um", "x_um", "volume_voxels", "volume_um3", "mean_probability"),
    *("z_min", "y_min", "x_min", "z_max", "y_max", "x_max"),
)


def check_table(path: Path) -> None:
    """Refuse a CSV that could not be written, before any work is done for it.

    Raises
    ------
    BadOption, NoPermission
    """
    if path.is_dir() or not path.parent.is_dir():
        raise BadOption(f"objects '{path}': a folder, or in a folder that does not exist; name a .csv file")
    if not os.access(path.parent, os.W_OK):  # a file that is there is not written to, but replaced
        raise NoPermission(f"objects '{path}': no permission to write in its folder; choose another")


def write_table(path: Path, table: Table, voxel_size_um: tuple[float, float, float] | None, full: float | None) -> None:
    """Write one line per object.

    Parameters
    ----------
    table : Table
        Row i is object i + 1.
    voxel_size_um : (z, y, x) or None
        Where it is unknown, the columns in micrometres stay empty.
    full : float or None
        Stored number that means probability 1; None where no probability is stored.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    centres = table.sums / np.maximum(table.voxels, 1)[:, None]
    for row, centre in enumerate(centres):
        voxels = int(table.voxels[row])
        size = voxel_size_um
        micrometres = ["", "", ""] if size is None else [f"{c * s:.6g}" for c, s in zip(centre, size, strict=True)]
        volume = "" if size is None else f"{voxels * size[0] * size[1] * size[2]:.6g}"
        mean = "" if full is None else f"{float(table.weight[row]) / voxels / full:.6f}"
        position = [f"{c:.4f}" for c in centre]
        box = [*table.low[row].tolist(), *table.high[row].tolist()]
        writer.writerow([row + 1, *position, *micrometres, voxels, volume, mean, *box])
    write_durably(path, text.getvalue().encode())
