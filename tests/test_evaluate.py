"""Evaluate: what is streamed equals what is computed at once, and what cannot be compared is said in one line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from medhpc import metrics
from medhpc.errors import BadOption, BadTruth, MedhpcError, NonFinite, NotARun
from medhpc.evaluate import evaluate, seam_errors, streams
from medhpc.evaluate.images import image_scores
from medhpc.evaluate.inputs import guess_kind
from medhpc.evaluate.voxels import Rules, class_numbers, label_centres, stream_overlap
from medhpc.geometry import Box, Grid
from medhpc.volume import create_volume

SHAPE = (12, 20, 24)
SIZE = (2.0, 1.0, 1.0)


@pytest.fixture
def write(tmp_path):
    """Write an array as a volume with voxels of 2 x 1 x 1 um."""

    def write(name, array, voxel_size=SIZE):
        settings = {"voxel_size": voxel_size, "unit": "um"} if voxel_size else {}
        with create_volume(tmp_path / name, array.shape, array.dtype, **settings) as writer:
            writer.write(0, array)
        return tmp_path / name

    return write


@pytest.fixture
def table(tmp_path):
    def table(name, positions, header="z,y,x"):
        (tmp_path / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in positions)]) + "\n")
        return tmp_path / name

    return table


@pytest.fixture
def small_blocks(monkeypatch):
    """Stream in blocks of a few hundred voxels, so that small volumes have many."""
    monkeypatch.setattr(streams, "BLOCK_VOXELS", 300)


def in_memory(array, chunks=None):
    """Whatever of a Volume is needed to read an array."""
    return SimpleNamespace(
        path="memory", shape=array.shape, dtype=array.dtype, chunks=chunks, read=lambda box: array[box.slices][None]
    )


def three_cells(dtype=np.uint16):
    labels = np.zeros(SHAPE, dtype)
    labels[1:5, 2:8, 2:8], labels[1:5, 2:8, 8:14], labels[6:11, 12:18, 15:21] = 1, 2, 7
    return labels


def noisy(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(100, 300, shape).astype(np.uint16)


# --- what is streamed equals the whole -----------------------------------------------------------


@given(
    pair=hnp.arrays(np.uint8, (2, 5, 6, 7), elements=st.integers(0, 5)),
    chunks=st.none() | st.tuples(*[st.integers(1, 4)] * 3),
)
def test_a_streamed_table_equals_that_of_the_whole(pair, chunks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_VOXELS", 20)
        patch.setattr("medhpc.evaluate.voxels.PENDING_PAIRS", 5)
        streamed = stream_overlap(in_memory(pair[0], chunks), in_memory(pair[1]), Box.whole((5, 6, 7)), Rules())
    whole = metrics.overlap(*pair)
    for name in ("result", "truth", "voxels"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(whole, name))


@given(labels=hnp.arrays(np.uint16, (5, 6, 7), elements=st.integers(0, 3)))
def test_streamed_centroids_equal_those_of_the_whole(labels):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_VOXELS", 20)
        centres = label_centres(in_memory(labels), Box.whole(labels.shape)).positions
    expected = [np.argwhere(labels == label).mean(axis=0) for label in np.unique(labels[labels > 0])]
    np.testing.assert_allclose(centres, np.reshape(expected, (-1, 3)))


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.sampled_from([1, 7, 12]), st.integers(7, 15), st.integers(7, 15)),
    seed=st.integers(0, 9),
    voxels=st.integers(50, 2000),
)
def test_streamed_psnr_and_ssim_equal_scikit_image(shape, seed, voxels):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    truth, noise = noisy(seed, shape), np.random.default_rng(seed + 1).integers(0, 50, shape)
    result = (truth + noise).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_VOXELS", voxels)
        scores = image_scores(in_memory(result, (3, 4, 5)), in_memory(truth), Box.whole(shape), None)
    data_range = float(truth.max() - truth.min())
    pair = truth.squeeze(), result.squeeze()
    assert scores["ssim"] == pytest.approx(structural_similarity(*pair, data_range=data_range), abs=1e-10)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=data_range))
    assert scores["max_difference"] == noise.max()


@pytest.mark.parametrize("chunks", [None, (4, 8, 8)])
def test_seam_errors_equal_brute_force(chunks, small_blocks):
    truth = noisy()
    result = (truth + np.random.default_rng(5).integers(0, 9, SHAPE)).astype(np.uint16)
    region = Box((1, 0, 2), (12, 20, 24))
    grid = Grid(SHAPE, (6, 8, 8), (1, 2, 0), region)
    near = np.zeros(SHAPE, bool)
    near[5:7] = near[:, 6:10] = near[:, 14:18] = True
    near[:, :, :] |= np.isin(np.arange(24), [*range(0, 16), *range(8, 24)])  # no halo along x: 8 on both sides
    errors = seam_errors(in_memory(result, chunks), in_memory(truth), grid, (1, 2, 0))
    difference = (result - truth)[region.slices]
    assert errors.width == (1, 2, 8)
    assert errors.near == pytest.approx(difference[near[region.slices]].mean())
    assert errors.elsewhere is None and errors.elsewhere_voxels == 0


def test_an_error_at_the_faces_only_is_seen_there_only(small_blocks):
    truth = noisy()
    result = truth.copy()
    result[:, :, 7:9] += 10
    errors = seam_errors(
        in_memory(result), in_memory(truth), Grid(SHAPE, (12, 20, 8), (0, 0, 2), Box.whole(SHAPE)), (1, 1, 2)
    )
    assert errors.near == pytest.approx(10 * 2 / 8)  # faces at 8 and 16, two voxels on either side
    assert errors.elsewhere == 0 and errors.ratio is None


# --- masks, labels, classes ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tif", "a.ome.zarr", "a.nii.gz", "a.h5"])
def test_labels_against_themselves_are_perfect(write, name):
    path = write(name, three_cells())
    found = evaluate(path, path)
    assert (found.result_kind, found.truth_kind) == ("labels", "labels")
    assert found.dice == found.iou == found.ap50 == found.f1 == 1
    assert (found.found, found.annotated, found.matched) == (3, 3, 3)


def test_a_merged_cell_costs_instances_but_not_the_foreground(write):
    merged = three_cells()
    merged[merged == 2] = 1
    found = evaluate(write("result.tif", merged), write("truth.tif", three_cells()))
    assert found.dice == 1
    assert found.ap50 == pytest.approx(2 / 3)  # the merged one covers half of itself with cell 1: IoU is 0.5
    assert (found.precision, found.recall) == (1, pytest.approx(2 / 3))


def test_a_mask_of_any_value_is_foreground(write):
    mask = np.where(three_cells() > 0, 255, 0).astype(np.uint8)
    found = evaluate(write("mask.tif", mask), write("truth.tif", three_cells()))
    assert (found.result_kind, found.dice, found.ap50, found.f1) == ("mask", 1, None, None)
    assert evaluate(write("one.tif", mask // 255), write("mask.tif", mask)).dice == 1


def test_classes_are_scored_one_by_one(write):
    result, truth = three_cells(np.uint8), three_cells(np.uint8)
    result[result == 2] = 1
    found = evaluate(write("result.tif", result), write("truth.tif", truth), kind="mask", truth_kind="mask")
    scores = {score.name: score for score in found.classes}
    assert scores["7"].dice == 1 and scores["2"].dice == 0
    assert scores["1"].iou == pytest.approx(0.5)
    assert found.dice == pytest.approx(np.mean([score.dice for score in found.classes]))


def test_values_of_the_truth_are_merged_into_named_classes(write):
    truth = write("truth.nii.gz", three_cells())
    one = evaluate(write("a.tif", (three_cells() > 1).astype(np.uint8)), truth, classes={"bone": [(2, 6), (7, 9)]})
    assert [(score.name, score.dice) for score in one.classes] == [("bone", 1)]
    numbers = class_numbers(three_cells(), {"left": [(1, 1)], "right": [(2, 2)]})
    two = evaluate(write("b.tif", numbers), truth, classes={"left": [(1, 1)], "right": [(2, 2)]})
    assert [(score.name, score.iou) for score in two.classes] == [("left", 1), ("right", 1)]


def test_ignored_voxels_count_on_neither_side(write):
    truth, result = three_cells(), three_cells()
    truth[6:11, 12:18, 15:21] = 99
    found = evaluate(write("result.tif", result), write("truth.tif", truth), ignore=99)
    assert found.dice == found.ap50 == 1
    assert evaluate(write("result.tif", result), write("truth.tif", truth)).annotated == 3


def test_a_threshold_makes_a_mask_of_an_image(write):
    probability = np.where(three_cells() > 0, 0.5, 0.3).astype(np.float32)
    found = evaluate(write("p.tif", probability), write("truth.tif", three_cells()), threshold=0.5)
    assert (found.result_kind, found.dice) == ("mask", 1)


def test_an_empty_result_is_told(write):
    truth = write("truth.tif", np.pad(np.ones((4, 4, 4), np.uint8), 4))
    mask, image = np.zeros((12, 12, 12), np.uint8), np.full((12, 12, 12), 0.4, np.float32)
    for array, options in ((mask, {"kind": "mask"}), (image, {"threshold": 0.5})):
        found = evaluate(write("result.tif", array), truth, **options)
        assert found.dice == 0 and any("try a lower --threshold" in note for note in found.notes)
    assert evaluate(truth, truth).notes == ()


def test_only_the_region_counts(write):
    result = three_cells()
    result[6:] = 0
    paths = write("result.tif", result), write("truth.tif", three_cells())
    assert evaluate(*paths, region=":6,:,:").ap50 == 1
    assert evaluate(*paths, region=Box((6, 0, 0), SHAPE)).dice == 0


@pytest.mark.parametrize(
    "array, kind",
    [
        (three_cells(), "labels"),
        (three_cells().astype(np.float64), "labels"),
        (three_cells() > 0, "mask"),
        (np.zeros(SHAPE, np.uint8), "mask"),
        (np.zeros(SHAPE, np.uint32), "labels"),
        (noisy(), "image"),
        (noisy() / 7, "image"),
        ((255 * gaussian_filter(np.float64(three_cells() > 0), 1)).astype(np.uint8), "image"),
        (noisy().astype(np.int16) - 1000, "image"),
        (np.where(three_cells() > 0, 0, -1000), "image"),
    ],
)
def test_what_a_volume_holds_is_told_by_its_voxels(array, kind):
    assert guess_kind(in_memory(array), Box.whole(SHAPE)) == kind


# --- points --------------------------------------------------------------------------------------


def test_distances_are_micrometres_and_tables_of_both_units_need_no_volume(table):
    rows = [(2, 4, 6, 4.0, 4, 6), (10, 10, 10, 20.0, 10, 10)]
    result = table("cells.csv", rows, "z,y,x,z_um,y_um,x_um")
    truth = table("truth.csv", [(3, 4, 6), (12, 10, 10)])
    found = evaluate(result, truth, tolerance_um=3)
    assert (found.found, found.annotated, found.matched) == (2, 2, 1)
    assert found.precision == found.recall == found.f1 == 0.5
    assert found.mean_distance_um == pytest.approx(2)  # one voxel of 2 um along z
    assert evaluate(result, truth, tolerance_um=4).f1 == 1


def test_points_against_labels_use_their_centroids(write, table):
    truth = write("labels.tif", three_cells())
    points = table("points.csv", [(2.5, 4.5, 4.5), (2.5, 4.5, 10.5), (8, 14.5, 17.5), (0, 0, 0)])
    found = evaluate(points, truth, tolerance_um=0.01)
    assert (found.matched, found.found, found.truth_kind) == (3, 4, "labels")
    assert evaluate(truth, points, tolerance_um=0.01).precision == 1


def test_single_voxels_mark_points(write, table):
    marks = np.zeros(SHAPE, np.uint8)
    marks[2, 4, 4] = marks[8, 14, 17] = 1
    found = evaluate(table("a.csv", [(2, 4, 4)]), write("marks.tif", marks), truth_kind="points", tolerance_um=1)
    assert (found.annotated, found.matched) == (2, 1)


def test_a_tolerance_pairs_labels_by_distance_and_keeps_the_ap(write):
    shifted = np.roll(three_cells(), 3, axis=2)
    paths = write("result.tif", shifted), write("truth.tif", three_cells())
    by_iou, by_distance = evaluate(*paths), evaluate(*paths, tolerance_um=3.5)
    assert (by_iou.matched_by, by_iou.f1) == ("IoU >= 0.5", 0)
    assert (by_distance.matched_by, by_distance.f1, by_distance.ap50) == ("distance", 1, 0)
    assert by_distance.mean_distance_um == pytest.approx(3)


def test_of_partial_truth_only_recall_is_told(write, table):
    result = table("result.csv", [(2, 4, 4), (5, 5, 9), (5, 5, 15)])
    truth = table("truth.csv", [(2, 4, 4)])
    settings = {"tolerance_um": 1, "voxel_size_um": SIZE}
    found = evaluate(result, truth, **settings)
    assert found.precision == pytest.approx(1 / 3) and "--partial" in found.notes[0]
    found = evaluate(result, truth, partial=True, **settings)
    assert (found.recall, found.precision, found.f1, found.notes) == (1, None, None, ())
    labels = write("labels.tif", three_cells())
    found = evaluate(labels, labels, partial=True)
    assert found.recall == 1 and found.dice is found.ap50 is None and found.classes == ()
    mask = write("mask.tif", (three_cells() > 0).astype(np.uint8))
    one_line(pytest.raises(BadOption, evaluate, mask, mask, partial=True).value, BadOption)


def test_complete_truth_comes_without_a_note(table):
    points = table("result.csv", [(2, 4, 4), (5, 5, 9)])
    assert evaluate(points, points, tolerance_um=1, voxel_size_um=SIZE).notes == ()


def test_points_outside_the_region_are_left_out_but_may_be_partners(table):
    header = "z,y,x,z_um,y_um,x_um"
    result = table("result.csv", [(5, 5, 9, 5, 5, 9), (5, 5, 30, 5, 5, 30), (5, 5, 2, 5, 5, 2)], header)
    truth = table("truth.csv", [(5, 5, 10, 5, 5, 10), (5, 5, 29, 5, 5, 29), (5, 5, 3, 5, 5, 3)], header)
    found = evaluate(result, truth, tolerance_um=2, region=":,:,10:30")
    assert (found.found, found.annotated, found.matched) == (2, 2, 2)
    assert evaluate(result, truth, tolerance_um=0.5, region=":,:,10:30").found == 0


@given(
    result=hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(3)), elements=st.floats(0, 9)),
    truth=hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(3)), elements=st.floats(0, 9)),
    cut=st.integers(1, 8),
)
def test_two_halves_of_a_volume_count_as_the_whole(result, truth, cut):
    from medhpc.evaluate.detection import detect
    from medhpc.points import Points

    points = Points(positions=result), Points(positions=truth)
    whole, _ = detect(*points, 2.0, (1, 1, 1), None)
    regions = Box((-1, -1, -1), (11, 11, cut)), Box((-1, -1, cut), (11, 11, 11))
    halves = [detect(*points, 2.0, (1, 1, 1), region)[0] for region in regions]
    for name in ("found", "annotated", "matched"):
        assert sum(getattr(half, name) for half in halves) == getattr(whole, name)


# --- images and seams ----------------------------------------------------------------------------


def test_equal_images_have_no_error_and_their_json_is_json(write):
    path = write("image.tif", noisy())
    found = evaluate(path, path)
    assert found.psnr == np.inf and found.ssim == pytest.approx(1) and found.max_difference == 0
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert values["psnr"] is None and values["max_difference"] == 0


def test_thin_images_have_no_ssim_and_say_so(write):
    found = evaluate(write("a.tif", noisy(0, (3, 9, 9))), write("b.tif", noisy(1, (3, 9, 9))))
    assert found.ssim is None and found.psnr is not None
    assert "window of 7" in found.notes[0]


def test_every_key_is_always_there(table):
    path = table("a.csv", [(0, 0, 0)], "z_um,y_um,x_um")
    values = evaluate(path, path, tolerance_um=1).as_dict()
    assert {"dice", "iou", "ap50", "precision", "recall", "f1", "psnr", "ssim"} <= set(values)
    assert values["dice"] is None and values["f1"] == 1


def test_lines_are_what_applies(write):
    found = evaluate(write("a.tif", three_cells()), write("b.tif", three_cells()))
    assert found.lines()["objects"] == "3 found, 3 annotated, 3 matched by IoU >= 0.5"
    assert found.lines()["dice"] == "1.0000"
    assert "psnr" not in found.lines()


def test_seams_of_a_run_are_part_of_the_evaluation(write):
    truth = noisy()
    result = truth.copy()
    result[:, :, 7:9] += 10
    grid = Grid(SHAPE, (12, 20, 8), (2, 2, 2), Box.whole(SHAPE))
    run = SimpleNamespace(plan=SimpleNamespace(grid=grid, halo=SimpleNamespace(size=(2, 2, 2))))
    found = evaluate(write("a.tif", result), write("b.tif", truth), seams=run)
    assert found.seams.near == pytest.approx(2.5)
    assert found.as_dict()["seams"]["elsewhere"] == 0
    assert "near tile faces" in found.lines()["seams"]


def test_seams_of_a_thresholded_image_are_those_of_its_mask(write):
    probability = np.where(three_cells() > 0, 200, 20).astype(np.uint8)
    probability[1:5, 2:8, 7] = 0  # an error beside the face at x = 8
    grid = Grid(SHAPE, (12, 20, 8), (2, 2, 2), Box.whole(SHAPE))
    run = SimpleNamespace(plan=SimpleNamespace(grid=grid, halo=SimpleNamespace(size=(2, 2, 2))))
    paths = write("p.tif", probability), write("truth.tif", three_cells())
    seams = evaluate(*paths, threshold=128, seams=run).seams
    assert seams.near == pytest.approx(4 * 6 / (12 * 20 * 8)) and seams.elsewhere == 0
    assert evaluate(*paths, threshold=128, seams=run, ignore=1).seams.near == 0


def test_progress_ends_with_everything(write):
    seen = []
    path = write("image.tif", noisy())
    evaluate(path, path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen == sorted(seen)


# --- what cannot be compared ---------------------------------------------------------------------


def one_line(error, kind):
    assert isinstance(error, kind) and "\n" not in str(error) and len(str(error)) > 20


def test_shapes_must_agree(write):
    paths = write("a.tif", three_cells()), write("b.tif", three_cells()[1:])
    with pytest.raises(BadTruth, match="same shape") as error:
        evaluate(*paths)
    one_line(error.value, BadTruth)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, "--tolerance is not given"),
        ({"tolerance_um": -1}, "--tolerance is -1"),
        ({"tolerance_um": 5, "kind": "labels"}, "table of points"),
        ({"tolerance_um": 5, "ignore": 3}, "for voxels"),
        ({"tolerance_um": 5, "seams": "run"}, "two volumes"),
        ({"tolerance_um": 5, "kind": "blobs"}, "none of"),
        ({"tolerance_um": 5, "region": "1:2"}, "is not Z0:Z1"),
    ],
)
def test_options_that_do_not_fit_points(table, options, reason):
    path = table("a.csv", [(0, 0, 0)], "z_um,y_um,x_um")
    with pytest.raises(MedhpcError, match=reason) as error:
        evaluate(path, path, **options)
    one_line(error.value, (BadOption, NotARun))


def test_micrometres_without_a_voxel_size(table):
    voxels, um = table("a.csv", [(0, 0, 0)]), table("b.csv", [(0, 0, 0)], "z_um,y_um,x_um")
    with pytest.raises(BadTruth, match="no voxel size"):
        evaluate(voxels, um, tolerance_um=1)
    assert evaluate(voxels, um, tolerance_um=1, voxel_size_um=(1, 1, 1)).f1 == 1


def test_kinds_that_do_not_meet(write, table):
    labels, image = write("labels.tif", three_cells()), write("image.tif", noisy())
    mask, points = write("mask.tif", (three_cells() > 0).astype(np.uint8)), table("a.csv", [(0, 0, 0)])
    with pytest.raises(BadOption, match="taken for image"):
        evaluate(image, labels)
    with pytest.raises(BadTruth, match="no centres"):
        evaluate(points, mask, tolerance_um=1)
    with pytest.raises(BadTruth, match="fractions"):
        evaluate(write("f.tif", noisy() / np.float32(7)), labels, kind="mask")


def test_an_image_of_one_value_has_no_range_and_says_so(write):
    flat = write("flat.tif", np.full(SHAPE, 3.5, np.float32))
    found = evaluate(flat, flat)
    assert found.psnr is found.ssim is None and found.max_difference == 0
    assert "one value" in found.notes[0]
    assert evaluate(flat, flat, data_range=10).ssim == pytest.approx(1)


def test_images_with_nan_are_refused(write):
    broken = noisy().astype(np.float32)
    broken[3, 4, 5] = np.nan
    with pytest.raises(NonFinite, match="NaN"):
        evaluate(write("nan.tif", broken), write("image.tif", noisy()), kind="image")


def test_a_tolerance_that_would_fill_the_memory(table, monkeypatch):
    monkeypatch.setattr("medhpc.evaluate.detection.MOST_PAIRS", 3)
    path = table("a.csv", [(0, 0, 0), (0, 0, 1)], "z_um,y_um,x_um")
    with pytest.raises(BadOption, match="pairs of points"):
        evaluate(path, path, tolerance_um=9)


# --- real annotations ----------------------------------------------------------------------------


@pytest.mark.shared
def test_real_labels_against_themselves(shared_data):
    ct = shared_data / "ct" / "example_ct_sm_seg.nii.gz"
    found = evaluate(ct, ct)
    assert found.dice == found.ap50 == 1
    ovule = f"{shared_data / 'nuclei_ovule' / '1135_mini.h5'}:/label"
    assert evaluate(ovule, ovule, tolerance_um=0.5).found == 54
