"""What the records of a run add up to: one array element a tile, brought up to date by what is new in the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.geometry import Grid
from medhpc.run.folder import Run
from medhpc.run.ledger import AT_ONCE, parse_lines, writer_is_gone

RECENT = 200  # commits that the rate is taken from

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One kind of failure, with the record that tells most about it."""

    kind: str  # class of the exception, and the line of code that raised it
    error: str
    traceback: str
    tile: int
    host: str
    job: str


class Tally:
    """The state of every tile as the ledger tells it.

    All arrays have one element a tile; times are seconds since 1970, 0 for what never happened.

    Attributes
    ----------
    committed, failed, lost : float64
        When it was last stored, when it last failed, when its stored bytes were last found damaged.
    seconds : float64
        What the tile cost in its running task: from the task's commit before to its own.
    cpu : float64
        Processor seconds in that time; 0 where they were not measured.
    stored : int64
        Bytes.
    memory : int64
        Peak of the process so far, bytes.
    host, job : int32
        Index into `hosts`, `jobs`.
    failure : int32
        Index into `failures`, of its last failure.
    newest : dict of str to (float, str)
        Of each ledger file, when its newest record of a tile stored or failed was written, and in which job ("" outside
        of jobs).
    """

    def __init__(self, run: Run) -> None:
        total = len(run.plan.grid)
        self.committed, self.failed, self.lost, self.seconds, self.cpu = (np.zeros(total) for _ in range(5))
        self.stored, self.memory = (np.zeros(total, np.int64) for _ in range(2))
        self.host, self.job, self.failure = (np.zeros(total, np.int32) for _ in range(3))
        self.hosts: dict[str, int] = {}
        self.jobs: dict[str, int] = {}
        self.failures: list[Failure] = []
        self.newest: dict[str, tuple[float, str]] = {}
        self._failures: dict[str, int] = {}
        self._folder, self._plan = run.ledger.folder, run.ledger.plan
        self._read: dict[str, int] = {}  # bytes of each ledger file

    @property
    def done(self) -> NDArray[np.bool_]:
        """Tiles that were stored, and not found damaged since."""
        return self.committed > self.lost

    @property
    def has_failed(self) -> NDArray[np.bool_]:
        """Tiles that are not done and whose last record is a failure."""
        return ~self.done & (self.failed > self.lost)

    @property
    def rate(self) -> float | None:
        """Tiles per second over the last commits, without the time in which no task was running.

        Between two commits is at most about a tile's time while tasks run; the first counts by its own seconds.
        """
        tiles = np.flatnonzero(self.done)
        if len(tiles) > RECENT:
            tiles = tiles[np.argpartition(self.committed[tiles], -RECENT)[-RECENT:]]
        if not len(tiles):
            return None
        tiles = tiles[np.argsort(self.committed[tiles])]
        longest = 2 * float(self.seconds[tiles].max())
        span = float(np.minimum(np.diff(self.committed[tiles]), longest).sum() + self.seconds[tiles[0]])
        return len(tiles) / span if span > 0 else None

    def update(self) -> Tally:
        """Read what was appended to the ledger since the last call."""
        for file, lines in self._new_lines():
            records = [record for record in parse_lines(lines) if record["plan"] == self._plan]
            self._enter_newest(file, records)
            self._enter_commits([record for record in records if "digest" in record])
            for record in records:
                if "error" in record:
                    self._enter_failure(record)
                elif "lost" in record:
                    self.lost[record["tile"]] = max(self.lost[record["tile"]], record.get("time", 0.0))
        return self

    def _enter_newest(self, file: str, records: list[Fields]) -> None:
        times = [(each.get("time", 0.0), each.get("job", "")) for each in records if "lost" not in each]
        if times:
            self.newest[file] = max(self.newest.get(file, (0.0, "")), max(times))

    @property
    def sign_of_life(self) -> tuple[float, str]:
        """The newest of `newest` whose process may still be there; (0, "") where there is none."""
        latest_first = sorted(self.newest.items(), key=lambda each: each[1], reverse=True)
        return next((newest for file, newest in latest_first if not writer_is_gone(file)), (0.0, ""))

    def _new_lines(self) -> Iterator[tuple[str, list[bytes]]]:
        for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name):
            known = self._read.get(entry.name, 0)
            if not entry.name.endswith(".jsonl") or entry.stat().st_size <= known:
                continue
            with Path(entry.path).open("rb") as file:
                file.seek(known)
                while lines := file.readlines(AT_ONCE):
                    yield entry.name, lines
                    # A line without an end may still be growing; to enter it again does no harm.
                    whole = lines if lines[-1].endswith(b"\n") else lines[:-1]
                    self._read[entry.name] = known = known + sum(map(len, whole))

    def _enter_commits(self, records: list[Fields]) -> None:
        """Many at a time, for speed: of several of one tile, numpy keeps the last."""
        tiles = np.array([record["tile"] for record in records], np.int64)
        times = np.array([record.get("time", 0.0) for record in records], float)
        columns = {
            "committed": times,
            "seconds": [record.get("interval") or record.get("seconds", 0.0) for record in records],
            "cpu": [record.get("cpu", 0.0) for record in records],
            "stored": [record.get("stored", 0) for record in records],
            "memory": [record.get("peak_memory", 0) for record in records],
            "host": [self.hosts.setdefault(record.get("host", ""), len(self.hosts)) for record in records],
            "job": [self.jobs.setdefault(record.get("job", ""), len(self.jobs)) for record in records],
        }
        newest = times >= self.committed[tiles]
        for name, values in columns.items():
            getattr(self, name)[tiles[newest]] = np.asarray(values)[newest]

    def _enter_failure(self, record: Fields) -> None:
        tile, error, time = record["tile"], record["error"], record.get("time", 0.0)
        if time < self.failed[tile]:
            return
        kind = f"{error.partition(':')[0]} at {record['where']}" if record.get("where") else error
        number = self._failures.setdefault(kind, len(self.failures))
        told = {name: record.get(name, "") for name in ("error", "traceback", "host", "job")}
        failure = Failure(kind=kind, tile=tile, **told)
        if number == len(self.failures):
            self.failures.append(failure)
        elif failure.traceback:
            self.failures[number] = failure
        self.failed[tile], self.failure[tile] = time, number


def in_space(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Values of all tiles, by their numbers, at their places: (z, y, x) of the grid."""
    nz, ny, nx = grid.counts
    return np.moveaxis(values.reshape(ny, nx, nz), 2, 0) if grid.in_columns else values.reshape(nz, ny, nx)


def groups(codes: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each code that occurs, and the places where."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for places in np.split(order, starts)[1:]:
        yield int(codes[places[0]]), places
