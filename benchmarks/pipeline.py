"""What tiles, a ledger and durable shards cost: the pipeline with a network that changes nothing.

The peer is the least that any program must do: read the volume once (tifffile, a memory map) and write it once to a
sharded Zarr array (zarr-python), all of it in memory, nothing synced to the disk. It is run with zarr's default codec
and with the one that medhpc stores tiles with. Files are in the page cache for all of them.

Claims: ``infer`` takes at most 1.3 times as long, tile + infer + stitch at most 2.5 times.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from benchmarks.child import in_child
from benchmarks.measure import alternate, median_seconds, options, publish, table
from benchmarks.volumes import write_cells
from medhpc.infer import infer
from medhpc.run import Run
from medhpc.stitch import stitch
from medhpc.tiling import tile
from medhpc.volume.codecs import codecs_for

INFER_LIMIT, PIPELINE_LIMIT = 1.3, 2.5
DEFAULT, OURS = "read + write, zarr's default codec", "read + write, medhpc's codec"


def copy_plainly(source: Path, out: Path, shard: tuple[int, ...], chunk: tuple[int, ...], ours: bool) -> None:
    """One plain read and one sharded write."""
    shutil.rmtree(out, ignore_errors=True)
    volume = np.array(tifffile.memmap(source))
    codec: dict[str, Any] = {"compressors": codecs_for(volume.dtype)} if ours else {}
    array = zarr.create_array(out, shape=volume.shape, dtype=volume.dtype, shards=shard, chunks=chunk, **codec)
    array[...] = volume


def plan(source: Path, run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    tile(source, run, network="identity", store="raw")


def run_pipeline(source: Path, run: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    plan(source, run)
    infer(run)
    stitch(run, out, kind="raw", levels=1)


def main() -> None:
    arguments = options(__doc__, size="512,1024,1024", rounds=5).parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        seconds = measure(Path(folder), arguments.size, arguments.rounds)
    ratios = {
        peer: {"infer": seconds["infer"] / seconds[peer], "pipeline": seconds["tile + infer + stitch"] / seconds[peer]}
        for peer in (DEFAULT, OURS)
    }
    megabytes = 2 * np.prod(arguments.size) / 2**20
    print(table(("job", "seconds", "MB/s"), [(job, f"{s:.2f}", f"{megabytes / s:.0f}") for job, s in seconds.items()]))
    for peer, ratio in ratios.items():
        print(f"infer / ({peer}): {ratio['infer']:.2f} (claim: at most {INFER_LIMIT})")
        print(f"tile + infer + stitch / ({peer}): {ratio['pipeline']:.2f} (claim: at most {PIPELINE_LIMIT})")
    publish(
        arguments.results,
        "pipeline",
        {"voxels": arguments.size, "dtype": "uint16", "rounds": arguments.rounds, "seconds": seconds, "ratios": ratios},
    )


def measure(folder: Path, size: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Median seconds of each job."""
    source, run, out = write_cells(folder / "volume.tif", size), folder / "run", folder / "out.ome.zarr"
    plan(source, run)
    stored = Run(run).plan.stored

    def infer_anew() -> Any:
        plan(source, run)
        return in_child(infer, run)

    outcomes = alternate(
        {
            DEFAULT: lambda: in_child(copy_plainly, source, folder / "plain.zarr", stored.shard, stored.chunk, False),
            OURS: lambda: in_child(copy_plainly, source, folder / "plain.zarr", stored.shard, stored.chunk, True),
            "infer": infer_anew,
            "tile + infer + stitch": lambda: in_child(run_pipeline, source, run, out),
        },
        rounds,
    )
    _check_equal(source, out)
    return {job: median_seconds(runs) for job, runs in outcomes.items()}


def _check_equal(source: Path, out: Path) -> None:
    """The pipeline gave back what it was given."""
    volume, result = tifffile.memmap(source), zarr.open_array(out / "0", mode="r")
    for z in range(0, len(volume), 128):
        assert np.array_equal(volume[z : z + 128], result[z : z + 128])


if __name__ == "__main__":
    main()
