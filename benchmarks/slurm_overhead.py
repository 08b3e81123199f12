"""What `medhpc submit` costs beside a bare job array that does the same work, on a private SLURM cluster.

The work is 200 trivial tiles of an MS-D network of three layers. The peer is an array submitted by hand, whose tasks
compute as many tiles each, of the same run, with the same network and resources (``medhpc infer --tiles A:B``), and a
stitch that waits for it. Arrays whose tasks only import torch, or do nothing, tell what Python and SLURM take. All of
them are run in turn. Time is counted from the command to the end of the last job, as SLURM's log has it.

Claim: ``submit`` takes at most 1.2 times as long, up to the last tile. (After that, a chain has rounds of repair to go
through that find nothing; what they take does not grow with the tiles, and is told.)
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import Outcome
from benchmarks.measure import alternate, options, publish, table
from benchmarks.private_cluster import STITCH_WORDS, Cluster, Options, Planned, plan, private_cluster
from medhpc.jobs import Wishes, prepare_run
from medhpc.jobs.allowance import cost_of
from medhpc.jobs.script import here
from medhpc.jobs.site import Site
from medhpc.run import Run, status

SIZE = "80,80,128"  # voxels: 200 tiles
LIMIT = 1.2
SUBMIT, BARE, TORCH, NOTHING = "medhpc submit", "bare array", "array that imports torch", "array of nothing"
LOOK = 0.02  # seconds between two looks at SLURM's log


def main() -> None:
    parser = options(__doc__, size=SIZE, rounds=7)
    parser.add_argument("--tiles-per-task", type=int, default=25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder, private_cluster(Options(gpu_nodes=0)) as cluster:
        work = Work(cluster, Path(folder), plan(Path(folder), shape=arguments.size), arguments.tiles_per_task)
        ways = {SUBMIT: work.submit, BARE: work.bare, TORCH: work.torch, NOTHING: work.nothing}
        outcomes = alternate(ways, arguments.rounds)
        packing = work.packing
    moments = {way: _medians(runs) for way, runs in outcomes.items()}
    ratios = {
        "to the last tile": moments[SUBMIT]["infer-0"] / moments[BARE]["infer"],
        "to the result": moments[SUBMIT]["stitch"] / moments[BARE]["stitch"],
    }
    print(f"{packing.tiles} tiles in {packing.tasks} tasks; seconds from the command to the end of each step")
    print(table(("way", "steps"), [(way, _told(found)) for way, found in moments.items()]))
    print(f"rounds of repair that find nothing, and one more job to wait for: {_after(moments):.1f} s")
    for what, ratio in ratios.items():
        print(f"{SUBMIT} / {BARE}, {what}: {ratio:.2f}" + (f" (claim: at most {LIMIT})" if "tile" in what else ""))
    result = {"tiles": packing.tiles, "tasks": packing.tasks, "seconds": moments, "ratios": ratios, "limit": LIMIT}
    rounds = {way: [run.value for run in runs] for way, runs in outcomes.items()}
    publish(arguments.results, "slurm_overhead", result | {"rounds": rounds})


@dataclass
class Work:
    """The same tiles, computed in several ways."""

    cluster: Cluster
    folder: Path
    planned: Planned
    tiles_per_task: int

    def __post_init__(self) -> None:
        self.run, self.out, self.site = self.folder / "run", self.folder / "out.tif", self.folder / "site.toml"
        self.site.touch()  # whatever this user has set elsewhere
        self.target = cost_of(Run(self.planned.run)).seconds * (self.tiles_per_task + 0.5)
        prepared = prepare_run(self.planned.run, self.out, wishes=Wishes(target_seconds=self.target, site=Site()))
        self.packing = prepared.packing  # what submit will find, too

    def submit(self) -> Outcome:
        """As a user does it."""
        command = [*here(), "submit", str(self.run), "--out", str(self.out), *STITCH_WORDS, "--yes"]
        jobs = self.packing.tasks + 2 * self.packing.repair_tasks + 1
        return self._timed(lambda: self._type(*command, "--target-time", f"{self.target:.6f}s"), jobs, out=True)

    def bare(self) -> Outcome:
        """As somebody would do it who wants no more than this."""
        tiles, per_task, words = self.packing.tiles, self.packing.tiles_per_task, " ".join(here())
        first = f"A=$((SLURM_ARRAY_TASK_ID * {per_task})) B=$((A + {per_task}))"
        infer = f'{first}\nexec {words} infer --threads 1 --tiles "$A:$((B < {tiles} ? B : {tiles}))" {self.run}'
        stitch = f"exec {words} stitch {' '.join(STITCH_WORDS)} {self.run} {self.out}"

        def act() -> None:
            array = self._sbatch("infer", infer, self._array)
            self._sbatch("stitch", stitch, f"--dependency=afterany:{array}")

        return self._timed(act, jobs=self.packing.tasks + 1, out=True)

    def torch(self) -> Outcome:
        """Python and torch are all that the tasks start."""
        python = f"exec {sys.executable} -c 'import torch'"
        return self._timed(lambda: self._sbatch("torch", python, self._array), self.packing.tasks)

    def nothing(self) -> Outcome:
        """What SLURM itself takes for so many tasks."""
        return self._timed(lambda: self._sbatch("nothing", "exec true", self._array), self.packing.tasks)

    @property
    def _array(self) -> str:
        return f"--array=0-{self.packing.tasks - 1}"

    def _sbatch(self, name: str, text: str, *options: str) -> str:
        """Submit lines of shell with the resources of a task; the job's id."""
        script, given = self.folder / f"{name}.sbatch", self.packing.infer
        script.write_text(f"#!/bin/bash\nset -e\n{text}\n")
        asked = (
            f"--cpus-per-task={given.cpus}",
            f"--mem={given.memory >> 20}M",
            f"--output={self.folder}/%x-%A-%a.log",
        )
        return self._type("sbatch", "--parsable", f"--job-name={name}", *asked, *options, str(script))

    def _type(self, *command: str) -> str:
        environment = self.cluster.environment | {"MEDHPC_SITE": str(self.site)}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def _timed(self, act: Callable[[], object], jobs: int, *, out: bool = False) -> Outcome:
        """Act on a fresh copy of the run and wait for so many jobs; when each step had ended is its value.

        Where there is a result, it must be that of ``medhpc run``.
        """
        shutil.rmtree(self.run, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        shutil.copytree(self.planned.run, self.run)
        before = len(self.cluster.finished())
        os.sync()
        began = time.monotonic()
        act()
        moments, ended = {"command": time.monotonic() - began}, Counter[str]()
        while ended.total() < jobs:
            time.sleep(LOOK)
            now = Counter(
                end["Name"].removeprefix("medhpc-").removesuffix("-run") for end in self.cluster.finished()[before:]
            )
            moments |= dict.fromkeys(now - ended, time.monotonic() - began)
            ended = now
        if out:
            assert status(self.run).complete
            assert self.out.read_bytes() == self.planned.expected
        return Outcome(seconds=max(moments.values()), value=moments)


def _medians(runs: Sequence[Outcome]) -> dict[str, float]:
    return {step: statistics.median(run.value[step] for run in runs) for step in runs[0].value}


def _told(moments: dict[str, float]) -> str:
    return ", ".join(f"{step} {seconds:.1f}" for step, seconds in moments.items())


def _after(moments: dict[str, dict[str, float]]) -> float:
    """How much longer the result takes after the last tile, with submit."""
    chain, bare = moments[SUBMIT], moments[BARE]
    return (chain["stitch"] - chain["infer-0"]) - (bare["stitch"] - bare["infer"])


if __name__ == "__main__":
    main()
