"""The parts of a training: truths, splits, patches, options."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.classes import parse_classes
from medhpc.cli import training
from medhpc.errors import BadOption, BadTruth
from medhpc.geometry import Box
from medhpc.train import examples as examples_module
from medhpc.train import pictures, planning
from medhpc.train.checkpoint import State
from medhpc.train.depth import StepTime, depth_for_seconds, depth_for_steps
from medhpc.train.examples import around, check_room, fairest, open_examples, pooled, splits
from medhpc.train.judge import Judgement
from medhpc.train.options import Options, parse_background
from medhpc.train.patches import draw_patch
from medhpc.train.planning import largest_patch, mean_step
from medhpc.train.results import TrainingResult
from medhpc.train.schedule import JUDGEMENTS, end_of, has_stalled, is_judged, rate_at, why_stalled
from medhpc.train.truth import IGNORE, MARGIN, NEAR, LabelTruth, PointTruth
from medhpc.train.window import object_window


class Labels:
    """A label volume in memory."""

    path, chunks = "labels", None

    def __init__(self, labels):
        self.labels = labels

    def read(self, box):
        return self.labels[box.slices][None]


def random_box(draw, shape):
    start = [draw(st.integers(0, n - 1)) for n in shape]
    return Box(tuple(start), tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)))


# --- points ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_balls_are_all_voxels_within_the_radius(data):
    shape, spacing = (9, 11, 12), tuple(data.draw(st.sampled_from([0.5, 1.0, 2.0, 3.7])) for _ in range(3))
    number, radius = data.draw(st.integers(1, 4)), data.draw(st.floats(0.1, 6))
    points = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(-1, 12, (number, 3))
    near = data.draw(st.booleans())
    box = random_box(data.draw, shape)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    offset = voxels[..., None, :] - points
    distance = np.sqrt(((offset * spacing) ** 2).sum(-1)).min(-1)
    expected = np.full(shape, IGNORE if near else 0, np.uint8)
    if near:
        expected[distance <= radius * NEAR] = 0
    expected[distance <= radius * MARGIN] = IGNORE
    expected[(distance <= radius) | (np.abs(offset) <= 0.5).all(-1).any(-1)] = 1
    drawn = PointTruth(points, spacing, radius, near=near).targets(box)
    assert np.array_equal(drawn, expected[box.slices])


def test_anchors_of_points_lie_in_the_box():
    truth = PointTruth(np.array([[2.0, 2, 2], [7, 7, 7]]), (1, 1, 1), 2.0)
    box = Box((5, 5, 5), (9, 9, 9))
    anchors = truth.anchors(box, np.random.default_rng(0))
    assert anchors[1].tolist() == [[7, 7, 7]]
    assert ((anchors[0] >= 5) & (anchors[0] < 9)).all()
    assert truth.anchors(Box((3, 3, 3), (6, 6, 6)), np.random.default_rng(0)) == {}


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [0, 1, 1, 1, 1]),
        ({"ignore": 7}, [0, 1, 1, IGNORE, 1]),
        ({"background": 1}, [IGNORE, 0, 1, 1, 1]),
        ({"background": 1, "ignore": 2}, [IGNORE, 0, IGNORE, 1, 1]),
        ({"classes": {"a": [(1, 2)], "b": [(7, 7)]}}, [0, 1, 1, 2, 0]),
        ({"classes": {"a": [(1, 1), (9, 300)]}, "background": 2}, [IGNORE, 1, 0, IGNORE, 1]),
    ],
)
def test_label_values_become_classes(options, expected):
    labels = np.array([0, 1, 2, 7, 300], np.uint16).reshape(1, 1, 5)
    truth = LabelTruth(Labels(labels), Options(**options))
    assert truth.targets(Box.whole(labels.shape)).ravel().tolist() == expected


def test_anchors_of_labels_are_a_fair_draw(monkeypatch):
    """Each voxel of a class equally often, whichever block it lies in."""
    monkeypatch.setattr("medhpc.train.truth.MOST_ANCHORS", 50)
    monkeypatch.setattr(
        "medhpc.train.truth.blocks", lambda box, chunks: [Box((0, 0, 0), (1, 10, 10)), Box((1, 0, 0), (10, 10, 10))]
    )
    labels = np.ones((10, 10, 10), np.uint8)
    labels[:, :, 5:] = 0
    truth = LabelTruth(Labels(labels), Options())
    rng = np.random.default_rng(0)
    drawn = [truth.anchors(Box.whole(labels.shape), rng) for _ in range(40)]
    ones = np.concatenate([anchors[1] for anchors in drawn])
    assert len(ones) == 40 * 50 and (ones[:, 2] < 5).all()
    assert np.concatenate([anchors[0] for anchors in drawn])[:, 2].min() >= 5
    assert (ones[:, 0] == 0).mean() == pytest.approx(0.1, abs=0.03)


# --- splitting and patches ------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_validation_never_meets_training(data):
    shape = tuple(data.draw(st.integers(30, 90)) for _ in range(3))
    region = Box((3, 4, 5), tuple(a + n for a, n in zip((3, 4, 5), shape, strict=True)))
    choices = splits(region, data.draw(st.floats(0.05, 0.3)), (11, 11, 11), "v")
    for train, held in choices:
        assert region.contains(train) and region.contains(held)
        assert not train.grow((1, 1, 1)).intersection(held).size  # a gap is between them
        assert all(n >= 11 for n in (*train.shape, *held.shape))
    longest = int(np.argmax(shape))
    assert choices[0][1].stop == region.stop and choices[0][1].shape[longest] < shape[longest]
    assert all(3 * train.size >= 2 * region.size for train, _ in choices[2:])  # other axes cost little


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_what_is_held_out_has_objects_and_leaves_some(seed, number):
    """Whatever the objects' places: the choice judges and teaches if any does, and no other one is fairer by far."""
    rng = np.random.default_rng(seed)
    objects = rng.normal(rng.uniform(0, 60, 3), rng.uniform(1, 30), (number, 3)).round().clip(0, 59).astype(np.int64)
    choices = splits(Box.whole((60, 60, 60)), 0.15, (5, 5, 5), "v")

    def counts(choice):
        return [int(((objects >= box.start) & (objects < box.stop)).all(1).sum()) for box in choice]

    def unfairness(choice):
        return abs(np.log2(counts(choice)[1] / number / 0.15))

    useful = [choice for choice in choices if all(counts(choice))]
    chosen = fairest(choices, objects, 0.15)
    if useful:
        assert chosen in useful
        assert unfairness(chosen) <= max(1, min(map(unfairness, useful)))
    else:
        assert chosen == choices[0]


def test_too_small_a_region_is_refused_without_validation_too():
    check_room(Box.whole((5, 5, 5)), (5, 5, 5), "v")
    with pytest.raises(BadTruth, match="too thin: 4 voxels along z, and the network needs 5 .*--ndim 2"):
        check_room(Box.whole((4, 5, 5)), (5, 5, 5), "v")


def test_the_axis_that_is_too_thin_is_named_with_what_was_held_out_of_it():
    with pytest.raises(BadTruth) as raised:
        splits(Box.whole((5, 100, 80)), 0.15, (11, 11, 11), "v")
    assert "5 voxels along z, and the network needs 11" in str(raised.value)
    assert "along y" not in str(raised.value)
    with pytest.raises(BadTruth, match=r"7 voxels along x \(after holding out 13 for validation\), .* needs 11 \(less"):
        splits(Box.whole((11, 11, 20)), 0.15, (11, 11, 11), "v")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_patch_holds_its_voxel_and_stays_inside(data):
    bounds = random_box(data.draw, (20, 20, 20))
    shape = tuple(data.draw(st.integers(1, n)) for n in bounds.shape)
    voxel = np.array([data.draw(st.integers(a, b - 1)) for a, b in zip(bounds.start, bounds.stop, strict=True)])
    box = around(voxel, shape, bounds, [data.draw(st.floats(0.25, 0.75)) for _ in range(3)])
    assert box.shape == shape and bounds.contains(box)
    assert all(a <= v < b for a, v, b in zip(box.start, voxel, box.stop, strict=True))


def memory_pair(tmp_path, shape=(24, 40, 44), seed=0):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    labels[4:12, 5:15, 5:15], labels[10:20, 25:38, 30:40] = 1, 2
    image = (labels > 0) * 800 + rng.integers(0, 200, shape)
    path = tmp_path / f"pair{seed}.h5"
    with h5py.File(path, "w") as file:
        file["raw"], file["labels"] = image.astype(np.uint16), labels
        for name in file:
            file[name].attrs["element_size_um"] = (1.0, 1.0, 1.0)
    return f"{path}:/raw", f"{path}:/labels"


def test_patches_are_a_function_of_seed_and_step(tmp_path, monkeypatch):
    pairs = [memory_pair(tmp_path, seed=0), memory_pair(tmp_path, seed=1)]
    with ExitStack() as files:
        kept = open_examples(pairs, Options(), (5, 5, 5), files)
        monkeypatch.setattr(examples_module, "CACHE_BYTES", 0)
        read_again = open_examples(pairs, Options(), (5, 5, 5), files)
        for step in range(20):
            image, targets = draw_patch(kept, (8, 12, 12), 7, step)
            again = draw_patch(read_again, (8, 12, 12), 7, step)
            assert image.shape == (1, 8, 12, 12) and targets.shape == (8, 12, 12)
            assert np.array_equal(image, again[0]) and np.array_equal(targets, again[1])
            assert ((image[0] > 1) == targets).mean() > 0.95  # turned together
        firsts = [draw_patch(kept, (8, 12, 12), seed, 0)[0].tobytes() for seed in range(8)]
        assert len(set(firsts)) == 8
        objects = [draw_patch(kept, (8, 12, 12), 7, step)[1].any() for step in range(60)]
        assert sum(objects) >= 30


def test_a_patch_is_clipped_in_the_thin_volume_only(tmp_path):
    pairs = [memory_pair(tmp_path, shape, seed) for seed, shape in enumerate([(20, 40, 44), (44, 40, 44)])]
    with ExitStack() as files:
        thin, thick = open_examples(pairs, Options(validation=0), (5, 5, 5), files)
        wanted = (28, 12, 12)
        shapes = [draw_patch([thin, thick], wanted, 0, step, sample)[1].shape for step in range(8) for sample in (0, 1)]
        assert set(shapes) == {(z, 12, 12) for z, *_ in shapes} and max(shapes) == wanted
        assert {z <= 20 for z, *_ in shapes} == {True, False}
        assert all(16 <= z <= 20 or z == 28 for z, *_ in shapes)
        assert largest_patch([thin, thick], wanted) == largest_patch([thick, thin], wanted) == wanted
        assert largest_patch([thin], wanted) == (20, 12, 12)


def test_the_time_of_a_step_is_the_mean_over_volumes(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "measure_step", lambda patch, *_: StepTime(seconds=float(np.prod(patch)), power=1.0))
    pairs = [memory_pair(tmp_path, shape, seed) for seed, shape in enumerate([(20, 40, 44), (44, 40, 44)])]
    with ExitStack() as files:
        options = Options(validation=0)
        examples = open_examples(pairs, options, (5, 5, 5), files)
        for some in (examples, examples[::-1]):
            assert mean_step(some, options, (40, 12, 12), torch.device("cpu")).seconds == pytest.approx(30 * 144)


def test_normalisation_is_once_per_volume(tmp_path):
    with ExitStack() as files:
        (example,) = open_examples([memory_pair(tmp_path)], Options(region="2:,:,:"), (5, 5, 5), files)
        whole = example.volume.read(Box.whole(example.volume.shape)).astype(np.float64)
        box = Box((3, 2, 1), (9, 10, 11))
        expected = (whole[(slice(None), *box.slices)] - whole.mean()) / whole.std()
        assert np.allclose(example.read(box)[0], expected, atol=1e-4)


def test_pooled_statistics_are_those_of_all_voxels():
    rng = np.random.default_rng(0)
    parts = [rng.normal(m, s, 10_000) for m, s in ((0, 1), (5, 3))]
    mean, std = pooled([SimpleNamespace(mean=(p.mean(),), std=(p.std(),)) for p in parts])
    assert mean[0] == pytest.approx(np.concatenate(parts).mean())
    assert std[0] == pytest.approx(np.concatenate(parts).std())


def test_validation_comes_from_the_end_that_holds_objects(tmp_path):
    """Both objects lie at x < 40 of 44 + 40 empty columns: the far end would have nothing to judge."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "wide.h5"
    labels = np.zeros((16, 16, 90), np.uint8)
    labels[4:9, 4:9, 2:8], labels[4:9, 4:9, 40:48] = 1, 2
    with h5py.File(path, "w") as file:
        file["raw"], file["labels"] = labels * 100 + 1, labels
    with ExitStack() as files:
        (example,) = open_examples([(f"{path}:/raw", f"{path}:/labels")], Options(), (5, 5, 5), files)
        assert example.validation.start[2] == 0 and example.train.stop[2] == 90


def test_thin_slabs_are_judged_amid_their_surroundings(tmp_path):
    with ExitStack() as files:
        (example,) = open_examples([memory_pair(tmp_path)], Options(), (5, 5, 5), files)
        ((image, targets),) = example.held_out()
        assert image.shape[1:] == targets.shape == example.region.shape  # all of it is within 48 voxels
        judged = np.zeros(targets.shape, bool)
        judged[example.validation.slices] = True
        whole_image, whole_targets = example.read(example.region)
        assert np.array_equal(image, whole_image)
        assert np.array_equal(targets, np.where(judged, whole_targets, IGNORE))


# --- the window of intensities --------------------------------------------------------------------


def faint_pair(tmp_path, step, faint=0.2):
    """Objects a fifth of `step` above what is around them, in a half that lies a `step` above the other half."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 40, 60), np.uint8)
    labels[4:20, 6:14, 36:44], labels[6:18, 24:34, 46:54] = 1, 2
    image = np.full(labels.shape, 100.0) + rng.normal(0, 10, labels.shape)
    image[:, :, 20:] += step
    image += (labels > 0) * step * faint
    path = tmp_path / "faint.h5"
    with h5py.File(path, "w") as file:
        file["raw"], file["labels"] = image.astype(np.float32), labels
    return f"{path}:/raw", f"{path}:/labels"


def window_of(pair, **options):
    with ExitStack() as files:
        examples = open_examples([pair], Options(**options), (5, 5, 5), files)
        window = object_window(examples, 0)
        assert window == object_window(examples, 0)
        return window, examples[0].statistics


def test_faint_objects_are_looked_at_through_a_window(tmp_path):
    window, statistics = window_of(faint_pair(tmp_path, step=1000.0))
    low, high = (end * statistics.std[0] + statistics.mean[0] for end in window[0])
    # Objects at 1300 and their surroundings at 1100: the mean is 1200, the deviation 100.
    assert low == pytest.approx(900, abs=60) and high == pytest.approx(1500, abs=60)


def test_the_window_follows_the_unit_of_the_intensities(tmp_path):
    window, _ = window_of(faint_pair(tmp_path, step=1000.0))
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "faint.h5", "a") as file:
        file["raw"][...] = file["raw"][...] * 7 - 300
    again, _ = window_of((f"{tmp_path}/faint.h5:/raw", f"{tmp_path}/faint.h5:/labels"))
    assert np.allclose(window, again, atol=1e-3)


@pytest.mark.parametrize("faint", [1.0, 3.0])
def test_objects_as_bright_as_the_volume_varies_need_no_window(tmp_path, faint):
    assert window_of(faint_pair(tmp_path, step=1000.0, faint=faint))[0] is None


@pytest.mark.parametrize(
    "options, word",
    [
        ({"region": "0:4,:,:"}, "too thin"),
        ({"region": ":,:,15:24"}, "no object"),
        ({"background": 9}, "no background"),
        ({"ignore": 0}, "no background"),
    ],
)
def test_truth_that_teaches_nothing_is_refused(tmp_path, options, word):
    with ExitStack() as files, pytest.raises(BadTruth, match=word) as caught:
        open_examples([memory_pair(tmp_path)], Options(**options), (5, 5, 5), files)
    assert "\n" not in str(caught.value)


# --- options --------------------------------------------------------------------------------------


def test_classes_are_parsed():
    expected = {"bone": [(26, 50), (92, 116)], "liver": [(5, 5)]}
    assert parse_classes("bone=26-50,92-116,liver=5") == expected
    assert parse_classes("bone = 26-50+92-116 , liver=5") == expected


@pytest.mark.parametrize("text", ["", "5", "bone", "bone=", "bone=a", "bone=9-3", "a=1-5,b=5", "=3", "a=1,,2"])
def test_bad_classes_are_refused(text):
    with pytest.raises(BadOption, match="classes"):
        parse_classes(text)


@pytest.mark.parametrize(
    "options",
    [
        {"truth": "maybe"},
        {"background": "far"},
        {"normalize": "tile"},
        {"precision": "int8"},
        {"ndim": 4},
        {"validation": 0.9},
        {"depth": 0},
        {"radius": -1.0},
        {"minutes": 0.0},
        {"steps": 5, "minutes": 5.0},
        {"patience": 0},
        {"patience": 3, "validation": 0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(BadOption):
        Options(**options)


def test_backgrounds_are_parsed():
    assert [parse_background(v) for v in ("all", "near", "3", 3, "-1")] == ["all", "near", 3, 3, -1]


def test_more_steps_make_deeper_networks():
    depths = [depth_for_steps(steps) for steps in (1, 300, 500, 800, 10_000)]
    assert depths == [10, 12, 20, 30, 85]


def test_more_time_makes_deeper_networks():
    step = StepTime(seconds=0.001, power=1.4)  # 0.025 s at depth 10, 0.5 at 85
    assert [depth_for_seconds(seconds, step) for seconds in (0.1, 12, 100, 600, 6000)] == [10, 12, 30, 65, 85]
    assert depth_for_seconds(600, StepTime(seconds=0.01, power=1.4)) < 65


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dices, kept",
    [
        ([0.9, 0.1, 0.2, 0.3], 3),  # early luck does not count
        ([0.1, 0.2, 0.8, 0.6], 2),  # it got worse
        ([0.1, 0.2, 0.8, 0.797], 3),  # not measurably
        ([float("nan")] * 4, 3),  # nothing held out
    ],
)
def test_the_best_of_the_second_half_is_kept(dices, kept):
    network = torch.nn.Linear(1, 1)
    state = State(network=network, optimizer=None, scaler=None)
    for number, dice in enumerate(dices):
        with torch.no_grad():
            network.bias.fill_(number)
        state.enter(Judgement(loss=1.0, dice=dice), (number + 1) / len(dices) - 0.01)
    assert state.best_entry == kept and state.best["bias"].item() == kept


# --- schedule ------------------------------------------------------------------------------------


def history_of(losses, dices):
    """Judgements that are spread evenly over the budget."""
    pairs = enumerate(zip(losses, dices, strict=True), start=1)
    return [
        {"spent": n / JUDGEMENTS, "step": 10 * n, "validation_loss": loss, "dice": dice} for n, (loss, dice) in pairs
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(0, 1)), min_size=1, max_size=JUDGEMENTS),
    st.integers(1, JUDGEMENTS),
)
def test_a_training_stalls_only_where_the_last_judgements_better_nothing(judged, patience):
    """Nothing among the last N is measurably better than all before, in the second half; and only then."""
    history = history_of(*zip(*judged, strict=True))
    stalls = has_stalled(history, patience)
    before, after = history[:-patience], history[-patience:]
    if len(history) < JUDGEMENTS / 2 or not before:
        assert not stalls
        return
    dice, loss = max(entry["dice"] for entry in before), min(entry["validation_loss"] for entry in before)
    better = [e for e in after if e["dice"] > dice + 0.005 or e["validation_loss"] < 0.99 * loss]
    none = all(e["dice"] <= dice and e["validation_loss"] >= loss for e in after)
    assert not (stalls and better)
    assert stalls or not none


def test_small_steps_forward_count_once_they_are_more_together():
    rising = history_of([1.0] * 20, [0.5 + 0.002 * n for n in range(20)])
    assert not any(has_stalled(rising[:n], 3) for n in range(1, 21))
    flat = history_of([1.0] * 20, [0.5] * 20)
    assert [n for n in range(1, 21) if has_stalled(flat[:n], 3)] == list(range(10, 21))


@given(st.one_of(st.none(), st.floats(0.5, 1)), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_falls_to_zero_at_the_end_however_it_ends(stalled, one, other):
    early, late = sorted(one if stalled is None else stalled + x * (1.2 - stalled) for x in (one, other))
    assert 0 <= rate_at(late, stalled) <= rate_at(early, stalled) <= 1
    state = State(network=None, optimizer=None, scaler=None)
    if stalled is not None:
        state.history, state.stalled_entry = [{"spent": stalled}], 0
        assert rate_at(stalled, stalled) == rate_at(stalled)  # no jump
    assert rate_at(end_of(state), stalled) < 1e-2
    assert is_judged(state, end_of(state))


def test_why_a_training_stalled_is_told():
    state = State(network=None, optimizer=None, scaler=None, history=history_of([1.0] * 12, [0.7] * 12))
    assert why_stalled(state) == ""
    state.stalled_entry = 11
    assert why_stalled(state) == "no better Dice or loss on the held-out slab in 11 judgements up to step 120"
    state.history[-1]["validation_loss"] = 2.0
    assert why_stalled(state).endswith("; its loss rose from 1 to 2 (overfitting)")


# --- what is shown --------------------------------------------------------------------------------


def test_slices_show_only_planes_that_are_held_out():
    """The slab lies amid its context across x, and one of its planes has no truth at all."""
    image = np.broadcast_to(np.arange(20, dtype=np.float32), (1, 12, 14, 20))  # its value is x
    targets = np.full((12, 14, 20), IGNORE, np.uint8)
    targets[2:, :, 13:18] = 0
    targets[4, 4, 14] = 1
    targets[:, :, 15] = IGNORE
    seen = []

    def engine(image, _):
        seen.append(image.shape)
        return np.zeros((2, *image.shape[1:]), np.float32)

    rows = pictures._rows(engine, (image, targets), 4)
    assert seen == [(1, 12, 14, 20)]  # its context is looked at, though not shown
    assert [plane[0].shape for plane in rows] == [(10, 14)] * 4
    assert [float(plane[0][0, 0]) for plane in rows] == [13, 14, 16, 17]
    assert all((truth != IGNORE).all() for _, truth, _ in rows)


def result_with(**numbers):
    """A training's result of which only the judgement matters."""
    values = {"loss": 0.1, "validation_loss": 0.1, "dice": 0.8, "best_step": 7, "steps": 30, "stalled": "", **numbers}
    about = dict.fromkeys(("depth", "width", "ndim", "parameters", "receptive_radius", "resumed_at"), 1)
    times = {"seconds": 1.0, "seconds_per_step": 1.0, "device": "cpu", "precision": "float32"}
    paths = {"network": Path("n.safetensors"), "curve": Path("n.curve.png"), "slices": Path("n.slices.png")}
    return TrainingResult(**paths, **about, **times, **values)


@pytest.mark.parametrize(
    "numbers, note",
    [
        ({}, None),
        ({"loss": 0.13, "validation_loss": 1.69}, "13 times that of training.*more labels"),
        ({"dice": 0.01}, "train it longer"),
        ({"steps": 9}, "9 steps are few for depth 1, which 25 steps train well"),
        ({"loss": 0.1, "validation_loss": float("nan"), "dice": float("nan")}, None),
    ],
)
def test_the_rule_is_told_and_poor_networks_come_with_advice(numbers, note):
    lines = training._lines(result_with(**numbers))
    assert "step 7, which is kept" in lines["best"] and "within 0.005 of the best Dice" in lines["best"]
    if note is None:
        assert "note" not in lines
    else:
        assert re.search(note, lines["note"], re.DOTALL)


def test_without_a_terminal_one_kind_of_progress_is_printed():
    """The lines after each judgement; under --json, where there are none, those of the bar."""
    with training._progress(as_json=False) as progress:
        assert progress is None
    with training._progress(as_json=True) as progress:
        assert progress is not None
