"""Where volumes, their runs and their results lie."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.jobs.chain import Target
from medhpc.volume import open_volume


def targets_of(volumes: Sequence[str | Path], out_dir: Path, suffix: str, tables: bool) -> tuple[list[Target], int]:
    """A target in `out_dir` for each volume, and the voxels of all; a volume whose run is planned keeps its plan.

    Raises
    ------
    BadOption
        Two volumes of one name.
    VolumeNotFound, UnknownFormat
    """
    names: dict[str, str] = {}
    targets, voxels = [], 0
    for volume in map(str, volumes):
        name = name_of(volume)
        if name in names:
            raise BadOption(
                f"{names[name]} and {volume} would both be {name}{suffix}; submit them to different folders"
            )
        names[name] = volume
        with open_volume(volume) as opened:  # now, not in a job at night
            voxels += math.prod(opened.shape)
        run = out_dir / f"{name}.run"
        targets.append(
            Target(
                run=str(run),
                out=str(out_dir / f"{name}{suffix}"),
                objects=str(out_dir / f"{name}.csv") if tables else "",
                volume="" if (run / "plan.json").exists() else absolute(volume),
            )
        )
    return targets, voxels


def name_of(volume: str) -> str:
    """What a volume is called, without its suffixes: ``brain`` of ``/data/brain.ome.tif`` and of ``brain.h5:/raw``."""
    file, _, inside = volume.partition(":/")
    stem = Path(file.rstrip("/")).name
    for ending in (".ome.tif", ".ome.tiff", ".ome.zarr", ".nii.gz"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    else:
        stem = Path(stem).stem or stem
    return f"{stem}_{inside.replace('/', '_')}" if inside else stem


def absolute(path: str | Path) -> str:
    """Absolute, without following links: jobs start elsewhere, and a path is what its user calls it."""
    return os.path.abspath(path) if str(path) != "identity" else "identity"


def existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
