"""``medhpc train msd --submit``: ranks that srun starts, on nodes of a real SLURM."""

import json
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster

from medhpc.cli.main import run_here
from medhpc.nets import load
from medhpc.volume import create_volume

TINY = ("--depth", "2", "--patch", "8,10,10", "--threads", "1", "--batch", "2")


@pytest.fixture
def command(folder: Path) -> list[str]:
    """A training."""
    image = np.random.default_rng(0).normal(0, 1, (16, 24, 24)).astype(np.float32)
    for name, values in (("image.tif", image), ("labels.tif", (image > 1).astype(np.uint8))):
        with create_volume(folder / name, values.shape, values.dtype) as writer:
            writer.write(0, values)
    files = (str(folder / "image.tif"), str(folder / "labels.tif"))
    return ["train", "msd", *files, "--out", str(folder / "net.safetensors"), *TINY, "--submit", "--json"]


def submitted(words: list[str], capsys) -> tuple[str, Path]:
    """The job's number, and its log."""
    assert run_here(words) == 0
    told = json.loads(capsys.readouterr().out)
    return told["job"], Path(told["script"]).with_name(f"net.safetensors.train-{told['job']}.log")


def test_a_signal_writes_a_checkpoint_and_one_rank_goes_on_where_two_were(cluster: Cluster, command, capsys):
    """As at the end of a job's time; the network is then that of both jobs."""
    long = [*command, "--steps", "3000"]
    job, log = submitted([*long, "--nodes", "2"], capsys)
    net = log.with_name("net.safetensors")
    checkpoint = net.with_name("net.checkpoint.safetensors")
    cluster.wait(lambda: log.exists() and "step " in log.read_text(), 90, "the training has begun")
    checkpoint.unlink(missing_ok=True)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait(checkpoint.exists, 60, "a checkpoint is written")
    cluster.run("scancel", job)  # SIGTERM: all is kept
    cluster.wait_for_jobs(60)
    assert checkpoint.exists() and not net.exists(), log.read_text()
    job, log = submitted([*long, "--nodes", "1"], capsys)
    cluster.wait_for_jobs(120)
    text = log.read_text()
    assert [end["JobState"] for end in cluster.finished() if end["JobId"] == job] == ["COMPLETED"], text
    assert "resumed at step " in text and "before it was interrupted" in text and not checkpoint.exists()
    training = load(net).card.training
    assert training["steps_taken"] == 3000 and training["batch"] == 2
    assert not (net.parent / "touched").exists()
