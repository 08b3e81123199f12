"""What can be seen of a folder from here: room, files, locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from medhpc.jobs.doctor.check import Check, Verdict
from medhpc.run.durable import room_and_rights

LITTLE, VERY_LITTLE = 10e9, 1e9  # bytes
BYTES_PER_VOXEL = 2  # of a run with one class, and of its mask; of labels, three to five
FEW_FILES, VERY_FEW_FILES = 100_000, 1_000  # a run has one for each shard, and one for each process
USE_NO_LOCKS = "export HDF5_USE_FILE_LOCKING=FALSE before medhpc starts, on the nodes too"


def check_folder(folder: Path) -> list[Check]:
    """Free space, free inodes, locks.

    Raises
    ------
    NoPermission, DiskFull
        Nothing can be written there.
    """
    with room_and_rights(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".medhpc-doctor-") as file:
        locks = try_lock(file.name)
    state, kind = os.statvfs(folder), file_system(folder)
    return [
        *judge_name(folder),
        judge_space(shutil.disk_usage(folder).free, f"{folder} ({kind})"),
        judge_inodes(state.f_favail, state.f_files),
        judge_locks(locks),
    ]


def judge_name(folder: Path) -> list[Check]:
    """Whether SLURM can write logs there; nothing is said where it can."""
    if "\\" not in str(folder):
        return []
    return [
        Check(
            name="path",
            verdict="bad",
            found=f"{folder} has a backslash in it",
            means="SLURM cannot write logs there, and ends jobs that have none",
            mend="use a folder without one",
        )
    ]


def judge_space(free: int, place: str) -> Check:
    """Whether results find room."""
    verdict = _verdict(free, VERY_LITTLE, LITTLE)
    side = round((free / BYTES_PER_VOXEL) ** (1 / 3))
    return Check(
        name="space",
        verdict=verdict,
        found=f"{free / 1e9:,.1f} GB free in {place}; a quota may leave you less",
        means=f"run and mask of a volume of {side:,} x {side:,} x {side:,} voxels fit in; 'submit' looks again",
        mend=""
        if verdict == "ok"
        else f"less than {LITTLE / 1e9:.0f} GB is little: 'medhpc clean' runs that are stitched, or use another file "
        "system; where your volumes are smaller than that, none is needed",
    )


def judge_inodes(free: int, total: int) -> Check:
    """Whether as many files as there are shards find room."""
    means = "a run makes a file for each shard of its tiles, and one for each process"
    if not total:
        return Check(name="inodes", verdict="ok", found="this file system does not limit files", means=means)
    verdict = _verdict(free, VERY_FEW_FILES, FEW_FILES)
    mend = "" if verdict == "ok" else "remove files, or use another file system"
    return Check(name="inodes", verdict=verdict, found=f"{free:,} files can be made", means=means, mend=mend)


def _verdict(free: int, bad: float, warn: float) -> Verdict:
    return "bad" if free < bad else "warn" if free < warn else "ok"


def judge_locks(trouble: str) -> Check:
    """Whether HDF5 opens files here; `trouble` as of :func:`try_lock`."""
    if trouble:
        return Check(
            name="locks",
            verdict="warn",
            found=f"flock does not work: {trouble}",
            means="HDF5 will not open files here, and two people may submit one run at the same moment",
            mend=USE_NO_LOCKS,
        )
    return Check(name="locks", verdict="ok", found="flock works", means="HDF5 opens files here")


def try_lock(path: str) -> str:
    """Lock a file as HDF5 does, twice.

    Returns
    -------
    str
        What is wrong; empty where nothing is.
    """
    first, second = (os.open(path, os.O_RDWR) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "it lets two in at once"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(first)
        os.close(second)


def file_system(folder: Path) -> str:
    """Its type, such as ``nfs4``, ``lustre`` or ``ext4``."""
    found, longest = "unknown", -1
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, mounted, kind, *_ = line.split()
        place = Path(mounted.encode().decode("unicode_escape"))  # spaces are \040 there
        if folder.is_relative_to(place) and len(place.parts) >= longest:
            found, longest = kind, len(place.parts)
    return found
