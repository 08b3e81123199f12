"""Stitch is whole or not there: kills, damage, full disks, two at once."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
from damage import empty, flip, leave_one_byte, truncate, zero
from stored import blobs, run_of

from medhpc.errors import BadOption, DiskFull, MissingTiles
from medhpc.geometry import Box
from medhpc.run import Run, clean
from medhpc.stitch import stitch, write
from medhpc.stitch.scratch import Scratch
from medhpc.volume import open_volume

# A server that has imported everything forks processes in no time; they have no threads yet, so that it is safe.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["medhpc.stitch", "skimage.segmentation", "skimage.morphology", "zarr", "tifffile"])

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")  # what changes the disk
SPLIT = {"kind": "labels", "split": True, "split_depth": 0.05}
STORED = blobs((40, 48, 56), 60, 1, radius=(3, 6))


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs, though the volume is small."""
    monkeypatch.setattr(write, "THICKEST", 8)


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Path:
    """A finished run."""
    return run_of(tmp_path_factory.mktemp("master") / "run", STORED, (16, 48, 56)).folder


@pytest.fixture
def run(master, tmp_path) -> Path:
    """The same run, that a test may spoil."""
    return Path(shutil.copytree(master, tmp_path / "run"))


def stitch_all(run: Path, out: Path, options: dict) -> None:
    write.THICKEST = 8
    objects = out.with_suffix(".csv") if options.get("kind") == "labels" else None
    stitch(run, out, objects=objects, **options)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of the result and its table, and of everything else beside them."""
    files = [path for path in folder.rglob("*") if path.is_file() and "run" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(function, *arguments) -> ForkServerProcess:
    process = processes.Process(target=function, args=arguments)
    process.start()
    return process


def dying_at(call: int, function, *arguments) -> None:
    """Call a function, and be killed at the n-th call that changes the disk: before it, or half-way through."""
    left = call

    def wrap(name: str, original):
        def counted(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write" and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                    file, text = arguments
                    original(file, bytes(text)[: len(text) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return counted

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))
    function(*arguments)


def calls_of(function, *arguments) -> int:
    """How many calls of a function change the disk."""
    count = processes.Value("i", 0)
    process = start(counting, count, function, *arguments)
    process.join(60)
    assert process.exitcode == 0
    return count.value


def counting(count, function, *arguments) -> None:
    def wrap(original):
        def counted(*arguments, **options):
            count.value += 1
            return original(*arguments, **options)

        return counted

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    function(*arguments)


def killed_at(call: int, function, *arguments) -> None:
    process = start(dying_at, call, function, *arguments)
    process.join(60)
    assert process.exitcode in (-signal.SIGKILL, 0)  # threads make the number of calls vary a little


# --- kill -9 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SPLIT, {"kind": "mask"}], ids=["labels", "mask"])
@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_stitch_killed_anywhere_and_resumed_is_as_undisturbed(run, tmp_path, options, suffix, monkeypatch):
    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for folder in folders.values():
        folder.mkdir()
    out = folders["killed"] / f"out{suffix}"
    total = calls_of(stitch_all, run, folders["undisturbed"] / out.name, options)
    expected = content(folders["undisturbed"])
    assert total > 40
    for call in sorted(random.Random(0).sample(range(1, total), 5)):
        killed_at(call, stitch_all, run, out, options)
        finished = steps(run)
        with monkeypatch.context() as patch:
            done_again = recorded_steps(patch)
            stitch_all(run, out, options)
        # A folder that is in place is not its own stage any more: then it is made again.
        assert not set(done_again) & set(finished) or (out.is_dir() and "stage" in done_again)
        assert content(folders["killed"]) == expected
        assert steps(run) == []
        for path in folders["killed"].iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def steps(run: Path) -> list[str]:
    """The finished steps of an unfinished stitch."""
    files = [path for path in Run(run).scratch.glob("*/*") if path.is_file() and "partial" not in str(path)]
    return [path.name for path in files if path.name != "request.json"]


def recorded_steps(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that are finished from now on."""
    names: list[str] = []

    def recording(original):
        def recorded(self, step, *arrays):
            names.append(step)
            original(self, step, *arrays)

        return recorded

    for method in (Scratch.save, Scratch.mark):
        patch.setattr(Scratch, method.__name__, recording(method))
    return names


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_stitch_killed_again_and_again_gets_there(run, tmp_path, suffix):
    """At random moments, each going on where the last one ended; what stood at OUT stands until it is replaced."""
    out, undisturbed = tmp_path / "there" / f"out{suffix}", tmp_path / "undisturbed"
    out.parent.mkdir()
    undisturbed.mkdir()
    stitch(run, out, kind="mask")
    before = content(out.parent)
    began = time.monotonic()
    stitch_all(run, undisturbed / out.name, SPLIT)
    seconds, chance, progress = time.monotonic() - began, random.Random(1), [0]
    for _ in range(10):
        process = start(stitch_all, run, out, SPLIT)
        time.sleep(chance.uniform(0, seconds))
        process.kill()
        process.join()
        progress.append(len(steps(run)))
        if progress[-1] == 0 or process.exitcode == 0:
            break
        assert before.items() <= content(out.parent).items() or not out.exists()
    stitch_all(run, out, SPLIT)
    assert content(out.parent) == content(undisturbed)


def dying_between_renames(run: Path, out: Path) -> None:
    rename = os.rename

    def renamed(source, target) -> None:
        rename(source, target)
        if "replaced" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = renamed
    stitch(run, out)


def test_killed_between_the_two_renames_of_publishing(run, tmp_path):
    out = tmp_path / "out.ome.zarr"
    stitch(run, out, kind="probability")
    process = start(dying_between_renames, run, out)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    stitch(run, out)
    assert read(out).max() == 1
    assert sorted(os.listdir(tmp_path)) == ["out.ome.zarr", "run"]


def read(path: Path) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))[0]


# --- several at once -----------------------------------------------------------------------------


def test_a_second_stitch_of_the_same_result_is_refused_and_another_works(run, tmp_path):
    def meanwhile(done: int, total: int) -> None:
        if done == 1:
            for options in ({}, SPLIT):
                with pytest.raises(BadOption, match="another process stitches the same result") as caught:
                    stitch(run, tmp_path / "out.ome.zarr", **options)
                assert "\n" not in str(caught.value)
            stitch(run, tmp_path / "other.ome.zarr", **SPLIT)
            stitch(run, tmp_path / "mask.tif")

    stitch(run, tmp_path / "out.ome.zarr", progress=meanwhile, **SPLIT)
    np.testing.assert_array_equal(read(tmp_path / "out.ome.zarr"), read(tmp_path / "other.ome.zarr"))
    np.testing.assert_array_equal(read(tmp_path / "out.ome.zarr") > 0, read(tmp_path / "mask.tif"))


class Interrupted(Exception):
    pass


def interrupt(done: int, total: int) -> None:
    """Stop when half of the steps are done."""
    if done == total // 2:
        raise Interrupted


def interrupt_late(done: int, total: int) -> None:
    """Stop while the result is written."""
    if done == total - 1:
        raise Interrupted


def test_another_request_for_the_same_result_begins_anew(run, tmp_path):
    out = tmp_path / "out.ome.zarr"
    with pytest.raises(Interrupted):
        stitch(run, out, progress=interrupt, threshold=0.9, **SPLIT)
    stitch(run, out, kind="labels")
    stitch(run, tmp_path / "expected.ome.zarr", kind="labels")
    np.testing.assert_array_equal(read(out), read(tmp_path / "expected.ome.zarr"))
    assert sorted(os.listdir(tmp_path)) == ["expected.ome.zarr", "out.ome.zarr", "run"]


@pytest.mark.parametrize("out", ["out.ome.zarr", "out.tif", "out.nii.gz", "out.h5"])
def test_what_stands_at_out_stands_until_the_result_is_whole(run, tmp_path, out):
    stitch(run, tmp_path / out, kind="probability")
    before = content(tmp_path)
    with pytest.raises(Interrupted):
        stitch(run, tmp_path / out, progress=interrupt_late, **SPLIT)
    assert {name: text for name, text in content(tmp_path).items() if ".partial" not in name} == before
    stitch(run, tmp_path / out, **SPLIT)
    assert not np.array_equal(read(tmp_path / out), STORED)
    assert sorted(os.listdir(tmp_path)) == [out, "run"]


def test_what_is_unfinished_is_removed_by_clean(run, tmp_path):
    with pytest.raises(Interrupted):
        stitch(run, tmp_path / "out.ome.zarr", progress=interrupt_late, **SPLIT)
    assert len(os.listdir(tmp_path)) == 2
    clean(run, force=True)
    assert os.listdir(tmp_path) == ["run"]
    assert not Run(run).scratch.exists()


# --- damage after the check ----------------------------------------------------------------------


DAMAGES = (truncate, empty, leave_one_byte, flip, zero, os.unlink)


@pytest.mark.parametrize("options", [{}, {"kind": "probability"}, SPLIT], ids=["mask", "probability", "labels"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_a_shard_damaged_after_the_check_never_becomes_zeros(run, tmp_path, damage, options, monkeypatch):
    opened, out = Run(run), tmp_path / "out.ome.zarr"
    tile = opened.plan.grid[1]
    monkeypatch.setattr(Run, "require_all", lambda self: damage(opened.shards.paths(tile.write)[0]))
    with pytest.raises(MissingTiles, match=rf"^1 of 3 tiles .*: 1; fill them with  medhpc infer {run}$"):
        stitch(run, out, **options)
    monkeypatch.undo()
    assert not out.exists()
    opened.commit(tile, STORED[None][(slice(None), *tile.write.slices)], time.monotonic())
    stitch(run, out, **options)
    stitch(run, tmp_path / "expected.ome.zarr", **options)
    np.testing.assert_array_equal(read(out), read(tmp_path / "expected.ome.zarr"))


# --- no room, no right ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 KB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)


# Neither the numbers nor the ids of these many objects can be compressed much.
NOISE = np.random.default_rng(0).integers(0, 145, (32, 96, 96)).astype(np.uint8)


@pytest.mark.parametrize("out", ["out.ome.zarr", "out.tif", "out.nii.gz", "out.h5"])
@pytest.mark.parametrize("kind", ["probability", "labels"])
def test_a_full_disk_is_one_line_and_the_next_stitch_goes_on(small_disk, tmp_path, out, kind, monkeypatch):
    """OUT on the full disk."""
    run = run_of(tmp_path / "run", NOISE, (16, 96, 96)).folder
    for _ in range(2):
        with pytest.raises(DiskFull) as caught:
            stitch(run, small_disk / out, kind=kind)
        assert "\n" not in str(caught.value)
        assert not (small_disk / out).exists()
    make_room(small_disk)
    finished, done_again = steps(run), recorded_steps(monkeypatch)
    assert finished
    stitch(run, small_disk / out, kind=kind)
    assert not set(finished) & set(done_again)
    stitch(run, tmp_path / "expected.tif", kind=kind)
    np.testing.assert_array_equal(read(small_disk / out), read(tmp_path / "expected.tif"))
    assert os.listdir(small_disk) == [out]


def test_a_full_disk_below_the_run_is_one_line(small_disk, tmp_path):
    """Scratch on the full disk."""
    make_room(small_disk)
    run = run_of(small_disk / "run", NOISE, (16, 96, 96)).folder
    subprocess.run(["mount", "-o", "remount,size=320k", small_disk], check=True)
    for options in ({"kind": "labels"}, {"kind": "probability"}):
        with pytest.raises(DiskFull) as caught:
            stitch(run, tmp_path / "out.tif", **options)
        assert "\n" not in str(caught.value)
    make_room(small_disk)
    stitch(run, tmp_path / "out.tif", kind="probability")
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), NOISE)


def as_nobody(answers, run: Path, out: Path, table: Path) -> None:
    """Root may write everywhere; nobody may not."""
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        stitch(run, out, kind="labels", objects=table)
    except Exception as error:
        answers.put((type(error).__name__, str(error)))


@pytest.mark.parametrize("forbidden", ["out", "table", "run"])
def test_a_folder_that_may_not_be_written_is_one_line(run, tmp_path, forbidden):
    folders = {name: tmp_path / name for name in ("out", "table", "run")}
    for name, folder in folders.items():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o555 if name == forbidden else 0o777)
    for parent in itertools.takewhile(lambda folder: folder != Path(tempfile.gettempdir()), tmp_path.parents):
        parent.chmod(0o755)  # pytest keeps its folders to itself
    tmp_path.chmod(0o755)
    answers = processes.SimpleQueue()
    start(as_nobody, answers, run, folders["out"] / "out.tif", folders["table"] / "table.csv").join(60)
    kind, message = answers.get()
    assert kind == "NoPermission"
    assert str(folders[forbidden]) in message
    assert "\n" not in message
    assert not any(os.listdir(folders[name]) for name in ("out", "table"))


# --- memory --------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from medhpc.stitch import stitch, write
write.SLAB_VOXELS = 2**20
run, out, kind = sys.argv[1:]
stitch(run, out, kind=kind, levels=1, split=kind == "labels")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["mask", "labels"])
def test_memory_does_not_grow_with_the_volume(tmp_path, kind):
    peaks = []
    for length in (64, 512):
        stored = np.tile(blobs((64, 128, 128), 60), (length // 64, 1, 1))
        run = run_of(tmp_path / f"run-{length}", stored, (64, 128, 128))
        command = [sys.executable, "-c", PEAK, run.folder, tmp_path / f"{length}.ome.zarr", kind]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < peaks[0] + 40_000  # KB; the volume grew by 7 MB, and its labels by 30
