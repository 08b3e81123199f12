"""A command as one job of several ranks: its text is golden, and the job's command means what was typed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import cells, msd, write_tiff

from medhpc.cli.main import run_here
from medhpc.errors import BadOption
from medhpc.jobs.packing import Resources
from medhpc.jobs.ranked import RankedJob, text_of
from medhpc.jobs.site import Site
from medhpc.tiling import tile
from medhpc.volume import create_volume

GOLDEN = Path(__file__).parent / "golden"
SITE = Site(partition="long", modules=("python/3.11",), scratch="/local", steps={"train": {"partition": "wide"}})
OPTIONS = ("--radius", "6.0", "--minutes", "60.0")
VALUES = {
    "dip": {"OPTIONS": ("--preset", "small"), "VOLUME": "/data/head.nii.gz", "CLEAN": "/results/clean.nii.gz"},
    "sweep": {"OPTIONS": ("--threads", "16"), "RUN": "/results/my brain.run"},
    "train": {"OPTIONS": OPTIONS, "FILES": ("/data/my brain.tif", "/data/cells.csv"), "NET": "/results/a.safetensors"},
}
# Prints its arguments as JSON: stands for srun, and what follows its two options for medhpc.
ECHO = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]


def job_of(kind, values=None, gpus=0):
    values = values or VALUES[kind]
    out = "/results/a.safetensors" if kind == "train" else "/results/clean.nii.gz"
    resources = Resources(cpus=16, memory=3 * 2**30, seconds=4500, gpus=gpus)
    return RankedJob(kind=kind, out=out, values=values, nodes=2, ranks_per_node=4, resources=resources)


@pytest.mark.parametrize("kind", list(VALUES))
def test_golden(kind, request):
    golden, text = GOLDEN / f"{kind}.sbatch", text_of(job_of(kind, gpus=int(kind == "dip")), SITE, ["medhpc"])
    if request.config.getoption("--golden"):
        golden.write_text(text)
    assert text == golden.read_text()


WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.lists(WORD, max_size=3), st.lists(WORD, min_size=2, max_size=4), WORD)
def test_bash_reads_the_words_that_were_meant(tmp_path_factory, options, files, out):
    folder = tmp_path_factory.mktemp("job")
    srun = folder / "srun"
    srun.write_text('#!/bin/bash\nexec "${@:3}"\n')
    srun.chmod(0o755)
    script = folder / "job.sbatch"
    script.write_text(text_of(job_of("train", {"OPTIONS": options, "FILES": files, "NET": out}), Site(), ECHO))
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", script], env=path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["train", "msd", "--out", out, *options, "--", *files]


def test_gpus_of_a_site_that_are_not_those_asked_for_are_refused():
    with pytest.raises(BadOption, match=r"4 GPUs of a node are asked for: give a table \[train\]"):
        text_of(job_of("train", gpus=1), Site(gres="gpu:2"))


# --- train msd --submit ---------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A volume and its labels, in the folder that we are in; no site."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    (tmp_path / "site.toml").write_text("[train]\ncpus = 12\n")
    image = np.random.default_rng(0).normal(0, 1, (24, 40, 40)).astype(np.float32)
    for name, values in (("a.tif", image), ("b.tif", (image > 1).astype(np.uint8))):
        with create_volume(name, values.shape, values.dtype) as writer:
            writer.write(0, values)
    return ["train", "msd", "a.tif", "b.tif", "--out", "net.safetensors"]


def dry(words, capsys):
    assert run_here([*words, "--submit", "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["text"]


def test_the_job_repeats_what_was_typed_from_another_folder(pair, tmp_path, capsys):
    options = ["--patch", "12,16,16", "--voxel-size", "2,1,1", "--no-resume", "--batch", "6", "--patience", "4"]
    text = dry([*pair, *options, "--steps", "9", "--nodes", "3", "--tasks-per-node", "2"], capsys)
    lines = dict(line.split("=", 1) for line in text.splitlines() if line.startswith(("OPTIONS=", "FILES=", "NET=")))
    assert shlex.split(lines["FILES"].strip("()")) == [str(tmp_path / name) for name in ("a.tif", "b.tif")]
    assert lines["NET"] == str(tmp_path / "net.safetensors")
    repeated = shlex.split(lines["OPTIONS"].strip("()"))
    assert sorted(repeated) == sorted([*options[:3], "2.0,1.0,1.0", *options[4:], "--steps", "9"])
    assert "#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=12\n" in text
    assert "#SBATCH --signal=USR1@120\n" in text and not list(tmp_path.glob("net*"))


@pytest.mark.parametrize(
    "options, time",
    [
        ([], "00:25:00"),
        (["--minutes", "60"], "01:15:00"),
        (["--steps", "60"], "04:00:00"),
        (["--minutes", "600", "--time", "2h"], "02:00:00"),
    ],
)
def test_the_job_lasts_as_long_as_the_training(pair, options, time, capsys):
    assert f"#SBATCH --time={time}\n" in dry([*pair, *options], capsys)


def test_deeper_networks_and_larger_patches_need_more_memory(pair, capsys):
    def memory(*options):
        text = dry([*pair, *options], capsys)
        return int(text.partition("--mem=")[2].partition("M\n")[0])

    small, deep = memory("--depth", "4", "--validation", "0"), memory("--depth", "85", "--validation", "0")
    assert 2048 <= small < deep < memory("--depth", "85", "--validation", "0", "--width", "3")
    assert memory("--gpus", "1", "--depth", "85") <= small


@pytest.mark.parametrize(
    "options, word",
    [
        (["--nodes", "2"], "--nodes is for jobs: add --submit"),
        (["--tasks-per-node", "2"], "--tasks-per-node is for jobs: add --submit"),
        (["--submit", "--plan"], "--plan measures on this machine"),
        (["--submit", "--nodes", "4", "--batch", "3"], "batch 3 for 4 ranks"),
        (["--submit", "--gpus", "2", "--tasks-per-node", "2"], "give one of them"),
        (["--submit", "--patience", "3", "--validation", "0"], "patience needs a part that is held out"),
    ],
)
def test_what_makes_no_job_is_refused_before_it_is_submitted(pair, options, word, tmp_path, capsys):
    assert run_here([*pair, *options]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not list(tmp_path.glob("net*"))


@pytest.fixture
def columns(tmp_path, monkeypatch):
    """A run whose columns are for three ranks."""
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    (tmp_path / "site.toml").write_text('[infer]\npartition = "wide"\n')
    msd(depth=2).save(tmp_path / "net.safetensors")
    write_tiff(tmp_path / "a.tif", cells((20, 24, 24)))
    options = {"device": "cpu", "threads": 2, "engine": "torch", "exact": True, "scheme": "sweep", "ranks": 3}
    tile(tmp_path / "a.tif", tmp_path / "a.run", network=tmp_path / "net.safetensors", **options)
    return ["infer", str(tmp_path / "a.run")]


def test_the_ranks_of_a_plan_become_a_job(columns, tmp_path, capsys):
    text = dry([*columns, "--threads", "4"], capsys)
    assert f"RUN={tmp_path / 'a.run'}\n" in text and "OPTIONS=(--threads 4)\n" in text
    assert "#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=1\n#SBATCH --cpus-per-task=4\n" in text
    assert "#SBATCH --partition=wide\n" in text
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in dry([*columns, "--tasks-per-node", "2"], capsys)


@pytest.mark.parametrize(
    "options, word",
    [
        (["--nodes", "2"], "--nodes is for jobs: add --submit"),
        (["--submit", "--nodes", "2"], "planned for 3 ranks, 2 are asked for"),
        (["--submit", "--task", "1/2"], "--submit computes all that is missing"),
    ],
)
def test_what_the_ranks_of_a_plan_are_not_is_refused(columns, options, word, capsys):
    assert run_here([*columns, *options]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
