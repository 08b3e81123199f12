"""``medhpc dip --submit``: ranks that srun starts, on nodes of a real SLURM."""

import json
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster

from medhpc.cli.main import run_here
from medhpc.geometry import Box
from medhpc.volume import create_volume, open_volume

TINY = ("--preset", "small", "--scales", "1", "--channels", "4", "--iterations", "20", "--threads", "1")


@pytest.fixture
def noisy(folder: Path) -> Path:
    """A volume."""
    image = (500 + np.random.default_rng(0).normal(0, 100, (6, 18, 8))).astype(np.float32)
    with create_volume(folder / "noisy.tif", image.shape, np.float32) as writer:
        writer.write(0, image)
    return folder / "noisy.tif"


def stored(path: Path) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))


def test_two_nodes_share_a_volume(cluster: Cluster, noisy: Path, capsys):
    clean = noisy.with_name("clean.tif")
    assert run_here(["dip", str(noisy), str(clean), *TINY, "--submit", "--nodes", "2", "--json"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    cluster.wait_for_jobs(120)
    log = (noisy.parent / f"clean.tif.dip-{job}.log").read_text()
    assert [end["JobState"] for end in cluster.finished() if end["JobId"] == job] == ["COMPLETED"], log
    assert "2 ranks, cpu" in log
    assert run_here(["dip", str(noisy), str(noisy.with_name("alone.tif")), *TINY]) == 0
    assert np.abs(stored(clean) - stored(noisy.with_name("alone.tif"))).max() < 10
    assert not (noisy.parent / "touched").exists()


def test_what_is_wrong_is_told_once_in_the_log(cluster: Cluster, noisy: Path, capsys):
    words = ["dip", str(noisy), str(noisy.with_name("clean.tif")), *TINY, "--mask", str(noisy.with_name("none.tif"))]
    assert run_here([*words, "--submit", "--nodes", "2", "--json"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    cluster.wait_for_jobs(120)
    log = (noisy.parent / f"clean.tif.dip-{job}.log").read_text()
    assert len([line for line in log.splitlines() if "medhpc: error: " in line and "none.tif" in line]) == 1, log


def test_a_signal_writes_a_checkpoint_and_another_number_of_nodes_goes_on(cluster: Cluster, noisy: Path, capsys):
    clean, long = noisy.with_name("clean.tif"), [*TINY[:-4], "--iterations", "600", "--stop", "none", *TINY[-2:]]
    words = ["dip", str(noisy), str(clean), *long, "--submit", "--json"]
    assert run_here([*words, "--nodes", "2"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    log, checkpoint = (
        noisy.parent / f"clean.tif.dip-{job}.log",
        noisy.parent / ".clean.tif.dip/part0-run0.now.safetensors",
    )
    cluster.wait(lambda: log.exists() and "iteration" in log.read_text(), 90, "the descent has begun")
    cluster.run("scancel", "--signal=USR1", job)  # as SLURM does before the time is up
    cluster.wait(checkpoint.exists, 60, "a checkpoint is written")
    cluster.run("scancel", job)
    cluster.wait_for_jobs(60)
    assert run_here([*words, "--nodes", "1"]) == 0
    cluster.wait_for_jobs(120)
    assert clean.exists() and not checkpoint.exists()
    [run] = json.loads((noisy.parent / "clean.dip.json").read_text())["runs"]
    assert 0 < run["resumed_at"] < run["iterations"] == 600
