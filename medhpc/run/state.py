"""What the ledger says of a run; imports no torch, reads no voxel unless asked to verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.errors import NoResult
from medhpc.run.folder import Run, ranges


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a run; tile counts, seconds, voxels per second."""

    run: str
    total: int
    done: int
    missing: int
    damaged: int  # 0 unless verified
    failed: int  # missing tiles whose last record is a failure
    missing_tiles: str  # as ranges
    damaged_tiles: str
    errors: tuple[str, ...]  # the kinds of failure of the failed tiles
    verified: bool
    cleaned: bool  # the stored tiles were removed by `clean`
    tiles_per_second: float | None
    eta_seconds: float | None
    stored_bytes: int
    peak_memory: int  # bytes, the largest of any process

    @property
    def complete(self) -> bool:
        """Whether stitch can go ahead."""
        return self.done == self.total

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self) | {"complete": self.complete}


def status(run: str | Path, *, verify: bool = False, progress: Callable[[int, int], None] | None = None) -> Status:
    """Count what is done, missing and failed.

    Parameters
    ----------
    run : path
        The run folder.
    verify : bool
        Reread the stored bytes of every tile and compare their digests, instead of trusting the records.
    progress : callable, optional
        Called with (tiles verified, tiles to verify).

    Raises
    ------
    NotARun
    """
    opened = Run(run)
    tally = _tally(opened)
    damaged = _damaged(opened, progress) if verify else []
    tally.done[damaged] = False
    missing = np.flatnonzero(~tally.done)
    rate = tally.rate()
    failures = {error for tile, error in tally.errors.items() if not tally.done[tile]}
    return Status(
        run=str(run),
        total=len(tally.done),
        done=int(tally.done.sum()),
        missing=len(missing),
        damaged=len(damaged),
        failed=sum(not tally.done[tile] for tile in tally.errors),
        missing_tiles=ranges(np.setdiff1d(missing, damaged).tolist()),
        damaged_tiles=ranges(damaged),
        errors=tuple(sorted(failures)),
        verified=verify,
        cleaned=not opened.has_results,
        tiles_per_second=rate,
        eta_seconds=len(missing) / rate if rate else None,
        stored_bytes=int(tally.stored[tally.done].sum()),
        peak_memory=tally.peak_memory,
    )


def clean(run: str | Path, *, force: bool = False) -> int:
    """Remove what the result no longer needs: stored tiles, copies, scratch. Plan and ledger stay, they are small.

    Parameters
    ----------
    run : path
        The run folder.
    force : bool
        Also where no result has been stitched, or where it is gone.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    NotARun, NoResult
        Nothing is removed.
    """
    opened = Run(run)
    if not force and not any(Path(path).exists() for path in opened.results()):
        raise NoResult(
            f"no stitched result of {run} is on disk, its tiles are all there is; "
            f"run 'medhpc stitch {run} OUT' first, or 'medhpc clean --force {run}' to give them up"
        )
    # An unfinished stitch to Zarr keeps its stage beside its OUT.
    stages = [Path(json.loads(request.read_text())["stage"]) for request in opened.scratch.glob("*/request.json")]
    heavy = [opened.folder / name for name in ("prediction.zarr", "source", "stitch", "partial")]
    heavy += [stage.parent for stage in stages if stage.parent.name.endswith(".partial")]
    files = [path for folder in heavy for path in folder.rglob("*") if path.is_file()]
    freed = sum(path.stat().st_size for path in files)
    for folder in heavy:
        if folder.exists():
            shutil.rmtree(folder)
    return freed


@dataclass(kw_only=True)
class _Tally:
    """What the records add up to; one array element a tile."""

    done: np.ndarray  # bool
    times: np.ndarray  # when the tile was committed
    seconds: np.ndarray  # what it took
    stored: np.ndarray  # bytes
    errors: dict[int, str]
    peak_memory: int = 0

    def rate(self, last: int = 200) -> float | None:
        """Tiles per second over the last commits; the first of them counts by its own seconds."""
        recent = np.argsort(np.where(self.done, self.times, 0))[-min(last, int(self.done.sum())) :]
        if not self.done.any():
            return None
        span = self.times[recent[-1]] - self.times[recent[0]] + self.seconds[recent[0]]
        return float(len(recent) / span) if span > 0 else None


def _tally(run: Run) -> _Tally:
    total = len(run.plan.grid)
    tally = _Tally(
        done=np.zeros(total, bool),
        times=np.zeros(total),
        seconds=np.zeros(total),
        stored=np.zeros(total, np.int64),
        errors={},
    )
    for record in run.ledger.records():
        tile = record["tile"]
        if "digest" in record:
            tally.done[tile] = True
            tally.times[tile] = record["time"]
            tally.seconds[tile] = record.get("seconds", 0.0)
            tally.stored[tile] = record.get("stored", 0)
            tally.peak_memory = max(tally.peak_memory, record.get("peak_memory", 0))
        else:
            tally.errors[tile] = record.get("error", "")
    return tally


def _damaged(run: Run, progress: Callable[[int, int], None] | None) -> list[int]:
    """The tiles whose stored bytes are not what the ledger claims."""
    claims = run.digests()
    damaged = []
    for count, index in enumerate(sorted(claims), start=1):
        if not run.is_done(run.plan.grid[index], claims):
            damaged.append(index)
        if progress:
            progress(count, len(claims))
    return damaged
