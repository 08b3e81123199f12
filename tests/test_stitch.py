"""Stitch: the result is that of the whole volume at once, whatever the tiles, the slabs and the format."""

import csv
import json
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from stored import blobs, run_of

from medhpc import objects
from medhpc.errors import BadOption, MedhpcError, MissingTiles, NotInPlan, UnknownFormat, VolumeNotFound
from medhpc.geometry import Box
from medhpc.run import Run, clean
from medhpc.stitch import stitch, write
from medhpc.stitch.reduce import to_mask
from medhpc.stitch.slabs import cells_of, slabs_of
from medhpc.volume import open_volume

edge = st.integers(1, 14)
shapes = st.tuples(edge, edge, edge)
tiles = st.tuples(*[st.integers(4, 14)] * 3)
thicknesses = st.sampled_from([1, 2, 4, 8, 64])


@pytest.fixture(scope="module", autouse=True)
def quick_disk():
    """Do not wait for the disk: nothing here is about crashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def read(path: str | Path) -> np.ndarray:
    """All voxels, without a channel axis where there is none."""
    with open_volume(path) as volume:
        values = volume.read(Box.whole(volume.shape))
        return values if volume.axes == "CZYX" else values[0]


def labels_of(stored: np.ndarray, tile, thickness: int, **options) -> tuple[np.ndarray, bytes]:
    """Stitch labels of `stored` in slabs of this thickness: ids, and the bytes of the table."""
    region = options.pop("region", None)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "THICKEST", thickness)
        run = run_of(Path(folder) / "run", stored, tile, region=region)
        out, table = Path(folder) / "labels.ome.zarr", Path(folder) / "objects.csv"
        stitch(run.folder, out, kind="labels", objects=table, levels=1, **options)
        return read(out), table.read_bytes()


def by_first_voxel(labels: np.ndarray) -> np.ndarray:
    """The same objects, numbered in the raster order of their first voxels."""
    ids, first = np.unique(labels, return_index=True)
    in_order = ids[ids > 0][np.argsort(first[ids > 0])]
    numbers = np.zeros(labels.max() + 1, np.int64)
    numbers[in_order] = np.arange(1, len(in_order) + 1)
    return numbers[labels]


def noise(shape, seed: int, density: float) -> np.ndarray:
    """Probabilities (uint8) of which a fraction `density` is foreground."""
    random = np.random.default_rng(seed)
    stored = random.integers(1, 128, shape)
    stored[random.random(shape) < density] += 127
    return stored.astype(np.uint8)


# --- labels are those of the whole ---------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(shapes, tiles, thicknesses, st.integers(0, 999), st.sampled_from([0.02, 0.1, 0.2, 0.5, 1.0]))
def test_labels_are_those_of_the_whole(shape, tile, thickness, seed, density):
    stored = noise(shape, seed, density)
    expected, count = ndimage.label(stored >= 128, np.ones((3, 3, 3)))
    labels, table = labels_of(stored, tile, thickness)
    np.testing.assert_array_equal(labels, by_first_voxel(expected))
    assert labels.dtype == objects.smallest_dtype(count)
    assert table.count(b"\n") == count + 1


@pytest.mark.parametrize("step", [(1, 0, 0), (1, 1, 0), (1, 0, -1), (1, 1, 1), (1, -1, 1), (0, 1, 1), (0, 1, -1)])
@pytest.mark.parametrize("thickness", [1, 4])
def test_objects_that_touch_over_edges_and_corners_of_tiles_and_slabs_are_one(step, thickness):
    stored = np.zeros((8, 8, 8), np.uint8)
    stored[3 + (step[0] == 0), 3 + (step[1] < 0), 3 + (step[2] < 0)] = 255
    z, y, x = (int(n) for n in np.argwhere(stored)[0] + step)
    stored[z, y, x] = 200
    labels, _ = labels_of(stored, (4, 4, 4), thickness)
    np.testing.assert_array_equal(labels, stored > 0)


@settings(max_examples=12, deadline=None)
@given(tiles, thicknesses, st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 0.7]), st.sampled_from([0, 9]))
def test_labels_and_tables_depend_neither_on_tiles_nor_on_slabs(tile, thickness, seed, split, smooth, min_size):
    stored = blobs((12, 18, 20), 10, seed)
    options = {"split": split, "smooth": smooth, "min_size": min_size}
    expected, expected_table = labels_of(stored, (12, 18, 20), 64, **options)
    labels, table = labels_of(stored, tile, thickness, **options)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype
    assert table == expected_table


@settings(max_examples=8, deadline=None)
@given(tiles, thicknesses, st.data())
def test_labels_of_a_region_are_those_of_the_region_alone(tile, thickness, data):
    stored = blobs((12, 20, 20), 12, 5)
    start = [data.draw(st.integers(0, n - 1)) for n in stored.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, stored.shape, strict=True)]
    region = Box(tuple(start), tuple(stop))
    labels, _ = labels_of(stored, tile, thickness, region=region)
    expected = np.zeros(stored.shape, int)
    expected[region.slices] = by_first_voxel(ndimage.label(stored[region.slices] >= 128, np.ones((3, 3, 3)))[0])
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("split", [False, True])
def test_the_table_is_that_of_brute_force(dtype, split):
    probability = blobs((20, 30, 36), 25, 3)
    stored = probability if dtype == "uint8" else (probability / 255).astype(np.float16)
    labels, table = labels_of(stored, (8, 8, 8), 4, split=split)
    rows = list(csv.DictReader(table.decode().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(1, labels.max() + 1))
    voxel_size = np.array([2.0, 0.5, 0.25])
    full = 255 if dtype == "uint8" else 1
    for row in rows:
        places = np.argwhere(labels == int(row["id"]))
        centre = places.mean(axis=0)
        assert [float(row[axis]) for axis in "zyx"] == pytest.approx(centre, abs=6e-5)
        assert [float(row[f"{axis}_um"]) for axis in "zyx"] == pytest.approx(centre * voxel_size, rel=1e-5)
        assert int(row["volume_voxels"]) == len(places)
        assert float(row["volume_um3"]) == pytest.approx(len(places) * voxel_size.prod(), rel=1e-5)
        mean = stored[tuple(places.T)].astype(float).mean() / full
        assert float(row["mean_probability"]) == pytest.approx(mean, abs=1e-6)
        assert [int(row[f"{axis}_min"]) for axis in "zyx"] == places.min(axis=0).tolist()
        assert [int(row[f"{axis}_max"]) for axis in "zyx"] == (places.max(axis=0) + 1).tolist()


@pytest.mark.parametrize("thickness", [1, 4, 8])
def test_parts_are_those_of_the_whole_object(thickness):
    stored = blobs((24, 40, 40), 40, 1, radius=(3, 6))
    components, count = ndimage.label(stored >= 128, np.ones((3, 3, 3)))
    expected = np.zeros(stored.shape, int)
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        parts = objects.split(components[box] == number, (2.0, 0.5, 0.25), 0.05)
        expected[box] += np.where(parts > 0, parts + expected.max(), 0)
    assert expected.max() > count
    labels, _ = labels_of(stored, (8, 8, 8), thickness, split=True, split_depth=0.05)
    np.testing.assert_array_equal(labels, by_first_voxel(expected))


def test_objects_too_large_to_split_are_left_whole_and_counted(tmp_path):
    stored = blobs((24, 40, 40), 40, 1, radius=(3, 6))
    run = run_of(tmp_path / "run", stored)
    whole = stitch(run.folder, tmp_path / "whole.tif", kind="labels")
    limited = stitch(run.folder, tmp_path / "limited.tif", kind="labels", split=True, split_depth=0.05, split_limit=1)
    sizes = [b.size for b in map(box_of, ndimage.find_objects(read(tmp_path / "whole.tif").astype(int)))]
    assert (limited.objects, limited.left_whole) == (whole.objects, sum(size > 1 for size in sizes))
    np.testing.assert_array_equal(read(tmp_path / "limited.tif"), read(tmp_path / "whole.tif"))


def box_of(slices) -> Box:
    return Box(tuple(s.start for s in slices), tuple(s.stop for s in slices))


@pytest.mark.parametrize("split", [False, True])
def test_small_objects_are_left_out_after_splitting(split):
    stored = blobs((20, 30, 36), 30, 3)
    everything, _ = labels_of(stored, (8, 8, 8), 8, split=split)
    sizes = np.bincount(everything.ravel())
    sizes[0] = 0
    least = int(np.median(sizes[1:]))
    labels, table = labels_of(stored, (8, 8, 8), 8, split=split, min_size=least)
    np.testing.assert_array_equal(labels, by_first_voxel(np.where(sizes[everything] >= least, everything, 0)))
    assert 0 < table.count(b"\n") - 1 < sizes.astype(bool).sum()


def test_smoothing_is_that_of_the_whole():
    stored = noise((20, 24, 28), 0, 0.5)
    smooth = ndimage.gaussian_filter(stored.astype(np.float32), 1.3, truncate=4.0, mode="nearest")
    expected, _ = ndimage.label(smooth >= 0.5 * 255, np.ones((3, 3, 3)))
    labels, _ = labels_of(stored, (8, 8, 8), 4, smooth=1.3)
    np.testing.assert_array_equal(labels, by_first_voxel(expected))


def test_without_foreground_there_are_no_objects(tmp_path):
    run = run_of(tmp_path / "run", np.zeros((9, 9, 9), np.uint8))
    for split in (False, True):
        done = stitch(run.folder, tmp_path / "no.tif", kind="labels", split=split, objects=tmp_path / "no.csv")
        assert (done.objects, done.dtype) == (0, "uint8")
        assert not read(tmp_path / "no.tif").any()
        assert (tmp_path / "no.csv").read_text().startswith("id,z,y,x,")


@pytest.mark.parametrize(
    ("dtype", "largest", "options"),
    [
        (np.uint8, 0.4, {"kind": "labels"}),
        (np.uint8, 0.4, {"kind": "mask"}),
        (np.float16, 0.4, {"kind": "mask"}),
        (np.uint8, 0.8, {"kind": "labels", "min_size": 9}),
    ],
)
def test_where_nothing_is_found_the_largest_probability_is_told(tmp_path, dtype, largest, options):
    values = np.zeros((20, 30, 40))
    values[17, 20, 33] = largest
    values = np.rint(values * 255).astype(dtype) if dtype is np.uint8 else values.astype(dtype)
    run = run_of(tmp_path / "run", values)
    result = stitch(run.folder, tmp_path / "out.tif", **options)
    assert not result.found and result.largest == pytest.approx(largest, abs=1e-3) and result.threshold == 0.5
    result = stitch(run.folder, tmp_path / "out.tif", kind="mask", threshold=0.3)
    assert result.found and result.largest is None


@pytest.mark.parametrize(("count", "dtype"), [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_ids_take_the_smallest_dtype(tmp_path, count, dtype):
    side = 2 * math.ceil(math.sqrt(count))
    stored = np.zeros((1, side, side), np.uint8)
    places = np.argwhere(np.ones((side // 2, side // 2)))[:count] * 2
    stored[0, places[:, 0], places[:, 1]] = 255
    run = run_of(tmp_path / "run", stored, (1, 512, 512))
    done = stitch(run.folder, tmp_path / "ids.ome.zarr", kind="labels", levels=1)
    ids = read(tmp_path / "ids.ome.zarr")
    assert (done.objects, done.dtype, ids.dtype) == (count, dtype, dtype)
    assert ids[ids > 0].tolist() == list(range(1, count + 1))


# --- the other kinds -----------------------------------------------------------------------------

OUTS = ("out.ome.zarr", "out.tif", "out.nii.gz", "out.h5:/result")
STORED = {
    "probability": noise((10, 12, 14), 1, 0.4),
    "float16": np.random.default_rng(2).random((10, 12, 14)).astype(np.float16),
    "several": np.random.default_rng(3).integers(0, 128, (2, 10, 12, 14)).astype(np.uint8),
    "argmax": np.random.default_rng(4).integers(0, 4, (10, 12, 14)).astype(np.uint8),
    "raw": np.random.default_rng(5).normal(size=(10, 12, 14)).astype(np.float32),
    "channels": np.random.default_rng(6).integers(0, 60000, (3, 10, 12, 14)).astype(np.uint16),
    "plane": noise((1, 20, 24), 7, 0.4),
}
KIND_STORED = {"argmax": "argmax", "raw": "raw", "channels": "raw"}
CASES = [(name, KIND_STORED.get(name, "probability")) for name in STORED if name != "argmax"]


def expected_mask(name: str) -> np.ndarray:
    stored = STORED[name]
    if name == "several":
        return np.where(stored.sum(axis=0, dtype=int) >= 128, stored.argmax(axis=0) + 1, 0)
    if name == "argmax":
        return stored
    return stored >= (128 if stored.dtype == np.uint8 else 0.5)


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_stored_numbers_come_out_as_they_are(tmp_path, out, name, kind):
    run = run_of(tmp_path / "run", STORED[name], (8, 8, 8), kind=kind)
    done = stitch(run.folder, tmp_path / out, kind=kind)
    result = read(tmp_path / out)
    np.testing.assert_array_equal(result, STORED[name])
    assert done.shape == STORED[name].shape
    with open_volume(tmp_path / out) as volume:
        assert volume.voxel_size_um == pytest.approx((2.0, 0.5, 0.25))


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("name", ["probability", "float16", "several", "argmax", "raw", "plane"])
def test_masks(tmp_path, out, name):
    run = run_of(tmp_path / "run", STORED[name], (8, 8, 8), kind=KIND_STORED.get(name, "probability"))
    stitch(run.folder, tmp_path / out, threshold=0.5 if name == "raw" else None)
    mask = read(tmp_path / out)
    np.testing.assert_array_equal(mask, expected_mask(name))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("name", ["probability", "several", "argmax", "raw", "plane"])
def test_labels_of_every_kind_of_numbers_in_every_format(tmp_path, out, name):
    run = run_of(tmp_path / "run", STORED[name], (8, 8, 8), kind=KIND_STORED.get(name, "probability"))
    stitch(run.folder, tmp_path / out, kind="labels", threshold=0.5 if name == "raw" else None)
    components, _ = ndimage.label(expected_mask(name) > 0, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(read(tmp_path / out), by_first_voxel(components))


@given(st.integers(1, 1000), st.integers(0, 255))
def test_a_stored_probability_is_foreground_from_the_rounded_up_threshold(thousandths, stored):
    mask = to_mask(np.full((1, 1, 1, 1), stored, np.uint8), "probability", thousandths / 1000)
    assert bool(mask.item()) == (stored >= -(-255 * thousandths // 1000))


@pytest.mark.parametrize("kind", ["mask", "probability"])
@pytest.mark.parametrize("out", OUTS)
def test_outside_the_region_there_is_nothing(tmp_path, kind, out):
    region = Box((3, 2, 5), (9, 11, 12))
    stored = STORED["probability"]
    run = run_of(tmp_path / "run", stored, (4, 4, 4), region=region)
    stitch(run.folder, tmp_path / out, kind=kind)
    expected = np.zeros_like(stored)
    expected[region.slices] = stored[region.slices] if kind == "probability" else stored[region.slices] >= 128
    np.testing.assert_array_equal(read(tmp_path / out), expected)


@pytest.mark.parametrize("unit", ["um", "mm", None])
def test_the_voxel_size_travels(tmp_path, unit):
    size = (2.0, 0.5, 0.25) if unit else None
    run = run_of(tmp_path / "run", STORED["probability"], voxel_size=size, unit=unit or "")
    for out in ("out.ome.zarr", "out.tif", "out.nii.gz"):
        stitch(run.folder, tmp_path / out, kind="labels", objects=tmp_path / "table.csv")
        with open_volume(tmp_path / out) as volume:
            if unit or out != "out.nii.gz":  # NIfTI always has one
                assert volume.voxel_size == (None if size is None else pytest.approx(size))
            assert volume.unit == (unit or volume.unit)
    first = next(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    if unit is None:
        assert first["z_um"] == first["volume_um3"] == ""
    else:
        factor = {"um": 1, "mm": 1000}[unit]
        assert float(first["z_um"]) == pytest.approx(float(first["z"]) * 2 * factor, rel=1e-3)
        assert float(first["volume_um3"]) == pytest.approx(int(first["volume_voxels"]) * 0.25 * factor**3, rel=1e-4)


def test_the_affine_of_a_nifti_travels(tmp_path):
    affine = np.array([[-0.25, 0, 0, 10], [0, 0.5, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1.0]])
    run = run_of(tmp_path / "run", STORED["probability"], affine=affine, unit="mm")
    stitch(run.folder, tmp_path / "out.nii.gz")
    with open_volume(tmp_path / "out.nii.gz") as volume:
        np.testing.assert_allclose(volume.affine, affine)


def test_the_result_does_not_depend_on_the_tiles(tmp_path):
    stored = blobs((40, 50, 60), 30)
    found = []
    for tile in ((7, 16, 60), (40, 50, 60)):
        folder = tmp_path / f"tiles-of-{tile[0]}"
        folder.mkdir()
        stitch(run_of(tmp_path / f"run-{tile[0]}", stored, tile).folder, folder / "mask.ome.zarr")
        found.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert found[0] == found[1]


@pytest.mark.parametrize(("kind", "how"), [("labels", "nearest"), ("probability", "mean")])
def test_the_pyramid_suits_the_kind(tmp_path, kind, how):
    run = run_of(tmp_path / "run", blobs((20, 40, 40), 20), voxel_size=None)
    stitch(run.folder, tmp_path / "out.ome.zarr", kind=kind, levels=3)
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    assert group.attrs["ome"]["multiscales"][0]["type"] == how
    assert [group[level].shape for level in "012"] == [(20, 40, 40), (10, 20, 20), (5, 10, 10)]
    if kind == "labels":
        np.testing.assert_array_equal(group["1"][:], group["0"][::2, ::2, ::2])


def test_tiff_opens_elsewhere(tmp_path):
    run = run_of(tmp_path / "run", STORED["several"])
    stitch(run.folder, tmp_path / "out.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected_mask("several"))


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kind": "labels"}, {"kind": "labels", "split": True}])
def test_progress_counts_up_to_the_total(tmp_path, options):
    run = run_of(tmp_path / "run", blobs((20, 20, 20), 9), (8, 8, 8))
    calls = []
    stitch(run.folder, tmp_path / "out.ome.zarr", progress=lambda *call: calls.append(call), **options)
    assert calls == [(n + 1, calls[0][1]) for n in range(calls[0][1])]


def test_results_are_remembered_and_nothing_else_is_left(tmp_path):
    run = run_of(tmp_path / "run", STORED["probability"])
    done = [stitch(run.folder, tmp_path / out, kind="labels", split=True) for out in OUTS]
    files = [str(tmp_path / out.removesuffix(":/result")) for out in OUTS]
    assert list(Run(run.folder).results()) == files
    assert json.loads(json.dumps(done[0].as_dict()))["kind"] == "labels"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run", *(Path(file).name for file in files)])
    assert not [path for path in run.scratch.iterdir() if path.is_dir()]
    assert clean(run.folder) > 0


def test_results_take_the_umask(tmp_path):
    run = run_of(tmp_path / "run", STORED["probability"])
    before = os.umask(0o027)
    try:
        for out in ("out.ome.zarr", "out.tif"):
            stitch(run.folder, tmp_path / out, kind="labels", objects=tmp_path / "out.csv")
    finally:
        os.umask(before)
    files = [tmp_path / "out.tif", tmp_path / "out.csv", *(tmp_path / "out.ome.zarr").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in files if path.is_file()} == {0o640}
    assert {path.stat().st_mode & 0o777 for path in files if path.is_dir()} == {0o750}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "kind", "options", "error", "words"),
    [
        ("argmax", "argmax", {"kind": "probability"}, NotInPlan, "stores argmax, not probability"),
        ("argmax", "argmax", {"kind": "raw"}, NotInPlan, "stores argmax, not raw"),
        ("probability", "probability", {"kind": "raw"}, NotInPlan, "--store raw"),
        ("argmax", "argmax", {"threshold": 0.3}, NotInPlan, "stores classes"),
        ("argmax", "argmax", {"kind": "labels", "smooth": 1.0}, NotInPlan, "stores classes"),
        ("raw", "raw", {"kind": "mask"}, NotInPlan, "--threshold"),
        ("channels", "raw", {"kind": "labels", "threshold": 1.0}, NotInPlan, "3 raw channels"),
        ("raw", "raw", {"kind": "raw", "threshold": 0.5}, BadOption, "no meaning for raw"),
        ("raw", "raw", {"threshold": math.nan}, BadOption, "not a number"),
        ("probability", "probability", {"threshold": 0.0}, BadOption, "above 0"),
        ("probability", "probability", {"threshold": 1.1}, BadOption, "above 0"),
        ("probability", "probability", {"threshold": math.nan}, BadOption, "above 0"),
        ("probability", "probability", {"kind": "cells"}, BadOption, "mask, labels"),
        ("probability", "probability", {"split": True}, BadOption, "--split"),
        ("probability", "probability", {"min_size": 3}, BadOption, "--min-size"),
        ("probability", "probability", {"smooth": 1.0}, BadOption, "--smooth"),
        ("probability", "probability", {"objects": "a.csv"}, BadOption, "--objects"),
        ("probability", "probability", {"kind": "labels", "smooth": -1.0}, BadOption, "smooth"),
        ("probability", "probability", {"kind": "labels", "min_size": -1}, BadOption, "min-size"),
        ("probability", "probability", {"kind": "labels", "split": True, "split_depth": 0.0}, BadOption, "depth"),
        ("probability", "probability", {"levels": 0}, BadOption, "levels"),
    ],
)
def test_what_the_run_cannot_give_is_refused_in_one_line(tmp_path, stored, kind, options, error, words):
    run = run_of(tmp_path / "run", STORED[stored], kind=kind)
    with pytest.raises(error) as caught:
        stitch(run.folder, tmp_path / "out.ome.zarr", **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not run.scratch.exists()


@pytest.mark.parametrize(
    ("out", "error"),
    [("out.xyz", UnknownFormat), ("absent/out.tif", VolumeNotFound), ("run", MedhpcError), ("full.zarr", BadOption)],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, out, error):
    run = run_of(tmp_path / "run", STORED["probability"])
    (tmp_path / "full.zarr").mkdir()
    (tmp_path / "full.zarr" / "notes.txt").write_text("mine")
    with pytest.raises(error):
        stitch(run.folder, tmp_path / out)
    assert not run.scratch.exists()
    assert (tmp_path / "full.zarr" / "notes.txt").exists()


def test_a_table_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    run = run_of(tmp_path / "run", STORED["probability"])
    for table in (tmp_path, tmp_path / "absent" / "a.csv", tmp_path / "run" / "plan.json" / "a.csv"):
        with pytest.raises(BadOption, match="objects"):
            stitch(run.folder, tmp_path / "out.tif", kind="labels", objects=table)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_missing_tiles_are_named_with_the_command_that_fills_them(tmp_path):
    stored = STORED["probability"]
    run = run_of(tmp_path / "run", stored, (4, 12, 14))
    for index in (0, 2):
        for path in run.shards.paths(run.plan.grid[index].write):
            path.unlink()
    with pytest.raises(MissingTiles, match=rf"^2 of 3 tiles .*: 0,2; fill them with  medhpc infer {run.folder}$"):
        stitch(run.folder, tmp_path / "out.tif")
    for index in (0, 2):
        tile = run.plan.grid[index]
        run.commit(tile, stored[None][(slice(None), *tile.write.slices)], time.monotonic())
    stitch(run.folder, tmp_path / "out.tif", kind="probability")
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), stored)


# --- slabs and cells -------------------------------------------------------------------------------

boxes = st.tuples(*[st.tuples(st.integers(0, 30), st.integers(1, 12))] * 3).map(
    lambda axes: Box(tuple(a for a, _ in axes), tuple(a + n for a, n in axes))
)


@given(boxes, st.integers(1, 20))
def test_slabs_cover_the_region_once_and_end_at_multiples(region, thickness):
    slabs = slabs_of(region, thickness)
    assert slabs[0].start == region.start
    assert slabs[-1].stop == region.stop
    for slab, following in zip(slabs, slabs[1:], strict=False):
        assert slab.stop[0] == following.start[0]
        assert slab.stop[0] % thickness == 0
    assert all(0 < slab.shape[0] <= thickness and slab.shape[1:] == region.shape[1:] for slab in slabs)


@settings(deadline=None)
@given(boxes, st.tuples(*[st.integers(1, 20)] * 3))
def test_cells_cover_the_slab_once_and_no_two_share_a_shard(slab, cell):
    cells = list(cells_of(slab, cell))
    counted = np.zeros(slab.stop, int)
    for each in cells:
        counted[each.slices] += 1
    assert counted.sum() == (counted[slab.slices] == 1).sum() == slab.size
    owners = [tuple(a // n for a, n in zip(each.start, cell, strict=True)) for each in cells]
    assert len(set(owners)) == len(owners)
    for each, owner in zip(cells, owners, strict=True):
        assert all(stop <= (o + 1) * n for stop, o, n in zip(each.stop, owner, cell, strict=True))


def test_a_plane_larger_than_a_slab_is_a_slab(monkeypatch):
    monkeypatch.setattr(write, "SLAB_VOXELS", 100)
    assert write.labelling_thickness(Box((0, 0, 0), (50, 30, 30))) == 1
    assert write.labelling_thickness(Box((0, 0, 0), (50, 5, 4))) == 4
