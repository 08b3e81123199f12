"""Every benchmark runs, at a tiny size, and writes its result with its provenance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GPU_WAYS = "triton,torch,PyTorch bf16"
GPU_PRINTS = "PyTorch bf16 / triton: "
needs_slurm = pytest.mark.skipif(
    not all(
        shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in ("munged", "slurmctld", "slurmd")
    ),
    reason="SLURM is not installed; see .ci/install_slurm.sh",
)


def run(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "prints"),
    [
        ("pipeline", ["--size", "32,64,64"], "tile + infer + stitch / "),
        ("memory", ["--size", "16,32,32", "--lengths", "1"], "largest ratio: "),
        ("startup", ["--size", "32,64,64"], "medhpc status / "),
        ("sliding_window", ["--size", "24,32,32"], "MONAI gaussian"),
        ("seams", ["--size", "24,32,32"], "max error, "),
        ("engine", ["--size", "16,16,16", "--nets", "3D depth 30"], "two threads / one: "),
        ("training", ["--size", "12,16,16", "--nets", "3D depth 30, 64^3"], "PyTorch / kernel: "),
        ("schemes", ["--depths", "4", "--size", "20,24,24", "--edges", "256"], "sweep, exact"),
        ("dip_step", ["--sizes", "16,16,16", "--channels", "4"], "bf16, 2 levels twice"),
        (
            "dip_ranks",
            ["--size", "32,8,8", "--channels", "4", "--iterations", "2", "--ranks", "1", "2", "--host-size", "8,24,24"],
            "of the others",
        ),
        ("seed_volume", ["--size", "12,16,24", "--depth", "4", "--halos", "2,exact"], "published / this: "),
        (
            "gpu",
            ["--device", "cpu", "--depth", "1", "--size", "2,3,3", "--block", "2,2,3", "--ways", GPU_WAYS],
            GPU_PRINTS,
        ),
        ("scale", ["--size", "32,64,64", "--decades", "2", "--watch", "1"], "by all jobs: 0"),
        pytest.param(
            "slurm_overhead",
            ["--size", "16,32,32", "--tiles-per-task", "2"],
            "medhpc submit / bare array",
            marks=needs_slurm,
        ),
        pytest.param(
            "soak",
            ["--size", "16,48,112", "--minutes", "0.3"],
            "runs whose result is that of medhpc run: 1 of 1",
            marks=needs_slurm,
        ),
    ],
)
def test_a_benchmark_prints_a_ratio_and_keeps_its_result(name, options, prints, tmp_path):
    if name == "gpu":
        pytest.importorskip("triton")
    if name in ("sliding_window", "seams"):
        pytest.importorskip("monai")
    assert prints in run(name, *options, "--rounds", "1", "--results", str(tmp_path), "--scratch", str(tmp_path))
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["benchmark"] == name
    assert {"cpu", "cores", "memory_gib", "date", "commit", "versions"} <= result["provenance"].keys()


@pytest.mark.slow
@pytest.mark.shared
def test_denoising_is_measured_against_filters(shared_data, tmp_path):
    pytest.importorskip("pywt")
    options = ("--seeds", "1", "--iterations", "3", "--size", "16", "--only", "brain 0.1", "--results", str(tmp_path))
    assert "r2r - best filter: " in run("dip_quality", str(shared_data), *options)
    (rows,) = json.loads((tmp_path / "dip_quality.json").read_text())["cases"].values()
    assert {"noisy", "filter wavelets", "r2r", "r2r, sigma x 0.8", "dip"} <= rows.keys()


@pytest.mark.slow
@pytest.mark.shared
def test_depths_are_trained_for_equal_minutes(shared_data, tmp_path):
    """A row a depth; those of an earlier run stay."""
    tiny = ("--minutes", "0.01", "--patch", "12,16,16", "--sets", "ovule", "--results", str(tmp_path))
    for depth in ("1", "2"):
        assert f"| ovule | {depth} | " in run("training_depth", str(shared_data), *tiny, "--depths", depth)
    result = json.loads((tmp_path / "training_depth.json").read_text())
    assert [row["depth"] for row in result["rows"]] == [1, 2]
    for row in result["rows"]:
        assert row["steps"] > 0 and 0 <= row["Dice"] <= 1 and 0 <= row["AP"] <= 1


@pytest.mark.slow
def test_the_picture_of_a_seam_is_drawn(tmp_path):
    run("seam_picture", "--size", "24,80,80", "--out", str(tmp_path / "seam.png"))
    assert (tmp_path / "seam.png").stat().st_size > 10_000
