"""Stitch on a Dask cluster: the same bytes, whoever does the units, and whoever is lost meanwhile."""

import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from distributed import KilledWorker, LocalCluster
from stored import blobs, run_of

import medhpc
from medhpc.errors import BadOption, MissingTiles, NoWorkers
from medhpc.run import Run
from medhpc.stitch import WorkerJobs, cluster, stitch, where, write
from medhpc.stitch.order import Order, short_digest
from medhpc.stitch.request import Request
from medhpc.stitch.unit import do_unit, forget
from medhpc.stitch.where import Where, parse_where
from medhpc.stitch.work import work_of
from medhpc.stitch.workers import worker_script

STORED = blobs((80, 48, 56), 100, 1, radius=(3, 6))
SPLIT = {"kind": "labels", "split": True}
KINDS = {"mask": {}, "probability": {"kind": "probability"}, "labels": SPLIT}
STEPS = ("slab-*", "parts-*", "written-*", "merged.npz", "ids.npz")


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs, though the volume is small."""
    monkeypatch.setattr(write, "THICKEST", 8)


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Path:
    """A finished run of several rows of tiles and of shards."""
    return run_of(tmp_path_factory.mktemp("master") / "run", STORED, (16, 48, 56)).folder


@pytest.fixture
def run(master, tmp_path) -> Path:
    return Path(shutil.copytree(master, tmp_path / "run"))


@pytest.fixture(scope="module")
def expected(master, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """By kind, the files that threads of one process write."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "THICKEST", 8)
        for kind, options in KINDS.items():
            folder = tmp_path_factory.mktemp(kind)
            stitch_into(folder, master, options)
            found[kind] = content(folder)
    return found


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a cluster that is not ours: two workers of two threads."""
    pages = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, scheduler_kwargs=pages) as running:
        yield running.scheduler_address


def stitch_into(folder: Path, run: Path, options: dict, **more) -> None:
    folder.mkdir(exist_ok=True)
    table = {"objects": folder / "objects.csv"} if options.get("kind") == "labels" else {}
    stitch(run, folder / "out.ome.zarr", levels=3, **table, **options, **more)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(run: Path) -> dict[str, int]:
    """The finished steps of an unfinished stitch: files that are never written twice keep their inode."""
    found = (path for pattern in STEPS for path in Run(run).scratch.glob(f"*/{pattern}"))
    return {path.name: path.stat().st_ino for path in found if ".partial" not in path.name}


def unfinished(run: Path) -> list[Path]:
    """What stitches have left in the run."""
    return [path for path in Run(run).scratch.glob("*") if path.is_dir()]


def order_of(run: Path, out: Path, **options) -> Order:
    opened = Run(run)
    return Order(
        run=str(run),
        out=str(out),
        result=short_digest(str(out)),
        request=Request(**options),
        plan=opened.ledger.plan,
        thickness=8,
    )


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_processes_write_the_same_bytes_as_threads(run, tmp_path, expected, kind):
    calls = []
    stitch_into(tmp_path / "out", run, KINDS[kind], dask="local:2", progress=lambda *call: calls.append(call))
    assert content(tmp_path / "out") == expected[kind]
    assert calls == [(n + 1, calls[0][1]) for n in range(calls[0][1])]
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]
    assert not unfinished(run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_that_runs_already(run, tmp_path, expected, kind, scheduler):
    stitch_into(tmp_path / "out", run, KINDS[kind], dask=scheduler)
    assert content(tmp_path / "out") == expected[kind]


@pytest.mark.parametrize("seed", range(3))
def test_units_may_be_done_in_any_order_twice_and_at_once(run, tmp_path, expected, seed):
    """By whoever knows the order as text only: no unit relies on another of its step, none disturbs another."""
    folder, chance = tmp_path / "out", random.Random(seed)
    folder.mkdir()
    order = order_of(run, folder / "out.ome.zarr", objects=str(folder / "objects.csv"), levels=3, **SPLIT)

    def do(step, numbers):
        twice = [*numbers, *numbers]
        chance.shuffle(twice)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda n: work_of(Order.from_json(order.to_json())).do(step, n), twice))
        yield from (None for _ in numbers)

    work = work_of(order)
    with work.scratch.locked(work.stage.path):
        write.write_labels(work, do, None)
    assert content(folder) == expected["labels"]


# --- who is lost ---------------------------------------------------------------------------------


def worker_processes(driver: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(driver).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.parametrize("done", [2, 13, 22])
def test_a_worker_killed_costs_its_slabs_only(run, tmp_path, expected, done):
    """In the midst of labelling, of cutting, of painting."""
    seen: dict[str, int] = {}
    redone: list[str] = []

    def watch(now: int, total: int) -> None:
        assert total == 31
        steps = finished(run)
        redone.extend(name for name in seen.keys() & steps.keys() if seen[name] != steps[name])
        seen.update(steps)
        if now == done:
            worker_processes(os.getpid())[0].kill()

    stitch_into(tmp_path / "out", run, SPLIT, dask="local:2", progress=watch)
    assert content(tmp_path / "out") == expected["labels"]
    assert not redone
    assert len(seen) == 32


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from medhpc.stitch import write
    from test_stitch_dask import SPLIT, stitch_into
    write.THICKEST = 8
    stitch_into(Path(sys.argv[2]), Path(sys.argv[1]), SPLIT, dask="local:2")
"""


def test_a_stitch_killed_leaves_no_worker_and_goes_on(run, tmp_path, expected):
    script, folder = tmp_path / "driver.py", tmp_path / "out"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent)))
    for least in (3, 16):
        driver = subprocess.Popen([sys.executable, script, run, folder])
        wait_until(lambda least=least, driver=driver: len(finished(run)) >= least or driver.poll() is not None)
        workers = worker_processes(driver.pid)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        assert workers
        psutil.wait_procs(workers, timeout=10)
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    before = finished(run)
    assert len(before) >= 16

    def watch(now: int, total: int) -> None:
        assert before.items() <= finished(run).items() or now == total

    stitch_into(folder, run, SPLIT, dask="local:2", progress=watch)
    assert content(folder) == expected["labels"]
    assert sorted(os.listdir(tmp_path)) == ["driver.py", "out", "run"]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
@pytest.mark.parametrize("options", [{}, {"kind": "labels"}], ids=["mask", "labels"])
def test_a_worker_that_outlives_its_stitch_changes_nothing(run, tmp_path, suffix, options):
    """Cut off while another request makes the same result, it finds its place gone, and makes none anew."""
    out, last = tmp_path / f"out{suffix}", "paint" if options else "reduce"

    def interrupt(now: int, total: int) -> None:
        if now == total - 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        stitch(run, out, threshold=0.9, progress=interrupt, **options)
    zombie = work_of(order_of(run, out, threshold=0.9, **options))
    zombie.stage.array  # noqa: B018  what it has open
    if options:
        zombie.labels.paint(zombie.slabs[0])
    for path in zombie.scratch.folder.glob("written-*"):
        path.unlink()
    stitch(run, out, **options)
    before = content(tmp_path)
    with pytest.raises(FileNotFoundError):
        zombie.do(last, 0)
    assert content(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == [out.name, "run"]


def test_a_worker_says_what_a_user_can_mend(run, tmp_path, monkeypatch):
    tile = Run(run).plan.grid[1]
    monkeypatch.setattr(Run, "require_all", lambda self: os.truncate(self.shards.paths(tile.write)[0], 9))
    with pytest.raises(MissingTiles, match=rf"^1 of 5 tiles .*: 1; .*medhpc infer {run}$") as caught:
        stitch(run, tmp_path / "out.tif", dask="local:2")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.tif").exists()


# --- no cluster ----------------------------------------------------------------------------------


def fails_with(*arguments: str | Path) -> tuple[str, float]:
    """The last line on stderr of a command that ends with 2, and the seconds that it took."""
    began = time.monotonic()
    code = "from medhpc.cli import main; from medhpc.stitch import where; where.CONNECT = 1; main()"  # not 10 s
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("medhpc: error")] == lines[-1:]
    assert "Traceback" not in done.stderr
    return lines[-1], time.monotonic() - began


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://nowhere.invalid:8786", "silent", "other"])
def test_a_wrong_address_is_one_line_within_seconds(run, tmp_path, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "other":
            threading.Thread(target=lambda: server.accept()[0].send(b"SSH-2.0-OpenSSH_9.2\r\n")).start()
        if "://" not in address:
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        message, seconds = fails_with("stitch", run, tmp_path / "out.tif", "--dask", address)
    assert f"no Dask scheduler answers at {address}" in message
    assert seconds < 15
    assert not unfinished(run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "local",
        "local:",
        "local:0",
        "local:-1",
        "local:x",
        "slum:2",
        "host:8786",
        "tcp://x",
        "tcp://x:y",
        "http://x:1",
    ],
)
def test_what_is_no_cluster_is_told_with_what_is(text):
    with pytest.raises(BadOption, match="expected local:N, srun:N, slurm:N or tcp://HOST:PORT"):
        parse_where(text)


@pytest.mark.parametrize("package", ["distributed", "cryptography"])
def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, package):
    found = where.importlib.util.find_spec
    monkeypatch.setattr(where.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(BadOption, match=rf"{package}.*pip install 'medhpc\[cluster\]'$"):
        parse_where("local:2")


def test_without_dask_nothing_of_distributed_is_imported(run, tmp_path):
    code = (
        "import sys; from medhpc.stitch import stitch; stitch(*sys.argv[1:], kind='labels');"
        "assert not {'distributed', 'cryptography', 'tornado'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, run, tmp_path / "out.ome.zarr"], check=True)


def test_srun_outside_a_job_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(where.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(BadOption, match="slurm:N or local:N"):
        parse_where("srun:2")


def test_a_scheduler_without_workers_is_given_up(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 0.1)
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    pages = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=0, protocol="tcp://", dashboard_address=None, scheduler_kwargs=pages) as empty,
        pytest.raises(NoWorkers, match="no Dask worker at tcp://.*see that there are workers"),
    ):
        stitch(run, tmp_path / "out.tif", dask=empty.scheduler_address)


def test_a_unit_lost_before_it_was_looked_at_is_waited_for(monkeypatch):
    """What a worker has done counts when we have heard of it; else it is done again, by another."""
    monkeypatch.setattr(cluster, "AGAIN", 0.01)
    looks: list[None] = []
    states = iter(["lost", "lost", "finished"])

    class Future:
        @property
        def status(self) -> str:
            return next(states)

    finished: queue.SimpleQueue = queue.SimpleQueue()
    future = Future()
    finished.put(future)
    assert cluster._next(finished, lambda: looks.append(None)) is future
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KilledWorker("slab", "tcp://a:1", 3), "more memory"),
        (ModuleNotFoundError("No module named 'medhpc'"), "cannot load medhpc"),
        (None, "is gone"),
    ],
)
def test_what_workers_end_by_is_one_line(error, words):
    def result() -> None:
        raise error

    future = SimpleNamespace(status="error" if error else "cancelled", result=result)
    with pytest.raises(NoWorkers, match=words) as caught:
        cluster._check(future, Where(kind="local", workers=2))
    assert "\n" not in str(caught.value)


def test_a_worker_of_another_version_or_without_the_run_says_so(run, tmp_path):
    order = order_of(run, tmp_path / "out.ome.zarr").to_json()
    forget()
    kind, message = do_unit(order, "0.0", "a", "reduce", 0)
    assert kind == "NoWorkers" and medhpc.__version__ in message
    kind, message = do_unit(order, medhpc.__version__, "a", "reduce", 0)
    assert kind == "NoWorkers" and "file system" in message
    assert not unfinished(run)


# --- orders and jobs -----------------------------------------------------------------------------


def test_an_order_travels_as_text(run, tmp_path):
    order = order_of(run, tmp_path / "out.tif", **SPLIT)
    assert Order.from_json(order.to_json()) == order
    assert "\n" not in order.to_json()
    assert json.loads(order.to_json())["request"]["kind"] == "labels"
    other = order_of(run, tmp_path / "out.tif", kind="labels")
    assert other.result == order.result and other.digest != order.digest


def test_what_starts_a_worker_is_quoted():
    jobs = WorkerJobs(prologue=("module load x",), python="/opt/p/bin/python")
    key = Path("/a b/$(touch x)'\n/key")
    text = worker_script("tls://a:1", {"distributed.comm.tls.worker.key": key}, jobs)
    assert text == (
        "#!/bin/bash\n"
        "module load x\n"
        "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'\n"
        "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True\n"
        """export DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY="$(< '/a b/$(touch x)'"'"'\n/key')"\n"""
        "exec /opt/p/bin/python -m distributed.cli.dask_worker tls://a:1 "
        "--nthreads 1 --memory-limit 0 --no-dashboard --death-timeout 60\n"
    )


def test_units_take_the_cores_that_their_worker_has(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert [Where(kind="local", workers=n).threads for n in (1, 3, 16)] == [8, 2, 1]
    assert Where(kind="slurm", workers=2, jobs=WorkerJobs(cpus=4)).threads == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert Where(kind="srun", workers=2).threads == 6
    assert Where(kind="address", address="tcp://a:1").threads == 1
