"""The run folder: where the steps meet.

::

    run/plan.json           what was decided; written last by `tile`, so a folder without it is not planned yet
    run/prediction.zarr/    the result, one file per shard
    run/ledger/             who did which tile, one file per process
    run/partial/            shards that are being written
    run/source/             a copy of the input, only where the input cannot be read in boxes
    run/stitch/             what an unfinished stitch has done so far
    run/results.json        what has been stitched from this run
    run/jobs/               what was submitted to a cluster: sbatch files, logs
    run/tile.lock           while `tile` is at work
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import shlex
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from medhpc.errors import MissingTiles, NoPermission, NotARun, RunNotEmpty, SourceChanged
from medhpc.geometry import Tile
from medhpc.run.durable import room_and_rights, sweep_partials, write_durably
from medhpc.run.ledger import Ledger, Record, this_host, this_job
from medhpc.run.other_places import why_no_run
from medhpc.run.plan import Plan, Source
from medhpc.run.shards import Shards, create_shards
from medhpc.volume import Volume, open_volume

LOCK = "tile.lock"
PARTS = ("plan.json", "prediction.zarr", "ledger", "partial", "source", "stitch", "results.json", "jobs", LOCK)
CHECKERS = min(8, os.cpu_count() or 1)  # threads that read tiles back: hashing is all they do


class Run:
    """A planned run, opened from its folder.

    Parameters
    ----------
    folder : path
        As given to ``medhpc tile``.

    Raises
    ------
    NotARun
        No plan there, or one of another version.
    NoPermission
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._committed: float | None = None  # when, by the monotonic clock
        self._cpu: float | None = None  # processor seconds by then
        self._failures_told: set[str] = set()  # kinds whose traceback stands in the ledger
        try:
            text = (self.folder / "plan.json").read_bytes()
        except NotADirectoryError:
            raise NotARun(f"{folder} is a file, not a run; give the folder that 'medhpc tile' made") from None
        except FileNotFoundError:
            raise NotARun(why_no_run(self.folder)) from None
        except PermissionError as error:
            raise NoPermission(f"{error.filename}: no permission to read it") from error
        try:
            self.plan = Plan.from_json(text)
        except NotARun as error:
            raise NotARun(f"{self.folder}: {error}") from error

    @property
    def id(self) -> str:
        """Names this run among jobs: 16 hexadecimal digits from its plan and its place."""
        known = f"{self.plan.digest} {self.folder.resolve()}"
        return hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:16]

    @property
    def jobs(self) -> Path:
        """Where submissions keep their sbatch files, logs and lists."""
        return self.folder / "jobs"

    @property
    def has_results(self) -> bool:
        """Whether the stored tiles are still there (`clean` removes them)."""
        return (self.folder / "prediction.zarr").is_dir()

    @cached_property
    def shards(self) -> Shards:
        """The result array."""
        if not self.has_results:
            raise NotARun(f"the tiles of {self.folder} were removed by 'medhpc clean'; plan a new run")
        return Shards(self.folder / "prediction.zarr", self.plan.stored, self.folder / "partial")

    @cached_property
    def ledger(self) -> Ledger:
        """The records of this plan."""
        return Ledger(self.folder / "ledger", self.plan.digest)

    @property
    def scratch(self) -> Path:
        """Where stitch keeps what it has done so far."""
        return self.folder / "stitch"

    def open_source(self) -> Volume:
        """Open the input, refusing one that is not the one planned for.

        Raises
        ------
        SourceChanged, VolumeNotFound
        """
        source = self.plan.source
        original = open_volume(source.path, channel=source.channel, level=source.level)
        if not same_fingerprint(original.fingerprint(), source.fingerprint):
            original.close()
            raise SourceChanged(
                f"{source.path} has changed since 'medhpc tile' planned {self.folder}; "
                "put the old file back, or plan a new run"
            )
        if not source.copy:
            return original
        original.close()
        return open_volume(self.folder / source.copy)

    def results(self) -> dict[str, str]:
        """What has been stitched from this run, oldest first: absolute path -> what has to be said of it, or ""."""
        try:
            found: dict[str, str] = json.loads((self.folder / "results.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def add_result(self, out: Path, note: str = "") -> None:
        """Remember that `out` was stitched from this run, and what has to be said of it, as that it is empty."""
        path, others = str(out.resolve()), self.results()
        others.pop(path, None)
        write_durably(self.folder / "results.json", json.dumps({**others, path: note}).encode())

    def sweep(self) -> None:
        """Remove shards that processes of this host left half-written."""
        sweep_partials(self.folder / "partial")

    def commit(self, tile: Tile, values: np.ndarray, began: float) -> None:
        """Store a tile's result, `values` (channels, z, y, x) of its write box, and enter it in the ledger.

        `began` is the :func:`time.monotonic` of the tile's first read.
        """
        with room_and_rights(self.shards.folder):
            digest, stored = self.shards.write(tile.write, values)
        now, cpu = time.monotonic(), time.process_time()
        before, self._committed = self._committed, now
        cpu_before, self._cpu = self._cpu, cpu
        self.ledger.append(
            self._record(
                tile,
                digest=digest,
                stored=stored,
                voxels=tile.write.size,
                seconds=round(now - began, 4),
                interval=round(now - (before or began), 4),
                cpu=round(cpu - (cpu_before or cpu), 4),
                peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )
        )

    def fail(self, tile: Tile, error: BaseException) -> None:
        """Enter a failure in the ledger; its traceback too, if it is the first of its kind."""
        kind, where = type(error).__name__, _raised_at(error)
        known = f"{kind} at {where}" in self._failures_told
        self._failures_told.add(f"{kind} at {where}")
        told = "" if known else "".join(traceback.format_exception(error))
        self.ledger.append(self._record(tile, error=f"{kind}: {error}", where=where, traceback=told))

    def digests(self, tiles: Container[int] | None = None) -> dict[int, set[str]]:
        """What the ledger claims: for each tile, or each of `tiles`, the digests that were committed for it."""
        claims: dict[int, set[str]] = {}
        for record in self.ledger.records():
            if "digest" in record and (tiles is None or record["tile"] in tiles):
                claims.setdefault(record["tile"], set()).add(record["digest"])
        return claims

    def is_done(self, tile: Tile, claims: dict[int, set[str]]) -> bool:
        """Whether the stored bytes of a tile are those that the ledger claims; reads them."""
        return tile.index in claims and self.shards.digest(tile.write) in claims[tile.index]

    def require_all(self) -> None:
        """Check every tile of the run against the ledger, byte by byte.

        Raises
        ------
        MissingTiles
            Names them, and the command that fills them.
        """
        self.require(self.plan.grid)

    def require(self, tiles: Iterable[Tile]) -> None:
        """Check these tiles; as :meth:`require_all`."""
        claims = self.digests()
        remaining, missing = iter(tiles), []
        with ThreadPoolExecutor(CHECKERS) as threads:
            while batch := list(islice(remaining, 1024)):
                done = threads.map(lambda tile: self.is_done(tile, claims), batch)
                missing += [tile.index for tile, is_done in zip(batch, done, strict=True) if not is_done]
        for index in missing:
            if index in claims:  # the ledger must not go on saying that it is done
                self.ledger.append(self._record(self.plan.grid[index], lost=True))
        if missing:
            raise MissingTiles(
                f"{len(missing)} of {len(self.plan.grid)} tiles of {self.folder} are missing or damaged: "
                f"{ranges(missing)}{self._why(missing)}; fill them with  medhpc infer {shlex.quote(str(self.folder))}"
            )

    def _why(self, missing: list[int]) -> str:
        """What the ledger has on these tiles: the most frequent failure."""
        errors = {record["tile"]: record["error"] for record in self.ledger.failures()}
        kinds = Counter(errors[index] for index in missing if index in errors).most_common(1)
        return "".join(f" ({count} failed, as in: {' '.join(error.split())})" for error, count in kinds)

    def _record(self, tile: Tile, **fields: object) -> Record:
        known = {"host": this_host(), "job": this_job(), "time": round(time.time(), 3)}
        return Record(tile=tile.index, plan=self.ledger.plan, **known, **fields)  # type: ignore[arg-type]


def _raised_at(error: BaseException) -> str:
    """The line that raised an error, as ``module.py:88``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold an empty run folder, or one in which an earlier `tile` was cut short, while the block plans it.

    Where the block fails, nothing is left, unless a whole copy of the input: a second try takes it.

    Raises
    ------
    RunNotEmpty
        The folder holds a plan or anything that is not medhpc's, or another `tile` is at it.
    """
    made = not folder.exists()
    with room_and_rights(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise RunNotEmpty(f"{error.filename} is a file; name a folder for the run") from None
        _check_unused(folder)
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        _lock(lock, folder)
        try:
            _check_unused(folder)  # again: who held it before may have made a plan
            yield
        except BaseException:
            _abandon(folder)
            raise
        finally:
            (folder / LOCK).unlink()
            if made and not any(folder.iterdir()):
                folder.rmdir()
    finally:
        os.close(lock)


def _lock(descriptor: int, folder: Path) -> None:
    """Lock an open lock file; on a file system without locks, nothing can be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(descriptor).st_nlink > 0  # else its holder has just removed it, and the next has made a new one
    except BlockingIOError:
        held = False
    except OSError:
        return
    if not held:
        raise RunNotEmpty(f"another 'medhpc tile' is planning {folder}; wait for it, or name a new folder")


def _abandon(folder: Path) -> None:
    """Remove what an unfinished planning has made, and a place for copies that holds none."""
    if (folder / "plan.json").exists():
        return
    for name in ("prediction.zarr", "ledger", "partial"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        (folder / "source").rmdir()


def _check_unused(folder: Path) -> None:
    found = sorted(path.name for path in folder.iterdir())
    if "plan.json" in found:
        place = shlex.quote(str(folder))
        raise RunNotEmpty(f"{folder} is planned already; name a new folder, or go on with  medhpc infer {place}")
    strange = [name for name in found if name not in PARTS and not name.endswith(".partial")]
    if strange:
        raise RunNotEmpty(f"{folder} is not empty (holds {strange[0]}); name a new or an empty folder for the run")


def place_of_copy(source: Source) -> str:
    """Where in the run folder a copy of this input belongs; another input, or state of it, has another place."""
    known = json.dumps([source.path, source.channel, source.level, source.fingerprint])
    return f"source/{hashlib.sha256(known.encode()).hexdigest()[:16]}.zarr"


def create_run(folder: Path, plan: Plan) -> Run:
    """Turn a claimed folder into a run: empty result array and ledger, then the plan, which makes it valid."""
    prediction = folder / "prediction.zarr"
    with room_and_rights(folder):
        sweep_partials(folder)
        for path in (prediction, *folder.glob("source/*")):
            if path.exists() and path != folder / plan.source.copy:
                shutil.rmtree(path)
        for name in ("ledger", "partial"):
            (folder / name).mkdir(exist_ok=True)
        create_shards(prediction, plan.stored, plan.source.shape)
        write_durably(folder / "plan.json", plan.to_json().encode())
    return Run(folder)


def same_fingerprint(a: object, b: object) -> bool:
    """Whether two fingerprints are equal, one of which has been through JSON (which turns tuples into lists)."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_fingerprint(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_fingerprint, a, b))
    return a == b


def ranges(numbers: ArrayLike, most: int = 12) -> str:
    """Sorted whole numbers as ``0-4,7,9-12``; cut after `most` ranges."""
    values = np.asarray(numbers, np.int64)
    is_gap = np.diff(values) != 1
    first, last = values[np.append(True, is_gap)[: len(values)]], values[np.append(is_gap, True)[: len(values)]]
    pairs = zip(first[:most].tolist(), last[:most].tolist(), strict=True)
    text = ",".join(f"{a}-{b}" if b > a else str(a) for a, b in pairs)
    return text + (f",... ({len(first) - most} more ranges)" if len(first) > most else "")
