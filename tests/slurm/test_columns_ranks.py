"""``medhpc infer --submit``: columns by ranks that srun starts, on nodes of a real SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster
from samples import cells, msd, stored, write_tiff

from medhpc.cli.main import run_here
from medhpc.infer import infer
from medhpc.run import Run
from medhpc.tiling import tile


def test_two_nodes_store_what_one_process_stores(
    cluster: Cluster, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiff(folder / "a.tif", cells((40, 24, 24)))
    msd(depth=3).save(folder / "net.safetensors")
    options = {"device": "cpu", "threads": 1, "engine": "torch", "scheme": "sweep", "ranks": 2, "tile": (8, 24, 24)}
    for name in ("alone", "shared"):
        tile(folder / "a.tif", folder / name, network=folder / "net.safetensors", **options)
    infer(folder / "alone", device="cpu", threads=1)
    assert run_here(["infer", str(folder / "shared"), "--submit", "--json", "--threads", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    cluster.wait_for_jobs(120)
    log = Path(told["script"]).with_name(f"infer.sweep-{told['job']}.log").read_text()
    assert [end["JobState"] for end in cluster.finished() if end["JobId"] == told["job"]] == ["COMPLETED"], log
    assert log.count("5 of 5 tiles computed") == 1  # one rank tells
    Run(folder / "shared").require_all()
    difference = stored(folder / "shared").astype(int) - stored(folder / "alone").astype(int)
    assert np.abs(difference).max() <= 1
    assert not (folder / "touched").exists()
