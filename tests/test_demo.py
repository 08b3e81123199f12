"""The demo, small: everything it promises is there, and halos pay."""

import json

import pytest

from medhpc.demo import run_demo
from medhpc.points import read_points
from medhpc.volume import open_volume


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path):
    said: list[str] = []
    planned: list[str] = []
    result = run_demo(
        tmp_path / "demo",
        minutes=0.02,
        shape=(40, 96, 96),
        cells=40,
        say=said.append,
        planned=lambda plan, run: planned.append(run.name),
    )
    figures = json.loads((tmp_path / "demo" / "figures.json").read_text())
    assert figures == result.figures
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    commands = [line.split()[2] for line in said if line.startswith("$ medhpc")]
    assert commands[-12:] == ["tile", "infer", "stitch", "evaluate"] * 3 and "train" in commands
    assert any(line.startswith("step ") for line in said)
    assert planned == ["tiled.run", "whole.run", "without_halo.run"]
    assert figures["without_halo"]["title"] == "tiled without a halo" and "(auto)" in figures["tiled"]["title"]
    assert 0 < figures["without_halo"]["labels_flipped"] < figures["without_halo"]["voxels"] == 40 * 96 * 96
    assert figures["tiled"]["max_error"] <= 1 / 255 + 1e-9 < figures["without_halo"]["max_error"]
    assert figures["tiled"]["cells"] == len(read_points(tmp_path / "demo" / "tiled.csv").positions)
    with open_volume(tmp_path / "demo" / "tiled.ome.zarr") as labels:
        assert labels.shape == (40, 96, 96)
