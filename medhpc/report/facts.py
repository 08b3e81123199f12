"""Everything that a report tells, gathered from the run folder; what cannot be found is left out and says why."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import medhpc
from medhpc.errors import BadOption, MedhpcError
from medhpc.report.projections import Projections, project
from medhpc.report.use import Use, use_of
from medhpc.run import Plan, Run, Status
from medhpc.run.state import status_of
from medhpc.run.tally import Tally
from medhpc.volume import Volume, open_volume

PACKAGES = ("torch", "numpy", "zarr", "dask", "tifffile")
Report = Callable[[str, int, int], None]

MOST_CLASSES = 32  # a uint8 result with no larger number holds classes or objects


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Projections of a volume, or why there are none."""

    title: str
    path: str
    projections: Projections | None = None
    objects: bool = False  # each number is an object or a class
    note: str = ""  # why there is no picture


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a report tells."""

    name: str  # of the volume
    run: str  # absolute path
    created: str
    plan: Plan
    status: Status
    tally: Tally
    pictures: tuple[Picture, ...]
    uses: tuple[Use, ...]
    jobs: tuple[str, ...]  # ids
    results: tuple[str, ...]
    measures: Mapping[str, Any] | None
    versions: Mapping[str, str]
    commit: str  # of the package's source; "" where it was installed from a wheel

    @property
    def elapsed(self) -> float | None:
        """Seconds from the start of the first tile to the last commit."""
        done = self.tally.done
        if not done.any():
            return None
        ends = self.tally.committed[done]
        return float(ends.max() - (ends - self.tally.seconds[done]).min())


def gather(run: str | Path, *, measures: str | Path | None = None, report: Report | None = None) -> Facts:
    """Look at a run, its input, its result and its submissions.

    Parameters
    ----------
    run : path
        The run folder.
    measures : path, optional
        What ``medhpc evaluate --json`` printed. Unless given, RESULT.json beside the result is taken, if there is one.
    report : callable, optional
        Called with (what is being looked at, done, total).

    Raises
    ------
    NotARun
    BadOption
        `measures` is no JSON object.
    """
    opened = Run(run)
    found = _measures(measures, tuple(opened.results()))
    tally = Tally(opened).update()
    status = status_of(opened, tally)
    return Facts(
        name=_name(opened.plan.source.path),
        run=str(opened.folder.resolve()),
        created=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        plan=opened.plan,
        status=status,
        tally=tally,
        pictures=(_source(opened, report), _result(opened, status.result, report)),
        uses=tuple(use_of(opened, tally)),
        jobs=tuple(sorted({job.partition("_")[0] for job in tally.jobs if job})),
        results=tuple(opened.results()),
        measures=found,
        versions=versions(),
        commit=commit(),
    )


def _name(volume: str) -> str:
    """Of a volume, as ``brain.tif`` or ``brain.h5:/raw``."""
    file, colon, dataset = volume.partition(":/")
    return Path(file).name + colon + dataset


# --- volumes -------------------------------------------------------------------------------------


def _source(run: Run, report: Report | None) -> Picture:
    source = run.plan.source

    def at(level: int) -> Volume:
        if level == 0:
            return run.open_source()
        if source.copy:
            return open_volume(run.folder / source.copy, level=level)
        return open_volume(source.path, channel=source.channel, level=source.level + level)

    return _picture("Volume", source.path, at, lambda projections: False, report)


def _result(run: Run, path: str | None, report: Report | None) -> Picture:
    if path is None:
        return Picture(title="Result", path="", note="nothing was stitched from this run yet, or it is gone")
    return _picture(
        "Result",
        path,
        lambda level: open_volume(path, level=level),
        lambda found: _holds_objects(run, path, found),
        report,
    )


def _picture(
    title: str,
    path: str,
    at: Callable[[int], Volume],
    has_objects: Callable[[Projections], bool],
    report: Report | None,
) -> Picture:
    progress = report and partial(report, title.lower())
    try:
        projections = project(at, progress=progress)
        return Picture(title=title, path=path, projections=projections, objects=has_objects(projections))
    except MedhpcError as error:
        return Picture(title=title, path=path, note=str(error))


def _holds_objects(run: Run, path: str, found: Projections) -> bool:
    """Whether a result holds numbers of objects or classes, and no intensities."""
    if found.z.dtype.kind not in "ui":
        return False
    if found.z.max(initial=0) <= MOST_CLASSES:
        return True
    return not _is_as_stored(run, path)


def _is_as_stored(run: Run, path: str) -> bool:
    """Whether a result is what the tiles hold (probabilities, raw numbers), by the tile in the middle."""
    if not run.has_results:
        return _dtype(path) == np.dtype(run.plan.stored.dtype)
    tile = run.plan.grid[len(run.plan.grid) // 2]
    with open_volume(path) as result:
        voxels = result.read(tile.write)
    return np.array_equal(voxels, run.shards.array[(slice(None), *tile.write.slices)])


def _dtype(path: str) -> np.dtype[Any]:
    """The dtype of a volume."""
    with open_volume(path) as volume:
        return volume.dtype


# --- the rest ------------------------------------------------------------------------------------


def _measures(given: str | Path | None, results: Sequence[str]) -> Mapping[str, Any] | None:
    beside = [path for result in results if (path := Path(f"{result}.json")).is_file()]
    file = Path(given) if given is not None else beside[-1] if beside else None
    if file is None:
        return None
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadOption(f"{file}: not what 'medhpc evaluate --json' prints ({error})") from error
    if not isinstance(found, dict):
        raise BadOption(f"{file}: not what 'medhpc evaluate --json' prints (no JSON object)")
    return found


def versions() -> dict[str, str]:
    """Versions of medhpc, Python and what the numbers depend on; nothing is imported for it."""
    found = {"medhpc": medhpc.__version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The git commit of the package's source, with ``-dirty`` after changes; "" where there is none."""
    root = Path(medhpc.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
