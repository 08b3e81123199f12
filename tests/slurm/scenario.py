"""A run of 63 tiles with an MS-D network on the private cluster, and the law that holds whatever happens to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Cluster
from samples import cells, msd, write_tiff

from medhpc import pipeline
from medhpc.jobs import Submission, Wishes, prepare_run, submissions, submit
from medhpc.jobs.allowance import cost_of
from medhpc.jobs.prepare import Prepared
from medhpc.jobs.site import Site
from medhpc.run import Run, status

SHAPE, TILE, TILES = (48, 48, 112), (16, 16, 16), 63
MEMORY = 2**30  # of a task: torch alone takes 600 MB
PLAN = {"tile": TILE, "halo": "exact", "memory": MEMORY, "device": "cpu", "threads": 1}
STITCH = {"kind": "probability"}
STITCH_WORDS = ("--as", "probability")
PER_TASK = 21  # tiles, unless told otherwise
HOLD = f"""
import time
def before_tile(index):
    while index % {PER_TASK} == 10 and (folder / "hold").exists(): time.sleep(0.05)
"""


@dataclass(frozen=True)
class Planned:
    """A planned run that nothing was computed of, and what `medhpc run` makes of it."""

    volume: Path
    network: Path
    run: Path
    expected: bytes


def plan(folder: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: Any) -> Planned:
    """Make a volume and a network, let `medhpc run` finish them, and plan them once more."""
    volume = write_tiff(folder / "cells.tif", cells(shape, seed))
    network = folder / "network.safetensors"
    msd(depth=3).save(network)
    out, run = folder / "expected.tif", folder / "planned.run"
    pipeline.run(volume, out, network=network, run_folder=run, keep=True, **PLAN, **STITCH, **options)
    for done in ("prediction.zarr/c", "ledger", "stitch"):
        shutil.rmtree(run / done, ignore_errors=True)
    (run / "ledger").mkdir()
    (run / "results.json").unlink()
    return Planned(volume, network, run, out.read_bytes())


@dataclass
class Scenario:
    """One copy of a planned run, to be submitted, struck by something, and to be finished all the same."""

    cluster: Cluster
    planned: Planned
    folder: Path
    site: Site = field(init=False)
    before: int = field(init=False)  # jobs that were over when it began

    def __post_init__(self) -> None:
        self.before = len(self.cluster.finished())
        shutil.copytree(self.planned.run, self.run)
        medhpc = self.folder / "medhpc"
        worker = Path(__file__).with_name("worker.py")
        medhpc.write_text(f'#!/bin/bash\nexec "{sys.executable}" "{worker}" "{self.folder}" "$@"\n')
        medhpc.chmod(0o755)
        self.site = Site(medhpc=str(medhpc))

    @property
    def run(self) -> Path:
        return self.folder / 'it\'s a\n$(touch touched) "run"'  # no shell may read this

    @property
    def out(self) -> Path:
        return self.folder / "out.tif"

    # --- acting ----------------------------------------------------------------------------------

    def accident(self, text: str) -> None:
        """Python that defines ``before_tile(index)``; see worker.py."""
        (self.folder / "accident.py").write_text(text)

    def hold(self) -> None:
        """Let every task wait in the middle of its tiles until :meth:`release`."""
        (self.folder / "hold").touch()
        self.accident(HOLD)

    def release(self) -> None:
        """Let tasks go on."""
        (self.folder / "hold").unlink(missing_ok=True)

    def prepare(self, *, tiles_per_task: int = PER_TASK, **options: Any) -> Prepared:
        """Decide on the jobs: one round of repair unless told otherwise."""
        target = cost_of(Run(self.run)).seconds * (tiles_per_task + 0.5)
        defaults = {"rounds": 1, "site": self.site, "stitch_options": STITCH_WORDS}
        return prepare_run(self.run, self.out, wishes=Wishes(target_seconds=target, **(defaults | options)))

    def submit(self, **options: Any) -> Submission:
        """Submit them; options as for :meth:`prepare`."""
        return submit(self.prepare(**options))

    def medhpc(self, *arguments: str | Path, code: int = 0) -> str:
        """What the command prints; its jobs run the worker of these tests."""
        site = self.folder / "site.toml"
        site.write_text(f'medhpc = "{self.site.medhpc}"\n')
        command = [Path(sys.executable).with_name("medhpc"), *arguments]
        environment = os.environ | {"MEDHPC_SITE": str(site)}
        found = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert found.returncode == code, found.stdout + found.stderr
        return found.stdout + found.stderr

    def until_done(self, tiles: int, seconds: float = 180) -> None:
        """Wait until so many tiles are in the ledger."""
        self.cluster.wait(lambda: status(self.run).done >= tiles, seconds, f"{tiles} tiles are done")

    def workers(self) -> dict[int, str]:
        """Processes that compute tiles of this run, and the nodes that they are on."""
        found = ((pid, name) for name in self.cluster.options.names for pid in self.cluster.processes_on(name))
        return {pid: name for pid, name in found if self._is_worker(pid)}

    def _is_worker(self, pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"infer" in words and str(self.run).encode() in words

    # --- laws ------------------------------------------------------------------------------------

    def finish(self, seconds: float = 300) -> None:
        """Release it and wait for the end of the chain: nothing is lost."""
        self.release()
        self.cluster.wait_for_jobs(seconds)
        nothing_lost(self.run, self.out, self.planned.expected)
        assert not list(self.folder.rglob("touched"))

    def end_unfinished(self, seconds: float = 300) -> None:
        """Release it and wait for the end of a chain that could not repair everything: nothing was stitched."""
        self.release()
        self.cluster.wait_for_jobs(seconds)
        assert not status(self.run).complete
        assert not self.out.exists()

    # --- looking ---------------------------------------------------------------------------------

    def log(self, step: str) -> str:
        """What the jobs of a step printed, in all submissions."""
        logs = [path for one in submissions(self.run) for path in sorted((one.folder / "log").glob(f"{step}-*.log"))]
        return "\n".join(path.read_text() for path in logs)

    def array(self, step: str) -> str:
        """The id of a step's job, in the newest submission."""
        return submissions(self.run)[-1].jobs[step]

    def ends(self, step: str) -> list[str]:
        """How SLURM says the jobs of a step ended, each time they did."""
        return [end["JobState"] for end in self.over(step)]

    def over(self, step: str) -> list[dict[str, str]]:
        """What SLURM noted at the end of each job of a step, since this scenario began."""
        return [end for end in self.cluster.finished()[self.before :] if end["Name"].startswith(f"medhpc-{step}-")]

    def records(self) -> list[dict[str, Any]]:
        """The ledger."""
        return list(Run(self.run).ledger.records())


def nothing_lost(run: Path, out: Path, expected: bytes) -> None:
    """All tiles are there, byte by byte as the ledger has them, and the result is that of `medhpc run`."""
    found = status(run, verify=True)
    assert found.complete, f"missing: {found.missing_tiles}, damaged: {found.damaged_tiles}, {found.errors}"
    assert out.read_bytes() == expected
