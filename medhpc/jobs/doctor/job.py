"""A small job, which shows what tasks of a run will find: submitted, watched, asked by signals, taken back."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medhpc.errors import SlurmDown, SubmissionRefused
from medhpc.jobs import slurm
from medhpc.jobs.doctor.check import Check
from medhpc.jobs.doctor.findings import Visit, judge
from medhpc.jobs.probe import HELD, TERM, TOKEN, USR1, WORKER
from medhpc.jobs.script import command_of, here
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import Partition
from medhpc.run.durable import room_and_rights

SHELL, LOG = "shell.txt", "log.txt"
LOOK, ASK = 0.2, 6.0  # seconds between two looks at the folder, and at the queue
START = 60.0  # seconds for medhpc to start on a node, whose file system may be slow
DELIVERY = 15.0  # seconds for a signal
CACHE = 10.0  # seconds after which a file that another host wrote is seen


def check_job(
    folder: Path, site: Site, partition: Partition | None, wait: float, report: Callable[[str], None]
) -> list[Check]:
    """Submit the job, and judge what was seen of it.

    Parameters
    ----------
    folder : path
    site : Site
    partition : Partition or None
        Where the job goes.
    wait : float
        Seconds for it to start.
    report : callable
        Gets what is being done now.

    Raises
    ------
    NoPermission, DiskFull
    """
    with _place(folder) as place:
        visit = Visit(token=(place / TOKEN).read_text(), gres=wanted_gres(site, partition))
        try:
            _watch(place, site, visit, wait, report)
        except SubmissionRefused as error:
            visit.refused = str(error)
        except SlurmDown as error:
            visit.trouble = str(error)
        finally:
            _end(visit)
            visit.log = _read(place / LOG)
    return judge(visit, partition)


def _watch(place: Path, site: Site, visit: Visit, wait: float, report: Callable[[str], None]) -> None:
    report("waiting for a small job")
    script = place / "job.sbatch"
    script.write_text(probe_script(place, site.modules, command_of(site, here())))
    began = time.monotonic()
    visit.job = slurm.sbatch(script, *options_of(place, site, visit.gres), cwd=place)
    visit.shell = _see(place, visit, SHELL, wait)
    visit.waited = time.monotonic() - began
    if visit.shell:
        visit.worker = json.loads(_see(place, visit, WORKER, START) or "{}")
    if not visit.worker:
        return
    report("sending it signals")
    visit.sent = time.time()
    slurm.signal(visit.job, "USR1")
    visit.usr1 = json.loads(_see(place, visit, USR1, DELIVERY) or "{}")
    visit.seen = time.time()
    slurm.scancel([visit.job])
    visit.term = json.loads(_see(place, visit, TERM, DELIVERY) or "{}")


def wanted_gres(site: Site, partition: Partition | None) -> str:
    """What shows whether a job is given GPUs; empty where there are none."""
    return "gpu:1" if partition and partition.gpus_per_node and not site.gres else site.gres


def probe_script(place: Path, modules: Sequence[str], medhpc: Sequence[str]) -> str:
    """The batch script: bash tells that it sees the folder; then it becomes medhpc, as in the job of a run."""
    there = shlex.quote(str(place))
    return "\n".join(
        [
            "#!/bin/bash",
            f"cat {there}/{TOKEN} > {there}/{SHELL}.partial && mv {there}/{SHELL}.partial {there}/{SHELL}",
            *(f"module load {shlex.quote(module)}" for module in modules),
            f"exec {shlex.join(medhpc)} doctor --probe {there}",
            "",
        ]
    )


def options_of(place: Path, site: Site, gres: str) -> list[str]:
    """Options of sbatch for the smallest job; without mail."""
    asked = {
        **{name: value for name, value in site.directives.items() if not name.startswith("mail-")},
        "job-name": "medhpc-doctor",
        "comment": f"medhpc doctor {place.name}",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "1",
        "mem": "500M",
        "time": "00:05:00",
        "gres": gres,
        "output": str(place / LOG).replace("%", "%%"),
    }
    return [f"--{name}={value}" if value else f"--{name}" for name, value in asked.items() if value or name != "gres"]


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """A folder to meet the job in, with a word for it to read and a file that is locked; it is gone afterwards."""
    place = folder / f".medhpc-doctor-{secrets.token_hex(4)}"
    with room_and_rights(folder):
        place.mkdir()
    try:
        with room_and_rights(place):
            (place / TOKEN).write_text(secrets.token_hex(8))
            held = (place / HELD).open("w")
        with held:
            with suppress(OSError):  # no locks here: another check tells
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield place
    finally:
        _remove(place)


def _remove(place: Path) -> None:
    """Remove the folder; a job that is just ending may put a last file in."""
    for _ in range(3):
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
        time.sleep(1)


def _see(place: Path, visit: Visit, name: str, seconds: float) -> str:
    """A file of the job as soon as it is there; empty if it does not come, or the job is gone without it."""
    asked = time.monotonic()
    deadline = asked + seconds
    while time.monotonic() < deadline:
        if name in os.listdir(place):  # reading the folder makes a network file system look again
            return _read(place / name)
        if not visit.gone and time.monotonic() - asked > ASK:
            asked = time.monotonic()
            mine = [job for job in slurm.my_jobs() if job.id == visit.job]
            visit.reason = mine[0].reason if mine else ""
            if not mine:
                visit.gone, deadline = True, asked + CACHE
        time.sleep(LOOK)
    return ""


def _end(visit: Visit) -> None:
    """No job is left, whatever happened."""
    if visit.job:
        try:
            slurm.scancel([visit.job])
        except SlurmDown as error:
            visit.trouble = f"{error}; job {visit.job} may be left"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
