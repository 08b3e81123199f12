"""Training from end to end, on volumes small enough for seconds."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medhpc import nets
from medhpc.cli.main import run_here
from medhpc.errors import BadNetwork, BadOption, BadTruth, NonFinite, NoPermission
from medhpc.train import checkpoint, planning
from medhpc.train import msd as msd_module
from medhpc.train.checkpoint import checkpoint_path
from medhpc.train.judge import Judgement
from medhpc.train.msd import train_msd

h5py = pytest.importorskip("h5py")
torch.set_num_threads(1)

SHAPE = (24, 44, 40)
QUICK = {"depth": 4, "patch": (12, 16, 16), "threads": 1, "device": "cpu"}


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
            file[name].attrs["element_size_um"] = (2.0, 1.0, 1.0)
    return path


@pytest.fixture
def cells(tmp_path):
    """Bright balls of radius 4 um, in noise: image, labels, single-voxel marks, and centres."""
    rng = np.random.default_rng(3)
    centres = np.stack([rng.uniform(2, n - 2, 24) for n in SHAPE], 1).round()
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    distance = np.sqrt((((grid[..., None, :] - centres) * (2, 1, 1)) ** 2).sum(-1))
    labels = np.where(distance.min(-1) <= 4, distance.argmin(-1) + 1, 0).astype(np.uint16)
    image = (1000 + 900 * (labels > 0) + rng.normal(0, 150, SHAPE)).astype(np.uint16)
    marks = np.zeros(SHAPE, np.uint8)
    marks[tuple(centres.astype(int).T)] = 1
    path = write(tmp_path / "cells.h5", raw=image, labels=labels, marks=marks)
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("z", "y", "x"), *centres.tolist()])
    return path


def test_trained_network_finds_the_cells(tmp_path, cells):
    out = tmp_path / "net.safetensors"
    done, stood = [], []
    result = train_msd(
        [(f"{cells}:/raw", f"{cells}:/labels")],
        out,
        steps=120,
        progress=lambda *now: done.append(now),
        report=stood.append,
        **QUICK,
    )
    assert result.dice > 0.85 and result.loss < 0.35
    assert done[-1] == (120, 120) and stood[-1].step == 120 and "Dice" in str(stood[-1])
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["cells.h5", "cells.csv", "net.safetensors", "net.curve.png", "net.slices.png"]
    )
    network = nets.load(out)
    assert (network.depth, network.out_channels) == (4, 2) == (result.depth, 2)
    card = network.card
    assert card.classes == ["background", "object"] and card.voxel_size == [2.0, 1.0, 1.0]
    with h5py.File(cells) as file:
        image, labels = file["raw"][:].astype(np.float32), file["labels"][:] > 0
    assert card.normalization["mean"][0] == pytest.approx(image.mean(), rel=1e-4)
    assert card.training["steps_taken"] == 120 and card.training["volumes"][0]["path"] == f"{cells}:/raw"
    x = torch.from_numpy((image - image.mean()) / image.std())[None, None]
    with torch.no_grad():
        found = network(x)[0].argmax(0).numpy().astype(bool)
    assert 2 * (found & labels).sum() / (found.sum() + labels.sum()) > 0.85
    json_able = result.as_dict()
    assert json_able["network"] == str(out) and json_able["dice"] == result.dice


@pytest.mark.parametrize(
    "truth, options",
    [
        ("cells.csv", {"radius": 4.0}),
        ("cells.csv", {"radius": 4.0, "background": "near"}),
        ("cells.h5:/marks", {"radius": 4.0, "truth": "points"}),
    ],
)
def test_points_teach_as_labels_do(tmp_path, cells, truth, options):
    pairs = [(f"{cells}:/raw", tmp_path / truth if truth.endswith("csv") else f"{tmp_path}/{truth}")]
    result = train_msd(pairs, tmp_path / "net.safetensors", steps=120, **options, **QUICK)
    assert result.dice > 0.75


def test_same_seed_same_weights_other_seed_others(tmp_path, cells):
    pairs = [(f"{cells}:/raw", f"{cells}:/labels")]
    weights = []
    for seed in (1, 1, 2):
        result = train_msd(pairs, tmp_path / "net.safetensors", steps=8, seed=seed, **QUICK)
        weights.append(load_file(result.network)["weights.3"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


KILLED = """
import os, signal, sys
from medhpc.train import msd
msd.CHECKPOINT_SECONDS = 0.0
def kill(done, _):
    if done == 25:
        os.kill(os.getpid(), signal.SIGKILL)
msd.train_msd([(sys.argv[1] + ":/raw", sys.argv[1] + ":/labels")], sys.argv[2], steps=60,
              depth=4, patch=(12, 16, 16), threads=1, device="cpu", progress=kill)
"""


def test_killed_and_resumed_is_the_same_to_the_last_bit(tmp_path, cells, monkeypatch):
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    train_msd([(f"{cells}:/raw", f"{cells}:/labels")], whole, steps=60, **QUICK)
    process = subprocess.run([sys.executable, "-c", KILLED, cells, killed])
    assert process.returncode == -signal.SIGKILL
    assert checkpoint_path(killed).exists() and not killed.exists()
    result = train_msd([(f"{cells}:/raw", f"{cells}:/labels")], killed, steps=60, **QUICK)
    assert 0 < result.resumed_at < 60 and result.steps == 60
    expected, got = load_file(whole), load_file(killed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    about = [nets.load(path).card.training["best"] for path in (whole, killed)]
    assert {**about[0], "seconds": 0} == {**about[1], "seconds": 0}
    assert not checkpoint_path(killed).exists()


def interrupted(monkeypatch, pairs, out, **options):
    """A training that stops after a few steps and leaves its checkpoint."""
    monkeypatch.setattr(msd_module, "CHECKPOINT_SECONDS", 0.0)

    def stop(done, _):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_msd(pairs, out, progress=stop, **options)
    assert checkpoint_path(out).exists()


def test_a_training_killed_within_seconds_goes_on_and_says_so(tmp_path, cells):
    pairs, out, said = [(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors", []

    def stop(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_msd(pairs, out, steps=6, progress=stop, say=said.append, **QUICK)
    assert said == []
    result = train_msd(pairs, out, steps=6, say=said.append, **QUICK)
    assert 1 <= result.resumed_at <= 3
    assert len(said) == 1 and said[0].startswith(f"resumed at step {result.resumed_at} of 6 from ")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_ctrl_c_ends_behind_it(tmp_path, cells, monkeypatch, number):
    """Nothing else writes one here. SIGUSR1 lets it go on, until an error ends it two steps later."""
    monkeypatch.setattr(msd_module, "_pause", lambda _: 1e9)
    pairs, out, steps = [(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors", []

    def tell(done, _):
        steps.append(done)
        if done == 3:
            os.kill(os.getpid(), number)
        if done == 5:
            raise KeyboardInterrupt

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train_msd(pairs, out, steps=6, progress=tell, **QUICK)
    assert steps[-1] == (5 if number == signal.SIGUSR1 else 3)
    assert signal.getsignal(number) is before
    assert train_msd(pairs, out, steps=6, **QUICK).resumed_at == 3


def test_checkpoint_of_another_training_is_refused(tmp_path, cells, monkeypatch):
    pairs, out = [(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors"
    interrupted(monkeypatch, pairs, out, steps=9, **QUICK)
    with pytest.raises(BadOption, match="differs in seed, steps"):
        train_msd(pairs, out, steps=10, seed=5, **QUICK)
    assert train_msd(pairs, out, steps=10, seed=5, resume=False, **QUICK).resumed_at == 0
    interrupted(monkeypatch, pairs, out, steps=9, **QUICK)
    with h5py.File(cells, "a") as file:
        file["raw"][0, 0, 0] = 1
    with pytest.raises(BadOption, match="differs in volumes"):
        train_msd(pairs, out, steps=9, **QUICK)


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path, cells, monkeypatch):
    pairs, out = [(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors"
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint, "VERSION", 1)
        interrupted(earlier, pairs, out, steps=9, **QUICK)
    with pytest.raises(BadOption, match=r"another version of medhpc \(checkpoint 1, .* --no-resume$"):
        train_msd(pairs, out, steps=9, batch=2, **QUICK)
    assert train_msd(pairs, out, steps=9, resume=False, **QUICK).resumed_at == 0


def judged_alike(monkeypatch):
    """Judgements that never get better."""
    monkeypatch.setattr(msd_module, "judge", lambda *_: Judgement(loss=0.5, dice=0.6))


def test_patience_ends_a_training_that_stalls_and_a_kill_changes_nothing(tmp_path, cells, monkeypatch):
    """Ten of twenty judgements, then two while the rate falls to zero; also where it is killed in between."""
    judged_alike(monkeypatch)
    pairs, whole, killed = (
        [(f"{cells}:/raw", f"{cells}:/labels")],
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    )
    options, said, done = {**QUICK, "steps": 40, "patience": 4}, [], []
    result = train_msd(pairs, whole, say=said.append, progress=lambda *now: done.append(now), **options)
    assert result.steps == 24 and done[-1] == (24, 24)
    assert said == [f"ends early: {result.stalled}"] and "9 judgements up to step 20" in result.stalled
    assert nets.load(whole).card.training["stalled"] == result.stalled

    def stop(now, _):
        if now == 22:
            raise KeyboardInterrupt

    monkeypatch.setattr(msd_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_msd(pairs, killed, progress=stop, **options)
    again = train_msd(pairs, killed, **options)
    assert (again.resumed_at, again.steps, again.stalled) == (21, 24, result.stalled)
    expected, got = load_file(whole), load_file(killed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_without_patience_all_of_the_budget_is_spent(tmp_path, cells, monkeypatch):
    judged_alike(monkeypatch)
    result = train_msd([(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "n.safetensors", steps=20, **QUICK)
    assert result.steps == 20 and result.stalled == ""


def test_resuming_keeps_the_depth_that_was_chosen(tmp_path, cells, monkeypatch):
    pairs, out = [(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors"
    options = {"minutes": 0.02, "patch": (12, 16, 16), "threads": 1, "device": "cpu"}
    monkeypatch.setattr(planning, "depth_for_seconds", lambda *_: 11)
    interrupted(monkeypatch, pairs, out, **options)
    monkeypatch.setattr(planning, "depth_for_seconds", lambda *_: 13)
    assert train_msd(pairs, out, **options).depth == 11


def test_a_plan_tells_what_the_time_allows(tmp_path, cells, capsys):
    command = ["train", "msd", f"{cells}:/raw", f"{cells}:/labels", "--out", str(tmp_path / "net.safetensors")]
    command += ["--threads", "1", "--device", "cpu", "--plan"]
    assert run_here([*command, "--minutes", "1", "--json"]) == 0
    choices = json.loads(capsys.readouterr().out)["choices"]
    assert len({tuple(choice["patch"]) for choice in choices}) == len(choices) > 0
    for choice in choices:
        assert choice["suffices"] == (choice["steps"] >= 25 * choice["depth"])
        assert choice["steps"] == pytest.approx(60 / choice["seconds_per_step"], abs=1)
        assert choice["bytes"] >= 2 * 4 * (1 + choice["depth"]) * np.prod(choice["patch"])
    assert run_here([*command, "--steps", "30", "--depth", "12", "--patch", "12,16,16"]) == 0
    told = capsys.readouterr().out
    assert "12,16,16" in told and "few" in told
    assert not list(tmp_path.glob("net*"))


def test_time_is_a_budget(tmp_path, cells):
    began = time.perf_counter()
    result = train_msd(
        [(f"{cells}:/raw", f"{cells}:/labels")],
        tmp_path / "net.safetensors",
        minutes=0.03,
        patch=(12, 16, 16),
        threads=1,
    )
    assert 1.8 <= result.seconds < 4 and time.perf_counter() - began < 20
    assert result.depth >= 10


def test_planes_train_a_2d_network(tmp_path, cells):
    with h5py.File(cells) as file:
        image, labels = file["raw"][12], file["labels"][12]
    path = write(tmp_path / "plane.h5", raw=image[None], labels=labels[None])
    options = {**QUICK, "patch": None}
    result = train_msd([(f"{path}:/raw", f"{path}:/labels")], tmp_path / "net.safetensors", steps=50, **options)
    assert result.ndim == 2 and nets.load(result.network).ndim == 2
    stack = train_msd([(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "n.safetensors", steps=30, ndim=2, **options)
    assert stack.ndim == 2 and stack.dice > 0.5


def test_several_volumes_channels_and_classes(tmp_path, cells):
    with h5py.File(cells) as file:
        image, labels = file["raw"][:], file["labels"][:]
    both = np.stack([image, image.max() - image])
    paths = []
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["raw"], file["labels"] = both, (labels > 0) * (1 + labels % 2)
        paths.append((f"{tmp_path}/{name}.h5:/raw", f"{tmp_path}/{name}.h5:/labels"))
    result = train_msd(
        paths, tmp_path / "net.safetensors", steps=25, classes="even=1,odd=2", normalize="network", **QUICK
    )
    network = nets.load(result.network)
    assert (network.in_channels, network.out_channels) == (2, 3)
    assert network.card.classes == ["background", "even", "odd"]
    assert len(network.card.normalization["mean"]) == 2


def test_faint_objects_beside_a_great_step_are_learnt(tmp_path, cells):
    """As bone in a CT: the volume's deviation is that of air and body, ten times the contrast of the objects."""
    with h5py.File(cells) as file:
        image, labels = file["raw"][:].astype(np.float32), file["labels"][:]
    image[:, 22:] -= 9000
    labels[:, 22:] = 0
    path = write(tmp_path / "body.h5", raw=image, labels=labels)
    result = train_msd([(f"{path}:/raw", f"{path}:/labels")], tmp_path / "net.safetensors", steps=120, **QUICK)
    network = nets.load(result.network)
    assert network.window is not None
    x = torch.from_numpy((image - image.mean()) / image.std())[None, None]
    with torch.no_grad():
        found = network(x)[0].argmax(0).numpy() > 0
    assert 2 * (found & (labels > 0)).sum() / (found.sum() + (labels > 0).sum()) > 0.65


def test_without_validation_the_last_weights_are_kept(tmp_path, cells):
    out = tmp_path / "net.safetensors"
    result = train_msd([(f"{cells}:/raw", f"{cells}:/labels")], out, steps=12, validation=0, **QUICK)
    assert result.slices is None and result.best_step == 12 and result.as_dict()["dice"] is None
    assert nets.load(out).card.training["best"]["dice"] is None


def test_sixteen_bit_convolutions_train(tmp_path, cells):
    options = {**QUICK, "steps": 100, "precision": "bfloat16"}
    result = train_msd([(f"{cells}:/raw", f"{cells}:/labels")], tmp_path / "net.safetensors", **options)
    assert result.precision == "bfloat16" and result.dice > 0.7
    assert all(tensor.dtype == torch.float32 for tensor in load_file(result.network).values())


@pytest.mark.parametrize(
    "truth, options, error, word",
    [
        ("cells.csv", {}, BadOption, "radius"),
        ("cells.csv", {"radius": 4.0, "ignore": 1}, BadOption, "label volumes"),
        ("cells.h5:/labels", {"radius": 4.0}, BadOption, "radius"),
        ("cells.h5:/labels", {"background": "near"}, BadOption, "points"),
        ("cells.h5:/labels", {"region": "0:6,0:6,0:6"}, BadTruth, "too thin"),
        ("cells.h5:/labels", {"region": "0:99,:,:"}, BadOption, "region"),
        ("cells.h5:/labels", {"precision": "float16"}, BadOption, "GPU"),
        ("cells.h5:/labels", {"device": "cuda:77"}, Exception, "device|GPU|cuda"),
        ("other.h5:/labels", {}, BadTruth, "same shape"),
        ("far.csv", {"radius": 4.0}, BadTruth, "1 of 2 points"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, cells, truth, options, error, word):
    write(tmp_path / "other.h5", labels=np.ones((5, 44, 40), np.uint8))
    (tmp_path / "far.csv").write_text("z,y,x\n3,4,5\n3,4,500\n")
    with pytest.raises(error, match=word) as caught:
        train_msd(
            [(f"{cells}:/raw", f"{tmp_path}/{truth}")], tmp_path / "n.safetensors", **{**QUICK, "steps": 5, **options}
        )
    assert "\n" not in str(caught.value)


def test_bad_names_and_no_pairs_are_refused_at_once(tmp_path, cells):
    pairs = [(f"{cells}:/raw", f"{cells}:/labels")]
    with pytest.raises(BadNetwork, match="safetensors"):
        train_msd(pairs, tmp_path / "net.pt")
    with pytest.raises(NoPermission, match="folder"):
        train_msd(pairs, tmp_path / "absent" / "net.safetensors")
    with pytest.raises(BadOption, match="pairs"):
        train_msd([], tmp_path / "net.safetensors")


def test_points_need_a_voxel_size(tmp_path, cells):
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["raw"] = np.zeros(SHAPE, np.uint8)
    with pytest.raises(BadTruth, match="--voxel-size"):
        train_msd(
            [(f"{tmp_path}/bare.h5:/raw", tmp_path / "cells.csv")], tmp_path / "n.safetensors", radius=4.0, **QUICK
        )


def test_a_voxel_size_that_is_given_stands_in_for_that_of_the_file(tmp_path, cells, monkeypatch):
    """The same training, whether the file tells the size or the call; and it goes on from its checkpoint."""
    with h5py.File(cells) as told, h5py.File(tmp_path / "bare.h5", "w") as bare:
        bare["raw"] = told["raw"][:]
    given = {"radius": 4.0, "steps": 6, **QUICK}
    told, bare = ([(f"{tmp_path}/{name}.h5:/raw", tmp_path / "cells.csv")] for name in ("cells", "bare"))
    expected = load_file(train_msd(told, tmp_path / "a.safetensors", **given).network)
    out, given = tmp_path / "b.safetensors", given | {"voxel_size_um": (2.0, 1.0, 1.0)}
    interrupted(monkeypatch, bare, out, **given)
    result = train_msd(bare, out, **given)
    assert result.resumed_at > 0 and nets.load(out).card.voxel_size == [2.0, 1.0, 1.0]
    assert all(torch.equal(expected[name], values) for name, values in load_file(out).items())


def test_nan_is_refused_with_its_place(tmp_path, cells):
    image = np.ones(SHAPE, np.float32)
    image[2, 3, 4] = np.nan
    write(tmp_path / "nan.h5", raw=image)
    with pytest.raises(NonFinite, match=r"\(2, 3, 4\)"):
        train_msd([(f"{tmp_path}/nan.h5:/raw", f"{cells}:/labels")], tmp_path / "n.safetensors", **QUICK)
