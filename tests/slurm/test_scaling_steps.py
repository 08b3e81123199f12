"""``medhpc bench scaling --on slurm``: steps of an allocation on nodes of a real SLURM."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from samples import cells, msd, write_tiff


@pytest.mark.parametrize("by", ["ranks", "tasks"])
def test_two_nodes_against_one(cluster: Cluster, tmp_path: Path, by: str) -> None:
    folder = tmp_path / "it's a $(touch touched) folder"
    folder.mkdir()
    volume = write_tiff(folder / "volume.tif", cells((40, 23, 16)))
    msd(depth=4).save(folder / "net.safetensors")
    words = [sys.executable, "-m", "medhpc", "bench", "scaling", str(volume), "--out", str(folder / "out")]
    words += ["--network", str(folder / "net.safetensors"), "--by", by, "--counts", "1,2", "--threads", "1"]
    words += ["--on", "slurm", "--engine", "torch", "--scheme", "sweep", "--tile", "20,23,16"]
    job = cluster.submit(shlex.join(words), "--nodes=2", "--ntasks-per-node=1", "--mem=2500")
    cluster.wait_for_jobs(300)
    logs = "\n".join(
        log.read_text() for log in [*folder.glob("out/log/*/*.log"), *cluster.folder.glob("log/job-*.log")]
    )
    assert [end["JobState"] for end in cluster.finished() if end["JobId"] == job] == ["COMPLETED"], logs
    found = json.loads((folder / "out" / "scaling.json").read_text())
    assert [(one["count"], len(one["spent"])) for one in found["measured"]] == [(1, 1), (2, 2)]
    assert all(one["difference"] <= 1 for one in found["measured"])
    assert (found["link"] is None) == (by == "tasks")
