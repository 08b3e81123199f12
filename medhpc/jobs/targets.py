"""Where volumes, their runs and their results lie."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhpc.errors import BadOption, MedhpcError
from medhpc.jobs.chain import Target
from medhpc.run.advice import other_voxels
from medhpc.volume import open_volume


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Volumes on their way together."""

    targets: tuple[Target, ...]
    voxels: int  # of all
    notes: tuple[str, ...] = ()  # for the user: what is left out, what may give a bad result


def targets_of(volumes: Sequence[str | Path], out_dir: Path, *, suffix: str, tables: bool) -> list[Target]:
    """A target in `out_dir` for each volume, with a table of objects where `tables`.

    Raises
    ------
    BadOption
        Two volumes of one name.
    """
    targets: dict[str, Target] = {}
    for volume in map(str, volumes):
        target = _target(volume, out_dir, suffix, tables)
        if target.run in targets:
            raise BadOption(
                f"{targets[target.run].volume} and {volume} would both be {Path(target.out).name}; "
                "submit them to different folders"
            )
        targets[target.run] = target
    return list(targets.values())


def batch_of(
    targets: Sequence[Target],
    *,
    skip_bad: bool = False,
    trained: Sequence[float] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Batch:
    """Look at the volumes of targets now, not in a job at night.

    Parameters
    ----------
    targets : sequence of Target
    skip_bad : bool
        Leave out volumes that cannot be read, with a note.
    trained : (z, y, x), optional
        Voxel size of the network's training, in micrometres: a note where others differ much.
    reading : mapping, optional
        Channel and level, as for :func:`medhpc.volume.open_volume`.

    Raises
    ------
    BadOption
        Several that cannot be read.
    VolumeNotFound, UnknownFormat, BrokenFile
    """
    good: list[Target] = []
    bad: list[MedhpcError] = []
    voxels = 0
    advised: dict[str, list[str]] = {}
    for target in targets:
        try:
            with open_volume(target.volume, **(reading or {})) as opened:
                voxels += math.prod(opened.shape)
                advice = other_voxels(trained, opened.voxel_size_um)
        except MedhpcError as error:
            bad.append(error)
            continue
        good.append(target)
        for line in advice:
            advised.setdefault(line, []).append(target.volume)
    if bad and not (skip_bad and good):
        raise _refusal(bad, len(targets))
    notes = [f"left out: {error}" for error in bad] + [f"{_all(these)}: {line}" for line, these in advised.items()]
    return Batch(targets=tuple(good), voxels=voxels, notes=tuple(notes))


def _target(volume: str, out_dir: Path, suffix: str, tables: bool) -> Target:
    name = name_of(volume)
    return Target(
        run=str(out_dir / f"{name}.run"),
        out=str(out_dir / f"{name}{suffix}"),
        objects=str(out_dir / f"{name}.csv") if tables else "",
        volume=absolute(volume),
    )


def _refusal(bad: Sequence[MedhpcError], of: int) -> MedhpcError:
    """All that is wrong with all volumes, in one line."""
    if of == 1:
        return bad[0]
    left = "; mend or remove them" if len(bad) == of else "; mend them, or leave them out with --skip-bad"
    return BadOption(f"{len(bad)} of {of} volumes cannot be read{left}: " + "; ".join(map(str, bad)))


def _all(volumes: Sequence[str]) -> str:
    return volumes[0] + (f" and {len(volumes) - 1} more" if len(volumes) > 1 else "")


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
