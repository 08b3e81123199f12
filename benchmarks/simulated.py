"""Runs of any number of tiles that take no time to compute and no room on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from medhpc.geometry import Index
from medhpc.run import Run
from medhpc.run.ledger import Record

EDGE = 16  # voxels: the tiles are small, so that a million of them need no large file
SHARD = bytes(4096)  # what every tile has stored
DIGEST = hashlib.sha256(SHARD).hexdigest()


def write_sparse(path: Path, size: Index) -> Path:
    """A volume of zeros that takes no room on the disk."""
    tifffile.memmap(path, shape=size, dtype=np.uint8, photometric="minisblack", bigtiff=True).flush()
    return path


def write_ledger(run: Run, tiles: Sequence[int], seconds: float = 0.1234, processes: int = 64) -> None:
    """What `processes` tasks would have written, had they computed these tiles; not synced to the disk."""
    taken = len(list((run.folder / "ledger").iterdir()))
    for number, part in enumerate(np.array_split(np.asarray(tiles), processes), start=taken):
        with (run.folder / "ledger" / f"node-{number}.jsonl").open("wb") as file:
            file.writelines(record(run, index, seconds).line for index in part.tolist())


def link_shards(run: Run) -> None:
    """Every shard of a run whose tiles are single shards, as a symbolic link to one file."""
    prediction = run.folder / "prediction.zarr"
    (prediction / "shard").write_bytes(SHARD)
    for tile in run.plan.grid:
        [path] = run.shards.paths(tile.write)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("../../../../shard")  # c/0/z/y/x


def record(run: Run, index: int, seconds: float) -> Record:
    """What a task writes when it has computed a tile."""
    return Record(
        tile=index,
        plan=run.ledger.plan,
        digest=DIGEST,
        stored=4096 + index % 7,
        voxels=EDGE**3,
        seconds=seconds,
        interval=seconds,
        cpu=seconds,
        peak_memory=2**30,
        host=f"node{index % 64}",
        job=f"1234_{index % 1000}",
        time=1.7e9 + index / 100,
    )
