"""It never loses a tile: real kills, full disks, damaged files, forbidden folders."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from damage import empty, flip, truncate, zero
from samples import cells, msd, shard_files, stored, write_tiff

from medhpc import errors
from medhpc.infer import infer
from medhpc.run import Run, status
from medhpc.tiling import tile as plan_tiles

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")

# A server that has imported torch already forks processes in no time; they have no threads yet, so that it is safe.
processes = get_context("forkserver")
LAZY = ["safetensors", "xml.etree.ElementTree", "imagecodecs._zlib", "imagecodecs._deflate"]  # imported when needed
processes.set_forkserver_preload(["medhpc.infer", "medhpc.tiling", "zarr", "tifffile", *LAZY])

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink")  # what changes the disk


def tile(*arguments, **options):
    return plan_tiles(*arguments, device="cpu", threads=1, **options)


def start(function, *arguments) -> ForkServerProcess:
    process = processes.Process(target=function, args=arguments)
    process.start()
    return process


def run_infer(run: Path) -> None:
    infer(run, device="cpu", threads=1)


def dying_at(call: int, function, *arguments) -> None:
    """Call a function, and be killed at the n-th system call that changes the disk: before it, or half-way through."""
    left = call

    def wrap(name: str, original):
        def counted(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write":
                    file, content = arguments
                    original(file, bytes(content)[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return counted

    os.fsync = lambda file: None  # the machine goes on: what was written is there, on the disk or not yet
    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))
    function(*arguments)


def ends_at(call: int, function, *arguments) -> bool:
    """Whether the function needs as many calls; it is killed then."""
    process = start(dying_at, call, function, *arguments)
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="module")
def planned(tmp_path_factory, quick_measure) -> Path:
    """A folder with volume, network and a run of 96 tiles, of which none is computed."""
    folder = tmp_path_factory.mktemp("planned")
    write_tiff(folder / "volume.tif", cells((16, 64, 96)))
    msd(4).save(folder / "net.safetensors")
    tile(folder / "volume.tif", folder / "run", network=folder / "net.safetensors", halo="exact", tile=(16, 8, 8))
    return folder


@pytest.fixture(scope="module")
def undisturbed(planned) -> dict[str, bytes]:
    """Every shard file of that run, computed in one go."""
    shutil.copytree(planned / "run", planned / "undisturbed")
    run_infer(planned / "undisturbed")
    return shard_files(planned / "undisturbed")


@pytest.fixture
def run(planned, undisturbed, tmp_path) -> Path:
    """The same run, not computed yet."""
    return Path(shutil.copytree(planned / "run", tmp_path / "run"))


@pytest.fixture
def done(planned, undisturbed, tmp_path) -> Path:
    """The same run, computed."""
    return Path(shutil.copytree(planned / "undisturbed", tmp_path / "run"))


def assert_whole(run: Path, expected: dict[str, bytes]) -> None:
    found = status(run, verify=True)
    assert found.complete and found.damaged == 0
    assert shard_files(run) == expected
    Run(run).require_all()


# --- kill -9 -------------------------------------------------------------------------------------


def run_infer_up_to(end: int, run: Path) -> None:
    """Compute the first tiles of a run, and wait to be killed: however fast, the process never ends by itself."""
    infer(run, tiles=f"0:{end}", device="cpu", threads=1)
    while True:
        signal.pause()


def test_infer_killed_at_twenty_moments_and_resumed_is_as_undisturbed(run, undisturbed):
    chance = random.Random(0)
    progress = [0]
    for end in range(4, 84, 4):
        process = start(run_infer_up_to, end, run)
        if chance.random() < 0.8:  # while it computes, reads and writes; else at any time from its start on
            while status(run).done == progress[-1] and process.is_alive():
                time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        progress.append(status(run).done)
        assert status(run, verify=True).damaged == 0  # nothing is called done that is not
        assert {path: undisturbed[path] for path in shard_files(run)} == shard_files(run)  # shards are whole or absent
    assert progress == sorted(progress)
    assert len(set(progress)) > 8 and progress[-1] < len(undisturbed)  # it was killed while it worked
    run_infer(run)
    assert_whole(run, undisturbed)
    assert list((run / "partial").iterdir()) == []


def test_infer_killed_at_every_call_of_a_commit_and_resumed_is_as_undisturbed(planned, run, undisturbed):
    call, killed = 1, True
    while killed:
        shutil.rmtree(run)
        shutil.copytree(planned / "run", run)
        killed = ends_at(call, run_infer_of_two, run)
        assert status(run, verify=True).damaged == 0
        if call % 3 == 0 or not killed:
            run_infer_of_two(run)
            assert shard_files(run) == {path: undisturbed[path] for path in shard_files(run)}
            assert status(run).done == 2 and len(shard_files(run)) == 2
        call += 1
    assert call > 12


def run_infer_of_two(run: Path) -> None:
    infer(run, tiles="5:7", device="cpu", threads=1)


def plan_strips(source: Path, run: Path) -> None:
    tile(source, run, network="identity", store="raw", tile=(6, 20, 16))


def test_tile_killed_at_any_call_can_be_called_again(tmp_path):
    """Also while it copies an input that cannot be read in boxes."""
    values, source = cells((12, 40, 40)), tmp_path / "volume.tif"
    tifffile.imwrite(source, values, compression="zlib", photometric="minisblack")
    call, killed = 1, True
    while killed:
        run = tmp_path / f"run{call}"
        killed = ends_at(call, plan_strips, source, run)
        if not (run / "plan.json").exists():
            plan_strips(source, run)
        run_infer(run)
        assert np.array_equal(stored(run)[0], values)
        assert [path for path in run.rglob("*") if "partial" in path.name and path != run / "partial"] == []
        call += 3
    assert call > 20


def test_tile_killed_at_random_moments_can_be_called_again(tmp_path):
    values, source = cells((24, 100, 100)), tmp_path / "volume.tif"
    tifffile.imwrite(source, values, compression="zlib", photometric="minisblack")
    chance = random.Random(1)
    run = tmp_path / "run"
    for _ in range(6):
        process = start(plan_strips, source, run)
        while not run.exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        if (run / "plan.json").exists():
            shutil.rmtree(run)
    if not (run / "plan.json").exists():
        plan_strips(source, run)
    run_infer(run)
    assert np.array_equal(stored(run)[0], values)


def starts_without_a_compiler(run: Path) -> None:
    run_infer(run)
    assert not {"sympy", "torch._dynamo"} & set(sys.modules)  # seconds, for every task


def test_a_task_starts_quickly(run):
    process = start(starts_without_a_compiler, run)
    process.join(60)
    assert process.exitcode == 0


# --- several at once -----------------------------------------------------------------------------


def test_three_infers_at_once_on_the_same_tiles(run, undisturbed):
    together = [start(run_infer, run) for _ in range(3)]
    for process in together:
        process.join(60)
        assert process.exitcode == 0
    assert_whole(run, undisturbed)


def test_one_of_two_is_killed(run, undisturbed):
    together = [start(run_infer_up_to, 95, run), start(run_infer, run)]
    while status(run).done < 20:
        time.sleep(0.01)
    together[0].kill()
    for process in together:
        process.join(60)
    assert [process.exitcode for process in together] == [-signal.SIGKILL, 0]
    run_infer(run)
    assert_whole(run, undisturbed)


# --- damage --------------------------------------------------------------------------------------


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [truncate, empty, flip, zero, lengthen, os.unlink], ids=lambda f: f.__name__)
def test_a_damaged_shard_is_found_and_redone(done, undisturbed, damage):
    grid = Run(done).plan.grid
    for number in (0, 7, 95):
        damage(Run(done).shards.paths(grid[number].write)[0])
    found = status(done, verify=True)
    assert (found.damaged, found.damaged_tiles, found.missing) == (3, "0,7,95", 3)
    with pytest.raises(errors.MissingTiles, match="0,7,95"):
        Run(done).require_all()
    result = infer(done, threads=1)
    assert (result.computed, result.repaired) == (3, 3)
    assert_whole(done, undisturbed)


def test_a_damaged_shard_at_the_border_of_a_region_is_redone(tmp_path):
    """Such a tile fills a part of its shard only, and zarr would read the rest of the damaged file first."""
    source = write_tiff(tmp_path / "volume.tif", cells((8, 20, 20)))
    tile(source, tmp_path / "run", network="identity", store="raw", tile=(8, 10, 10), region="1:7,3:17,3:17")
    run_infer(tmp_path / "run")
    before = shard_files(tmp_path / "run")
    for path in Run(tmp_path / "run").shards.paths(Run(tmp_path / "run").plan.grid[1].write):
        zero(path)
    run_infer(tmp_path / "run")
    assert_whole(tmp_path / "run", before)


def test_all_shards_are_gone(done, undisturbed):
    shutil.rmtree(done / "prediction.zarr" / "c")
    assert infer(done, threads=1).repaired == len(undisturbed)
    assert_whole(done, undisturbed)


@pytest.mark.parametrize("damage", [truncate, empty, flip, zero, os.unlink], ids=lambda f: f.__name__)
def test_a_damaged_ledger_costs_time_and_nothing_else(done, undisturbed, damage):
    (ledger,) = (done / "ledger").iterdir()
    damage(ledger)
    known = status(done).done
    assert known < len(undisturbed)
    assert infer(done, threads=1).computed == len(undisturbed) - known
    assert_whole(done, undisturbed)


def test_a_ledger_torn_anywhere(done, undisturbed):
    (ledger,) = (done / "ledger").iterdir()
    content = ledger.read_bytes()
    for length in range(len(content) - 400, len(content), 29):
        ledger.write_bytes(content[:length])
        assert status(done).done >= content[:length].count(b"\n")
    run_infer(done)
    assert_whole(done, undisturbed)


def test_a_run_may_be_moved(run, undisturbed, tmp_path):
    infer(run, tiles="0:10", threads=1)
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    assert infer(moved, threads=1).skipped == 10
    assert_whole(moved, undisturbed)


# --- another input, another network --------------------------------------------------------------


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder with volume, network and a planned run that a test may spoil."""
    write_tiff(tmp_path / "volume.tif", cells((8, 20, 20)))
    msd(2).save(tmp_path / "net.safetensors")
    tile(tmp_path / "volume.tif", tmp_path / "run", network=tmp_path / "net.safetensors", halo="exact", tile="8,10,10")
    return tmp_path


def other_content(path: Path) -> None:
    write_tiff(path, cells((8, 20, 20), seed=1))


def other_shape(path: Path) -> None:
    write_tiff(path, cells((8, 20, 21)))


def touched(path: Path) -> None:
    os.utime(path)


@pytest.mark.parametrize("change", [other_content, other_shape, touched])
def test_an_input_that_was_changed_is_refused(own, change):
    change(own / "volume.tif")
    with pytest.raises(errors.SourceChanged, match=r"volume\.tif"):
        run_infer(own / "run")
    assert status(own / "run").done == 0


def test_an_input_that_is_put_back_is_taken(own):
    (own / "volume.tif").rename(own / "away.tif")
    with pytest.raises(errors.VolumeNotFound):
        run_infer(own / "run")
    (own / "away.tif").rename(own / "volume.tif")
    run_infer(own / "run")
    assert status(own / "run").complete


def test_a_network_that_was_changed_is_refused(own):
    msd(2, seed=1).save(own / "net.safetensors")
    with pytest.raises(errors.NetworkChanged, match=r"net\.safetensors"):
        run_infer(own / "run")
    (own / "net.safetensors").unlink()
    with pytest.raises(errors.BadNetwork):
        run_infer(own / "run")
    with pytest.raises(errors.NetworkChanged):
        infer(own / "run", network=msd(2, seed=1), threads=1)
    assert status(own / "run").done == 0


def test_a_plan_that_was_changed_is_refused(own):
    plan = own / "run" / "plan.json"
    plan.write_text(plan.read_text().replace('"how": "exact"', '"how": "given"'))
    with pytest.raises(errors.NotARun, match="changed"):
        run_infer(own / "run")


def test_a_broken_result_array_is_one_line(own):
    (own / "run" / "prediction.zarr" / "zarr.json").write_text("{")
    with pytest.raises(errors.NotARun, match=r"prediction\.zarr"):
        run_infer(own / "run")


# --- the disk is full ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def make_room(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def noise(path: Path, **options) -> np.ndarray:
    """Half a megabyte that cannot be compressed."""
    values = np.random.default_rng(0).integers(0, 2**16, (16, 128, 128)).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return values


@pytest.mark.parametrize(("shortage", "plenty"), [("size=400k", "size=4m"), ("nr_inodes=40", "nr_inodes=4000")])
def test_a_full_disk_is_one_line_and_what_is_done_is_kept(small_disk, tmp_path, shortage, plenty):
    noise(tmp_path / "volume.tif")
    plans = {name: folder / "run" for name, folder in (("small", small_disk), ("large", tmp_path))}
    for run in plans.values():
        tile(tmp_path / "volume.tif", run, network="identity", store="raw", tile=(16, 16, 16))
    run_infer(plans["large"])
    make_room(small_disk, "size=4m")
    make_room(small_disk, shortage)
    for _ in range(2):  # the second try does not make it worse
        with pytest.raises(errors.DiskFull, match="no room left") as caught:
            run_infer(plans["small"])
        assert "\n" not in str(caught.value)
        found = status(plans["small"], verify=True)
        assert 0 < found.done < found.total and found.damaged == 0
        assert list((plans["small"] / "partial").iterdir()) == []
    make_room(small_disk, plenty)
    assert infer(plans["small"], threads=1).skipped == found.done
    assert_whole(plans["small"], shard_files(plans["large"]))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tile_on_a_full_disk_can_be_called_again(small_disk, tmp_path, compression):
    """Compressed, the input is copied first."""
    values = noise(tmp_path / "volume.tif", compression=compression)
    (small_disk / "ballast").write_bytes(bytes(340_000 if compression else 400 * 1024))
    options = dict(network="identity", store="raw", tile=(16, 32, 128))
    with pytest.raises(errors.DiskFull) as caught:
        tile(tmp_path / "volume.tif", small_disk / "run", **options)
    assert "\n" not in str(caught.value)
    make_room(small_disk, "size=4m")
    tile(tmp_path / "volume.tif", small_disk / "run", **options)
    run_infer(small_disk / "run")
    assert np.array_equal(stored(small_disk / "run")[0], values)


# --- permissions ---------------------------------------------------------------------------------


def heed_permissions() -> None:
    """Let permissions count for root as for anybody: give up the capabilities to pass over them (in this thread)."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    override, read_search = 1 << 1, 1 << 2
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(override | read_search)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _with_permissions(answers, function, arguments) -> None:
    heed_permissions()
    try:
        function(*arguments)
        answers.put(("", ""))
    except Exception as error:
        answers.put((type(error).__name__, str(error)))


def with_permissions(function, *arguments) -> tuple[str, str]:
    """Call a function in a process for which permissions count; the class and the message of its error, if any."""
    answers = processes.SimpleQueue()
    process = start(_with_permissions, answers, function, arguments)
    process.join(60)
    return answers.get()


@contextlib.contextmanager
def read_only(*folders: Path):
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


def plan_exact(source: Path, run: Path, network: Path) -> None:
    tile(source, run, network=network, halo="exact", tile="8,10,10")


@pytest.fixture
def job(tmp_path) -> tuple[Path, Path, Path]:
    """A volume and a network in a folder of their own, and where a run may be."""
    (tmp_path / "data").mkdir()
    write_tiff(tmp_path / "data" / "volume.tif", cells((8, 20, 20)))
    msd(2).save(tmp_path / "data" / "net.safetensors")
    return tmp_path / "data" / "volume.tif", tmp_path / "run", tmp_path / "data" / "net.safetensors"


def test_a_read_only_source_is_good_enough(job):
    source, run, _ = job
    with read_only(source.parent):
        assert with_permissions(plan_exact, *job) == ("", "")
        assert with_permissions(run_infer, run) == ("", "")
    assert status(run, verify=True).complete


def test_a_run_folder_that_cannot_be_written(job):
    source, run, _ = job
    run.mkdir()
    with read_only(run):
        kind, message = with_permissions(plan_exact, *job)
        assert kind == "NoPermission" and str(run) in message and "\n" not in message
    plan_exact(*job)
    infer(run, tiles="0:2", threads=1)
    with read_only(run):
        kind, message = with_permissions(run_infer, run)
        assert kind == "NoPermission" and str(run) in message and "\n" not in message
        assert with_permissions(status, run) == ("", "")
        assert status(run, verify=True).done == 2
    run_infer(run)
    with read_only(run):  # nothing is left to do: nothing is written
        assert with_permissions(run_infer, run) == ("", "")


@pytest.mark.parametrize("hidden", ["volume.tif", "net.safetensors"])
def test_an_input_that_cannot_be_read(job, hidden):
    source, run, _ = job
    plan_exact(*job)
    (source.parent / hidden).chmod(0)
    for function, arguments in ((run_infer, (run,)), (plan_exact, (source, run.with_name("other"), job[2]))):
        kind, message = with_permissions(function, *arguments)
        assert kind == "NoPermission" and hidden in message and "\n" not in message


def test_a_plan_that_cannot_be_read(job):
    plan_exact(*job)
    (job[1] / "plan.json").chmod(0)
    kind, message = with_permissions(status, job[1])
    assert kind == "NoPermission" and "plan.json" in message


if sys.platform != "linux":
    pytest.skip("mounts and capabilities of Linux", allow_module_level=True)
