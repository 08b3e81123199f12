"""``stitch --dask`` on a cluster: workers as jobs, and as tasks of the job that stitches."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from stored import blobs, run_of

from medhpc.errors import NoWorkers, SubmissionRefused
from medhpc.jobs.dispatch import live_jobs
from medhpc.run import Run
from medhpc.stitch import WorkerJobs, stitch, workers, write

ODD = 'a $(touch run) "run"\nof it\'s own'  # the name of a folder
SPLIT = {"kind": "labels", "split": True}
JOBS = WorkerJobs(memory=400 * 2**20, time="00:10:00")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / ODD
    return run_of(folder, blobs((80, 48, 56), 100, 1, radius=(3, 6)), (16, 48, 56)).folder


@pytest.fixture
def expected(run, tmp_path, monkeypatch) -> dict[str, bytes]:
    monkeypatch.setattr(write, "THICKEST", 8)
    return stitched(run, tmp_path / "threads")


def stitched(run: Path, folder: Path, **options) -> dict[str, bytes]:
    folder.mkdir()
    stitch(run, folder / "out.ome.zarr", objects=folder / "objects.csv", **SPLIT, **options)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_jobs_as_workers_one_of_them_cancelled(cluster: Cluster, run: Path, expected, tmp_path):
    cancelled: list[str] = []
    comments: set[str] = set()

    def watch(now: int, total: int) -> None:
        comments.update(job.comment for job in live_jobs(run))
        running = cluster.run("squeue", "-h", "-t", "R", "-n", "medhpc-stitch-worker", "-o", "%i").split()
        if now >= 2 and len(running) == 2 and not cancelled:
            cluster.run("scancel", "--signal=KILL", running[0])
            cancelled.extend(running[:1])

    assert stitched(run, tmp_path / "jobs", dask="slurm:2", worker_jobs=JOBS, progress=watch) == expected
    assert comments == {f"medhpc run={Run(run).id} step=stitch-worker"}  # so `status` and `cancel` find them
    cluster.wait_for_jobs(60)
    assert not [path for path in (run / "stitch").iterdir() if path.is_dir()]
    assert len(list((run / "stitch").glob("workers-*.log"))) == 2
    assert sorted(os.listdir(tmp_path)) == ["jobs", "threads"]


def test_tasks_of_a_job_as_workers(cluster: Cluster, run: Path, expected, tmp_path):
    out = tmp_path / "tasks"
    out.mkdir()
    arguments = f"{str(run)!r}, {str(out / 'out.ome.zarr')!r}, objects={str(out / 'objects.csv')!r}"
    code = (
        "from medhpc.stitch import stitch, write; write.THICKEST = 8; "
        f"stitch({arguments}, dask='srun:2', kind='labels', split=True)"
    )
    cluster.submit(
        shlex.join([sys.executable, "-c", code]),
        "--ntasks=2",
        "--nodes=2",
        "--mem=600M",
        f"--output={tmp_path / 'job.log'}",
    )
    cluster.wait_for_jobs(120)
    assert content(out) == expected, (tmp_path / "job.log").read_text()


def test_workers_that_fail_at_once_are_not_waited_for(cluster: Cluster, run: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "BETWEEN_LOOKS", 1.0)
    jobs = WorkerJobs(memory=2**28, python="false")
    with pytest.raises(NoWorkers, match=r"(?s)see .*/stitch/workers-\d+_\*\.log"):
        stitch(run, tmp_path / "out.tif", dask="slurm:2", worker_jobs=jobs)


def test_a_refused_worker_is_one_line(cluster: Cluster, run: Path, tmp_path):
    jobs = WorkerJobs(directives=("--partition=nowhere",))
    with pytest.raises(SubmissionRefused, match="sbatch says: .*partition") as caught:
        stitch(run, tmp_path / "out.tif", dask="slurm:2", worker_jobs=jobs)
    assert "\n" not in str(caught.value)


def test_the_command_takes_what_the_site_says(cluster: Cluster, run: Path, tmp_path, monkeypatch):
    (tmp_path / "site.toml").write_text('partition = "nowhere"\n')
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    command = [sys.executable, "-c", "from medhpc.cli import main; main()", "stitch", run, tmp_path / "out.tif"]
    done = subprocess.run([*command, "--dask", "slurm:2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "medhpc: error: sbatch says: " in done.stderr
