"""How far a run is: what its ledger adds up to. Imports no torch, reads no voxel unless asked to verify."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import NoResult
from medhpc.run.folder import Run, ranges
from medhpc.run.tally import Failure, Tally, groups


@dataclass(frozen=True, kw_only=True)
class HostPace:
    """What tiles cost on one host."""

    host: str
    tiles: int
    seconds: float  # a tile, the median
    peak_memory: int  # bytes, the largest of its processes


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Tiles that failed in the same way and are not done yet, with one example."""

    kind: str  # class of the exception, and the line of code that raised it
    tiles: str  # as ranges
    count: int
    error: str
    traceback: str
    host: str
    job: str
    log: str  # path of the job's log; "" where there is none


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a run; tile counts, seconds, bytes."""

    run: str
    total: int
    done: int
    missing: int
    damaged: int  # 0 unless verified
    failed: int  # missing tiles whose last record is a failure
    missing_tiles: str  # as ranges
    damaged_tiles: str
    failures: tuple[Failures, ...]  # of the failed tiles, the most frequent kind first
    hosts: tuple[HostPace, ...]  # slowest first
    verified: bool
    cleaned: bool  # the stored tiles were removed by `clean`
    result: str | None  # what was stitched from the run last and is still there
    note: str  # what has to be said of the result, as that nothing was found
    recorded_at: float  # when the newest record was written, seconds since 1970; 0 where there is none
    seen_at: float  # the same, of the processes that are not known to have ended
    seen_in: str  # the job that wrote that record; "" outside of jobs
    tiles_per_second: float | None
    eta_seconds: float | None
    stored_bytes: int
    peak_memory: int  # bytes, the largest of any process

    @property
    def complete(self) -> bool:
        """Whether stitch can go ahead."""
        return self.done == self.total and not self.cleaned

    @property
    def errors(self) -> tuple[str, ...]:
        """One error of each kind."""
        return tuple(failure.error for failure in self.failures)

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
    return status_of(opened, Tally(opened).update(), verify=verify, progress=progress)


def status_of(
    run: Run, tally: Tally, *, verify: bool = False, progress: Callable[[int, int], None] | None = None
) -> Status:
    """As :func:`status`, from a tally that is kept; what is found damaged counts as lost in it from now on."""
    damaged = _damaged(run, progress) if verify else []
    tally.lost[damaged] = tally.committed[damaged]
    done, failed = tally.done, tally.has_failed
    missing, rate = np.flatnonzero(~done), tally.rate
    seen_at, seen_in = tally.sign_of_life
    result, note = next((each for each in reversed(run.results().items()) if Path(each[0]).exists()), (None, ""))
    return Status(
        run=str(run.folder),
        total=len(done),
        done=len(done) - len(missing),
        missing=len(missing),
        damaged=len(damaged),
        failed=int(failed.sum()),
        missing_tiles=ranges(np.setdiff1d(missing, damaged)),
        damaged_tiles=ranges(damaged),
        failures=tuple(_failures(run, tally, np.flatnonzero(failed))),
        hosts=tuple(_hosts(tally, np.flatnonzero(done))),
        verified=verify,
        cleaned=not run.has_results,
        result=result,
        note=note,
        recorded_at=max(tally.newest.values(), default=(0.0, ""))[0],
        seen_at=seen_at,
        seen_in=seen_in,
        tiles_per_second=rate,
        eta_seconds=len(missing) / rate if rate else None,
        stored_bytes=int(tally.stored[done].sum()),
        peak_memory=int(tally.memory.max(initial=0)),
    )


def log_of(run: Run, job: str) -> str:
    """Path of the log that a job of this run wrote; "" where none is found.

    Submissions keep their logs in the run, or, for many runs at once, beside them.
    """
    if not job:
        return ""
    folders = (run.jobs, run.folder.parent / "jobs")
    return next((str(log) for folder in folders for log in folder.glob(f"*/log/*-{job}.log")), "")


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
        place = shlex.quote(str(run))
        raise NoResult(
            f"no stitched result of {run} is on disk, its tiles are all there is; "
            f"first run  medhpc stitch {place} OUT  or give them up with  medhpc clean --force {place}"
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


def _failures(run: Run, tally: Tally, tiles: NDArray[np.int64]) -> list[Failures]:
    """The kinds of failure among these tiles."""
    found = [
        _described(run, tally.failures[kind], tiles[places].tolist()) for kind, places in groups(tally.failure[tiles])
    ]
    return sorted(found, key=lambda failures: -failures.count)


def _described(run: Run, example: Failure, tiles: list[int]) -> Failures:
    return Failures(
        kind=example.kind,
        tiles=ranges(tiles),
        count=len(tiles),
        error=example.error,
        traceback=example.traceback,
        host=example.host,
        job=example.job,
        log=log_of(run, example.job),
    )


def _hosts(tally: Tally, tiles: NDArray[np.int64]) -> list[HostPace]:
    """What these tiles cost, host by host."""
    names = list(tally.hosts)
    found = [
        HostPace(
            host=names[code],
            tiles=len(places),
            seconds=float(np.median(tally.seconds[tiles[places]])),
            peak_memory=int(tally.memory[tiles[places]].max()),
        )
        for code, places in groups(tally.host[tiles])
    ]
    return sorted(found, key=lambda host: -host.seconds)


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
