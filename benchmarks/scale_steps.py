"""What is measured by ``benchmarks.scale``, one call each; nothing here needs torch, so that memory can be seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.simulated import record, write_ledger
from medhpc.geometry import Tile
from medhpc.jobs import Submission, Wishes, prepare_run, scripts, submit
from medhpc.jobs.site import Site
from medhpc.jobs.watch import look
from medhpc.run import Run
from medhpc.run.missing import host_is_suspect, missing_tiles, recorded
from medhpc.run.share import share

SYNCED = 100  # records that are appended one by one
TASK = "500/1000"
PROCESSES = 1000  # that have written each half of the records


def pack(run: Path, out: Path) -> int:
    """Read the ledger, ask the cluster, pack, chain, render all sbatch files; the number of files."""
    return len(scripts(prepare_run(run, out, wishes=Wishes(site=Site(), stitch_options=("--as", "raw")))))


def pack_and_submit(run: Path, out: Path) -> Submission:
    shutil.rmtree(run / "jobs", ignore_errors=True)
    return submit(prepare_run(run, out, wishes=Wishes(site=Site(), stitch_options=("--as", "raw"))))


def write_records(run: Path, tiles: range, seconds: float) -> None:
    write_ledger(Run(run), tiles, seconds, min(PROCESSES, len(tiles)))


def append_records(run: Path) -> None:
    """As a task does: each record is synced to the disk before the next."""
    opened = Run(run)
    for _ in range(SYNCED):
        opened.ledger.append(record(opened, 0, 1.0))
    opened.ledger.close()


def read_ledger(run: Path) -> int:
    return int(np.count_nonzero(recorded(Run(run))))


def list_missing(run: Path, lists: Path) -> int:
    """What the first task of a round of repair does; round 0 was before."""
    (lists / "missing-1.json").unlink(missing_ok=True)
    return sum(map(len, missing_tiles([Run(run)], lists / "missing-1.json")))


def start_task(run: Path, lists: Path) -> list[Tile]:
    """What every task does before its first tile."""
    opened = Run(run)
    [tiles] = share(missing_tiles([opened], lists / "missing-1.json"), TASK)
    host_is_suspect(opened)
    claims = opened.digests(set(tiles))
    return [tile for tile in map(opened.plan.grid.__getitem__, tiles) if tile.index in claims]


def show_status(run: Path) -> int:
    """The ledger, and all live jobs; SLURM is asked anew."""
    (run / "jobs/squeue.json").unlink(missing_ok=True)
    return look(run).status.done


def check(run: Path) -> None:
    """Read every shard back and compare its digest."""
    Run(run).require_all()
