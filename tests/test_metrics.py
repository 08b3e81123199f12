"""Metrics: the laws of each measure, and equality with a reference or with brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medhpc import metrics
from medhpc.metrics import Detection, average_precision, dice, iou, match_points, matched_instances, overlap

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)


@st.composite
def label_pairs(draw, largest=4):
    shape = draw(SHAPES)
    labels = hnp.arrays(draw(st.sampled_from([np.uint8, np.int32, np.uint64])), shape, elements=st.integers(0, largest))
    return draw(labels), draw(labels)


def points(largest=6):
    whole = st.integers(0, 4).map(float)  # ties and equal places are the hard cases
    return hnp.arrays(np.float64, st.tuples(st.integers(0, largest), st.just(3)), elements=whole | st.floats(0, 4))


# --- masks and labels ----------------------------------------------------------------------------


@given(pair=label_pairs())
def test_a_table_counts_every_voxel_of_every_pair(pair):
    table = overlap(*pair)
    for r, t, n in zip(table.result, table.truth, table.voxels, strict=True):
        assert n == np.sum((pair[0] == r) & (pair[1] == t)) > 0
    assert table.voxels.sum() == pair[0].size


@given(pair=label_pairs(), data=st.data())
def test_tables_of_parts_add_up(pair, data):
    cut = data.draw(st.integers(0, pair[0].shape[0]))
    parts = [overlap(a, b) for a, b in (([x[:cut] for x in pair]), ([x[cut:] for x in pair]))]
    for name in ("result", "truth", "voxels"):
        np.testing.assert_array_equal(getattr(metrics.sum_overlaps(parts), name), getattr(overlap(*pair), name))


@given(pair=label_pairs(), label=st.integers(0, 4))
def test_dice_and_iou_are_symmetric_bounded_and_one_function_of_the_other(pair, label):
    there, back = overlap(*pair), overlap(*pair[::-1])
    assert dice(there, label) == dice(back, label)
    assert 0 <= iou(there, label) <= dice(there, label) <= 1
    assert dice(there, label) == pytest.approx(2 * iou(there, label) / (1 + iou(there, label)))


@given(pair=label_pairs(), label=st.integers(0, 4))
def test_dice_and_iou_equal_their_definition(pair, label):
    r, t = (x == label for x in pair)
    if (r | t).any():
        assert dice(overlap(*pair), label) == 2 * (r & t).sum() / (r.sum() + t.sum())
        assert iou(overlap(*pair), label) == (r & t).sum() / (r | t).sum()


@given(pair=label_pairs())
def test_the_foreground_is_what_is_not_zero(pair):
    r, t = pair[0] != 0, pair[1] != 0
    assert dice(overlap(*pair).foreground()) == dice(overlap(r, t))


@given(labels=label_pairs().map(lambda pair: pair[0]))
def test_equal_volumes_agree_wholly(labels):
    table = overlap(labels, labels)
    assert all(dice(table, label) == iou(table, label) == 1 for label in range(5))
    assert average_precision(table) == 1


@given(pair=label_pairs(), names=st.permutations(range(1, 100)))
def test_names_of_objects_change_nothing(pair, names):
    renamed = np.array([0, *names])[pair[0].astype(int)]
    assert average_precision(overlap(renamed, pair[1])) == average_precision(overlap(*pair))
    assert average_precision(overlap(*pair)) == average_precision(overlap(*pair[::-1]))


@given(pair=label_pairs(largest=3))
def test_the_instance_matching_is_as_large_as_any(pair):
    close = np.array([[iou_of(pair, r, t) >= 0.5 for t in (1, 2, 3)] for r in (1, 2, 3)])
    best = max(sum(close[i, order[i]] for i in range(3)) for order in itertools.permutations(range(3)))
    assert matched_instances(overlap(*pair)) == best


def iou_of(pair, r, t):
    in_result, in_truth = pair[0] == r, pair[1] == t
    return (in_result & in_truth).sum() / max(1, (in_result | in_truth).sum())


def test_an_object_cut_in_halves_is_found_once():
    table = overlap([1, 1, 2, 2, 0, 5], [7, 7, 7, 7, 8, 0])
    assert matched_instances(table) == 1
    assert average_precision(table) == 1 / (3 + 2 - 1)


def test_two_empty_volumes_agree_and_an_empty_result_of_something_does_not():
    nothing, something = np.zeros(5, int), np.ones(5, int)
    assert dice(overlap(nothing, nothing)) == iou(overlap(nothing, nothing)) == 1
    assert average_precision(overlap(nothing, nothing)) == 1
    assert dice(overlap(nothing, something)) == average_precision(overlap(nothing, something)) == 0
    assert len(overlap([], []).voxels) == 0


# --- points --------------------------------------------------------------------------------------


def brute_force(result, truth, tolerance):
    """Largest number of pairs, and the least total distance of so many pairs."""
    if len(result) > len(truth):
        result, truth = truth, result
    distances = np.linalg.norm(result[:, np.newaxis] - truth, axis=2)
    rows = range(len(result))
    chosen = [
        [distances[i, j] for i, j in zip(rows, order, strict=True)]
        for order in itertools.permutations(range(len(truth)), len(result))
    ]
    kept = [[d for d in row if d <= tolerance] for row in chosen]
    most = max(map(len, kept))
    return most, min(sum(row) for row in kept if len(row) == most)


@settings(deadline=None)
@given(result=points(5), truth=points(5), tolerance=st.sampled_from([0.0, 1.0, 1.5, 3.0]), dense=st.booleans())
def test_the_matching_equals_brute_force(result, truth, tolerance, dense):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "DENSE_PAIRS", 2**22 if dense else 0)
        matching = match_points(result, truth, tolerance)
    most, least = brute_force(result, truth, tolerance)
    assert len(matching) == most
    assert matching.distance.sum() == pytest.approx(least)


@given(result=points(30), truth=points(30), tolerance=st.floats(0, 5))
def test_pairs_are_one_to_one_and_close(result, truth, tolerance):
    matching = match_points(result, truth, tolerance)
    assert len(set(matching.result)) == len(set(matching.truth)) == len(matching)
    distance = np.linalg.norm(result[matching.result] - truth[matching.truth], axis=1)
    np.testing.assert_allclose(distance, matching.distance)
    assert (matching.distance <= tolerance).all()


@given(result=points(30), truth=points(30), tolerance=st.floats(0, 5))
def test_matching_is_symmetric_and_grows_with_the_tolerance(result, truth, tolerance):
    there, back = match_points(result, truth, tolerance), match_points(truth, result, tolerance)
    assert len(there) == len(back)
    assert there.distance.sum() == pytest.approx(back.distance.sum())
    assert len(match_points(result, truth, 2 * tolerance)) >= len(there)


def test_the_largest_matching_wins_over_the_shortest_distance():
    result, truth = np.array([[0, 0, 0.0], [0, 0, 3]]), np.array([[0, 0, 2.0], [0, 0, 5]])
    assert len(match_points(result, truth, 2)) == 2  # the nearest pair alone, 3 and 2, would leave the others apart


def test_a_chain_of_a_thousand_points_is_matched_to_its_end():
    x = np.arange(1000.0)
    result, truth = (np.stack([0 * x, 0 * x, 2 * x + shift], axis=1) for shift in (0, 1))
    assert len(match_points(result, truth, 1)) == 1000


@given(found=st.integers(0, 9), annotated=st.integers(0, 9), data=st.data())
def test_f1_is_the_harmonic_mean(found, annotated, data):
    matched = data.draw(st.integers(0, min(found, annotated)))
    scores = Detection(found=found, annotated=annotated, matched=matched)
    assert 0 <= min(scores.precision, scores.recall) <= scores.f1 <= max(scores.precision, scores.recall) <= 1
    if matched:
        assert scores.f1 == pytest.approx(2 / (1 / scores.precision + 1 / scores.recall))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 7, 7), (9, 12, 15), (1, 20, 30)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int8])
def test_psnr_and_ssim_equal_scikit_image(shape, dtype):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, shape).astype(dtype)
    result = (truth + rng.integers(-20, 20, shape)).clip(0, 120).astype(dtype)
    as_float = [x.astype(np.float64).squeeze() for x in (result, truth)]
    ours = metrics.ssim_map(result, truth, 100).mean()
    assert ours == pytest.approx(structural_similarity(*as_float, data_range=100), abs=1e-12)
    squared_error = np.mean((as_float[0] - as_float[1]) ** 2)
    expected = peak_signal_noise_ratio(as_float[1], as_float[0], data_range=100)
    assert metrics.psnr(squared_error, 100) == pytest.approx(expected)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_ssim_is_symmetric_at_most_one_and_one_for_equal_images(seed):
    first, second = np.random.default_rng(seed).normal(size=(2, 8, 9, 10))
    there, back = metrics.ssim_map(first, second, 4), metrics.ssim_map(second, first, 4)
    np.testing.assert_allclose(there, back)
    assert there.max() <= 1
    np.testing.assert_allclose(metrics.ssim_map(first, first, 4), 1)


def test_ssim_of_parts_makes_up_the_whole():
    result, truth = np.random.default_rng(0).normal(size=(2, 20, 12, 12))
    parts = [metrics.ssim_map(result[a:b], truth[a:b], 4) for a, b in ((0, 11), (5, 20))]
    np.testing.assert_allclose(np.concatenate(parts), metrics.ssim_map(result, truth, 4), atol=1e-12)


def test_psnr_of_equal_images_is_infinite():
    assert metrics.psnr(0.0, 255) == math.inf
