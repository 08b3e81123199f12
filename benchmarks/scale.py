"""What each step takes for a thousand to a million tiles: seconds, memory, files, and calls of SLURM's controller.

There is no peer: the measure is growth, fitted as time ~ tiles^order. A million tiles of 1024^3 voxels are a volume of
10^15. What the steps take depends on the number of tiles and not on their size, so the tiles have 16^3 voxels here, and
their shards are links to one file; only ``check`` would take longer: it reads all that is stored. Files are counted
from the shards that a plan with tiles of 1024^3 has. Half of the tiles are done (every other one, which makes the
longest lists) until the check. SLURM's programs are replaced by ones that count their calls. Claims are about seconds
of the processor: other users of the machine do not count.

Claims: no step grows faster than the tiles to the 1.1; at 10^6 tiles each takes less than 5 s, but for the check, which
reads a million files, and the writing of all records, which a thousand tasks share; and all take less than 1 GiB; less
than 10 calls a minute reach the controller.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scale_steps, startup
from benchmarks.child import Outcome, in_child
from benchmarks.counted_slurm import CONTROLLER, CountedSlurm, counted_slurm
from benchmarks.measure import median_seconds, options, publish, table, timed
from benchmarks.simulated import EDGE, link_shards, write_sparse
from medhpc.geometry import Box, Grid, Index
from medhpc.jobs import Submission
from medhpc.jobs.watch import PATIENCE
from medhpc.run import Run
from medhpc.run.missing import missing_tiles
from medhpc.run.shards import shard_shape

REAL_EDGE = 1024  # voxels of the tiles that are counted on paper
SECONDS = 600.0  # for such a tile, in the ledger
RUNNING = 500  # tasks that squeue tells of one by one
MOST_ORDER, MOST_SECONDS, MOST_BYTES, MOST_CALLS = 1.1, 5.0, 2**30, 10
RECORDS, CHECK = "records of half the tiles", "check"
SHARED = (RECORDS, CHECK)  # steps that are many tasks' work
MEDHPC = [sys.executable, "-c", "from medhpc.cli import main; main()"]


def main() -> None:
    parser = options(__doc__, size="1600,1600,1600", rounds=3)
    parser.add_argument(
        "--decades", type=int, default=4, help="volumes; each has ten times the tiles of the one before"
    )
    parser.add_argument("--watch", type=float, default=65, help="seconds of 'medhpc status --watch' (default 65)")
    arguments = parser.parse_args()
    grids = sizes(arguments.size, arguments.decades)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        session = count_calls(Path(folder), grids[0], arguments.watch)
    measured = []
    for grid in grids:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            measured.append(measure(Path(folder), grid, arguments.rounds))
    steps = {name: summary(grids, [one["steps"][name] for one in measured]) for name in measured[0]["steps"]}
    counted = [on_paper(grid, one["tasks"], one["calls"]) for grid, one in zip(grids, measured, strict=True)]
    hour = max(row["calls_of_submit"] for row in counted) + 3600 / PATIENCE
    calls = session | {"per_hour": hour, "per_minute": hour / 60}
    tell(grids, steps, counted, calls)
    result = {"tiles": [math.prod(grid) for grid in grids], "rounds": arguments.rounds, "steps": steps}
    publish(arguments.results, "scale", result | {"on_paper": counted, "calls": calls})


def sizes(largest: Index, decades: int) -> list[Index]:
    """Tiles along each axis of volumes up to `largest` voxels; each has a tenth of the tiles of the next."""
    found = [tuple(n // EDGE for n in largest)]
    for _ in range(decades - 1):
        axis = int(np.argmax(found[-1]))
        found.append(tuple(max(1, n // 10) if at == axis else n for at, n in enumerate(found[-1])))
    return [(z, y, x) for z, y, x in reversed(found)]


# --- seconds and memory --------------------------------------------------------------------------


def measure(folder: Path, grid: Index, rounds: int) -> dict[str, Any]:
    """Each step with so many tiles: seconds and memory, several times unless that would take minutes."""
    z, y, x = grid
    source, run, out = (
        write_sparse(folder / "volume.tif", (z * EDGE, y * EDGE, x * EDGE)),
        folder / "run",
        folder / "out",
    )
    tiles, found = math.prod(grid), {}

    def step(name: str, function: Callable[..., Any], *arguments: Any, times: int = rounds) -> Any:
        outcomes = [in_child(function, *arguments) for _ in range(times)]
        found[name] = outcomes
        print(f"{tiles:,} tiles, {name}: {median_cpu(outcomes):.3f} s", flush=True)
        return outcomes[-1].value

    step("plan", startup.plan, source, run)
    missing_tiles([Run(run)], folder / "missing-0.json")
    step(RECORDS, scale_steps.write_records, run, range(0, tiles, 2), SECONDS, times=1)
    step(f"{scale_steps.SYNCED} records, each synced", scale_steps.append_records, run)
    step("what is recorded", scale_steps.read_ledger, run)
    step("list of missing tiles", scale_steps.list_missing, run, folder)
    step("start of a task", scale_steps.start_task, run, folder)
    with counted_slurm(folder / "bin") as slurm:
        step("pack, chain, sbatch files", scale_steps.pack, run, out)
        before = slurm.calls()
        submission: Submission = step("pack, chain, submit", scale_steps.pack_and_submit, run, out, times=1)
        calls = slurm.calls() - before
        _list_for(submission, folder)
        slurm.queue(submission, RUNNING)
        step("status, with its jobs", scale_steps.show_status, run)
    scale_steps.write_records(run, range(1, tiles, 2), SECONDS)
    link_shards(Run(run))
    step(CHECK, scale_steps.check, run, times=1)
    tasks = sum(s.tasks for s in submission.steps)
    return {"steps": found, "tasks": tasks, "calls": calls}


def _list_for(submission: Submission, lists: Path) -> None:
    """Give the running array the list that its first task would have written."""
    for step in submission.steps:
        if step.name == "infer-0":
            shutil.copy(lists / "missing-1.json", step.missing)


def summary(grids: list[Index], outcomes: list[list[Outcome]]) -> dict[str, Any]:
    """One step at all numbers of tiles."""
    tiles = [math.prod(grid) for grid in grids]
    cpu = [median_cpu(several) for several in outcomes]
    peak = [statistics.median(one.peak for one in several) for several in outcomes]
    return {
        "cpu": cpu,
        "seconds": [median_seconds(several) for several in outcomes],
        "peak_bytes": peak,
        "order": _order(tiles, cpu),
        "last_order": _order(tiles[-2:], cpu[-2:]),
    }


def median_cpu(outcomes: list[Outcome]) -> float:
    """Processor seconds; no less than the clock can tell."""
    return max(0.01, statistics.median(one.cpu for one in outcomes))


def _order(tiles: list[int], seconds: list[float]) -> float:
    """The p of seconds ~ tiles^p."""
    return float(np.polyfit(np.log(tiles), np.log(seconds), 1)[0]) if len(tiles) > 1 else math.nan


# --- files ---------------------------------------------------------------------------------------


def on_paper(grid: Index, tasks: int, calls: Counter[str]) -> dict[str, int]:
    """Files and folders of a run whose tiles have 1024^3 voxels, in one submission in which every task writes."""
    z, y, x = (n * REAL_EDGE for n in grid)
    shard, _ = shard_shape((REAL_EDGE,) * 3, (z, y, x))
    shards = Grid((z, y, x), shard, (0, 0, 0), Box.whole((z, y, x))).counts
    folders = shards[0] * shards[1] + shards[0]
    others = 2 * tasks + 2 * calls["sbatch"]  # a ledger file and a log each; a script and a list of missing tiles
    files = math.prod(shards)
    return {
        "tiles": math.prod(grid),
        "voxels": z * y * x,
        "shards": files,
        "shards_per_tile": files // math.prod(grid),
        "folders": folders,
        "tasks": tasks,
        "inodes": files + folders + others,
        "calls_of_submit": of_controller(calls),
    }


# --- calls ---------------------------------------------------------------------------------------


def count_calls(folder: Path, grid: Index, seconds: float) -> dict[str, Any]:
    """How often somebody who watches a run asks SLURM, and its jobs do."""
    z, y, x = grid
    source, run, out = (
        write_sparse(folder / "volume.tif", (z * EDGE, y * EDGE, x * EDGE)),
        folder / "run",
        folder / "out.tif",
    )
    startup.plan(source, run)
    with counted_slurm(folder / "bin") as slurm:
        submission = scale_steps.pack_and_submit(run, out)
        slurm.queue(submission, 1)
        watching = _calls_while_watching(slurm, run, seconds)
        before = slurm.calls()
        timed([*MEDHPC, *submission.steps[0].command(0)])
        timed([*MEDHPC, *submission.steps[-1].command(0)])
        jobs = sum((slurm.calls() - before).values())
    return {"watch_seconds": seconds, "watch": watching, "jobs": jobs}


def _calls_while_watching(slurm: CountedSlurm, run: Path, seconds: float) -> int:
    before = slurm.calls()
    watch = subprocess.Popen([*MEDHPC, "status", str(run), "--watch"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(seconds)
    finally:  # whoever is started with & does not hear SIGINT
        watch.terminate()
        watch.wait()
    return of_controller(slurm.calls() - before)


def of_controller(calls: Counter[str]) -> int:
    """Those that slurmctld has to answer."""
    return sum(calls[name] for name in CONTROLLER)


# --- telling -------------------------------------------------------------------------------------


def tell(grids: list[Index], steps: dict[str, Any], counted: list[dict[str, int]], calls: dict[str, Any]) -> None:
    tiles = [f"{math.prod(grid):,}" for grid in grids]
    rows = [
        (
            name,
            *(f"{s:.2f}" for s in step["cpu"]),
            f"{step['order']:.2f}",
            f"{step['last_order']:.2f}",
            f"{step['peak_bytes'][-1] / 2**20:.0f}",
        )
        for name, step in steps.items()
    ]
    print("processor seconds by number of tiles; order: of all, of the last two; peak in MiB at the most tiles")
    print(table(("step", *tiles, "order", "last", "peak"), rows))
    print(f"on paper, tiles of {REAL_EDGE}^3 voxels")
    print(table(tuple(counted[0]), [tuple(f"{n:,}" for n in row.values()) for row in counted]))
    print(f"calls while watching for {calls['watch_seconds']:g} s: {calls['watch']}; by all jobs: {calls['jobs']}")
    print(f"a submission and an hour of watching: {calls['per_hour']:.0f}, {calls['per_minute']:.1f} a minute")
    print(f"claims not met: {'; '.join(broken(steps, calls)) or 'none'}")


def broken(steps: dict[str, Any], calls: dict[str, Any]) -> list[str]:
    """Claims that do not hold."""
    found = [
        f"{name} grows as tiles^{step['last_order']:.2f}"
        for name, step in steps.items()
        if step["last_order"] > MOST_ORDER
    ]
    found += [
        f"{name} takes {step['cpu'][-1]:.1f} s"
        for name, step in steps.items()
        if name not in SHARED and step["cpu"][-1] > MOST_SECONDS
    ]
    found += [
        f"{name} takes {step['peak_bytes'][-1] / 2**30:.1f} GiB"
        for name, step in steps.items()
        if step["peak_bytes"][-1] > MOST_BYTES
    ]
    return found + ([f"{calls['per_minute']:.0f} calls a minute"] if calls["per_minute"] > MOST_CALLS else [])


if __name__ == "__main__":
    main()
