"""The commands of a run, from plan to clean-up, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medhpc.cli import main
from medhpc.cli.plan import print_plan
from medhpc.nets.msd import MSD

SHAPE = (40, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a volume and a network."""
    folder = tmp_path_factory.mktemp("cli")
    voxels = np.random.default_rng(0).integers(0, 999, SHAPE, np.uint16)
    tifffile.imwrite(folder / "volume.tif", voxels, imagej=True, metadata={"axes": "ZYX"})
    MSD(1, 2, depth=3).save(folder / "network.safetensors")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def medhpc(folder, monkeypatch, capsys):
    """Type a command in that folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def type_in(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code, *capsys.readouterr()

    return type_in


TILE = ("--network", "network.safetensors", "--tile", "32", "--threads", "1")


def test_on_a_login_node_jobs_are_offered_too(medhpc, monkeypatch):
    monkeypatch.setattr("medhpc.cli.runs.on_login_node", lambda: True)
    out = medhpc("tile", "volume.tif", "b run", *TILE)[1]
    assert out.endswith(
        "next         medhpc submit 'b run' --out OUT\n             or on this machine: medhpc infer 'b run'\n"
    )


@pytest.mark.parametrize("halo", ["auto", "0", "exact"])
def test_one_tile_has_no_halo_whatever_is_asked(medhpc, halo):
    settings = ("--network", "network.safetensors", "--threads", "1", "--tile", "40,64,64")
    out = medhpc("tile", "volume.tif", f"one{halo}.run", *settings, "--halo", halo)[1]
    assert "halo         none: one tile holds the whole volume: there is no seam\n" in out


def test_a_run_from_plan_to_clean_up(medhpc, monkeypatch):
    monkeypatch.setattr("medhpc.cli.runs.on_login_node", lambda: False)
    code, out, err = medhpc("tile", "volume.tif", "a.run", *TILE)
    assert (code, err) == (0, "")
    assert "labels flipped" in out and out.endswith("next         medhpc infer a.run\n")

    assert "8 of 8 tiles computed" in medhpc("infer", "a.run", "--threads", "1")[1]
    assert "0 of 8 tiles computed" in medhpc("infer", "a.run", "--threads", "1")[1]
    code, out, _ = medhpc("status", "a.run", "--verify")
    assert code == 0 and "8 (100 %)" in out and "medhpc stitch a.run OUT" in out

    code, out, err = medhpc("stitch", "a.run", "cells.ome.zarr", "--as", "labels", "--objects", "cells.csv")
    assert (code, err) == (0, "")
    assert (Path("cells.ome.zarr") / "zarr.json").exists() and Path("cells.csv").exists()
    code, out, err = medhpc("clean", "a.run")
    assert code == 0 and out.endswith("freed in a.run\n")
    code, out, _ = medhpc("status", "a.run")
    assert code == 0 and "state  cleaned; its result is cells.ome.zarr\n" in out and "100 %" not in out


def test_where_nothing_is_found_a_hint_says_what_to_try(medhpc):
    medhpc("tile", "volume.tif", "n.run", *TILE, "--halo", "exact")
    medhpc("infer", "n.run", "--threads", "1")
    code, out, err = medhpc("stitch", "n.run", "empty.tif", "--as", "labels", "--threshold", "1")
    assert (code, err) == (0, "")
    assert "below the threshold 1; try a lower --threshold" in out
    assert json.loads(medhpc("stitch", "n.run", "empty.tif", "--threshold", "1", "--json")[1])["found"] is False


@pytest.mark.parametrize("out", ["copy.h5", "copy.h5:/a", "copy.ome.zarr", "copy.nii.gz"])
def test_convert_says_what_it_wrote(medhpc, out):
    code, told, err = medhpc("convert", "volume.tif", out, "--voxel-size", "5,2,2")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in told.replace("voxel size", "voxels").splitlines())
    assert lines["written"].startswith(f"{out}, ") and lines["written"].endswith("kB on disk")
    assert lines["shape"].startswith("40 x 64 x 64 voxels") and lines["dtype"] == "uint16"
    assert lines["voxels"] == "5 x 2 x 2 um"


def test_json_of_every_step(medhpc):
    steps = (
        ("tile", "volume.tif", "b.run", *TILE, "--halo", "exact"),
        ("infer", "b.run", "--task", "1/2"),
        ("status", "b.run"),
        ("infer", "b.run", "--tiles", "4:"),
        ("stitch", "b.run", "mask.tif"),
    )
    found = [json.loads(medhpc(*step, "--json")[1]) for step in steps]
    plan, half, status, rest, _ = found
    assert (plan["tiles"], plan["halo_how"], plan["halo"]) == (8, "exact", [6, 6, 6])
    assert (half["computed"], status["done"], status["complete"], rest["computed"]) == (4, 4, False, 4)


def test_everything_at_once(medhpc):
    code, out, err = medhpc("run", "volume.tif", "at_once.tif", *TILE, "--as", "probability")
    assert (code, err) == (0, "")
    assert out.index("halo") < out.index("8 of 8 tiles computed") < out.index("at_once.tif")
    assert tifffile.imread("at_once.tif").shape == SHAPE
    assert not Path("at_once.tif.run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tile", "none.tif", "c.run", *TILE), "none.tif"),
        (("tile", "volume.tif", "c.run", "--network", "none.safetensors"), "none.safetensors"),
        (("tile", "volume.tif", "c.run", *TILE, "--region", "0:50,:,:"), "leaves the volume"),
        (
            ("tile", "volume.tif", "c.run", "--network", "network.safetensors", "--tile", "128"),
            "larger than the volume",
        ),
        (("infer", "none.run"), "none.run"),
        (("status", "empty"), "medhpc tile"),
        (("convert", "volume.tif", "out.docx"), ".docx"),
    ],
)
def test_bad_input_is_one_line(medhpc, words, message):
    code, out, err = medhpc(*words)
    assert (code, out) == (2, "")
    assert err.startswith("medhpc: error: ") and message in err and err.count("\n") == 1


PLAN = {
    "volume": "/data/brain.tif",
    "shape": (1024, 1280, 2304),
    "region": "0:1024,0:1280,0:330",
    "copied": True,
    "network": "/data/cells.safetensors",
    "classes": ("background", "cell"),
    "normalization": {"source": "volume", "mean": (312.41,), "std": (55.123,)},
    "store": "probability (uint8)",
    "blend": {"mode": "none"},
    "tile": (256, 256, 384),
    "shard": (128, 128, 128),
    "tiles": 20,
    "halo": (16, 16, 16),
    "halo_how": "measured",
    "max_error": 0.000812,
    "tolerance": 1 / 510,
    "halo_samples": 6,
    "halo_context": 64,
    "halo_table": [
        {"halo": 8, "max_error": 0.0123, "mean_error": 0.0004, "flipped": 0.0011, "work": 1.19},
        {"halo": 16, "max_error": 0.000812, "mean_error": 0.00003, "flipped": 0.0, "work": 1.4},
    ],
    "note": "",
    "advice": ["trained on voxels of 3 x 3 x 3 um; these are 1 x 1 x 1 um: expect worse results"],
    "read_amplification": 1.404,
    "unsplit_amplification": 1.404,
    "needed": 0.87,
    "seconds": 12000.0,
    "seconds_per_tile": 600.0,
    "engine": "native",
    "device": "cpu",
    "threads": 2,
    "memory_bytes": 5 * 2**30,
    "memory_limit_bytes": 8 * 2**30,
    "scheme": "boxes",
    "schemes": [],
    "columns": 0,
    "ranks": 1,
    "compare": False,
    "splits": False,
    "output_bytes": 432537600,
    "output_files": 240,
    "free_bytes": 400e6,
    "free_inodes": 100,
}


def test_a_plan_says_what_too_little_memory_costs(capsys):
    poor = {"splits": True, "read_amplification": 61.3, "needed": 1.0, "seconds": 2.2e-05, "seconds_per_tile": 2.2e-05}
    print_plan(PLAN | poor)
    out, _ = capsys.readouterr()
    assert "work         61.3 voxels computed for each voxel written\n" in out
    assert "computed in parts, each with its own halo (1.4 voxels with enough --memory)" in out
    machine = "this machine (cpu, threads: 2, engine native)"
    assert f"time         under 1 s in one task on {machine}; under 1 s a tile" in out


def test_columns_on_paper(capsys):
    row = {"name": "columns", "halo": (455, 16, 16), "exact": False, "column": (1024, 640, 768), "work": 1.1}
    columns = {"scheme": "columns", "columns": 6, "ranks": 4, "halo": (455, 16, 16), "compare": True}
    print_plan(PLAN | columns | {"schemes": [row | {"bytes": 3 * 2**30, "fits": True}]})
    out = capsys.readouterr().out
    assert "halo         16 x 16 voxels in y and x, an estimate from 6 samples" in out
    assert "none along z, where planes stream" in out and "6 columns, through which planes stream" in out
    assert "on each of 4 ranks" in out and "what the network sees around the region is computed, too" in out


def test_the_schemes_on_paper(capsys):
    boxes = {"name": "boxes", "halo": (16, 16, 16), "exact": False, "column": (256, 256, 384), "work": 1.4}
    sweep = {"name": "sweep", "halo": (455, 455, 455), "exact": True, "column": (1024, 1280, 2304), "work": 1.0}
    costs = {"bytes": 3 * 2**30, "fits": True}, {"bytes": 300 * 2**30, "fits": False}
    rows = [row | cost for row, cost in zip((boxes, sweep), costs, strict=True)]
    print_plan(PLAN | {"compare": True, "schemes": rows})
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("scheme"))
    assert [" ".join(line.split()) for line in (lines[first], *lines[first + 2 : first + 4])] == [
        "scheme boxes: every tile with a halo on all sides",
        "boxes 16 x 16 x 16 no 256 x 256 x 384 1.40 x 3 GiB <- chosen",
        "sweep 455 x 455 x 455 yes 1024 x 1280 x 2304 1.00 x 300 GiB: too much",
    ]


def test_the_plan_on_paper(capsys):
    print_plan(PLAN)
    out, err = capsys.readouterr()
    assert out == (Path(__file__).parent / "golden" / "plan.txt").read_text()
    assert err.splitlines() == [
        "medhpc: warning: the output may not fit on this file system",
        "medhpc: warning: this file system has too few inodes left",
    ]
