"""The made volume: the same for the same seed, true to its labels, and too hard for a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from medhpc.demo_data import VOXEL_SIZE_UM, make_light_sheet, write_demo
from medhpc.geometry import Box
from medhpc.points import read_points
from medhpc.volume import open_volume

SHAPE = (40, 96, 128)


@pytest.fixture(scope="module")
def made():
    return make_light_sheet(SHAPE, cells=40, seed=3)


def test_shapes_and_types(made):
    volume, labels, centres = made
    assert volume.shape == labels.shape == SHAPE
    assert volume.dtype == labels.dtype == np.uint16
    assert centres.shape == (40, 3)


def test_the_same_seed_makes_the_same_volume(made):
    again, other = make_light_sheet(SHAPE, cells=40, seed=3), make_light_sheet(SHAPE, cells=40, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert not np.array_equal(made[0], other[0])


def test_every_cell_has_a_label_and_its_centroid(made):
    _, labels, centres = made
    assert set(np.unique(labels)) == set(range(41))
    for label, centre in enumerate(centres, 1):
        np.testing.assert_allclose(np.argwhere(labels == label).mean(axis=0), centre)


def test_a_cell_is_brighter_than_what_surrounds_it(made):
    from scipy.ndimage import binary_dilation

    volume, labels, _ = made
    brighter = 0
    for label in range(1, 41):
        cell = labels == label
        shell = binary_dilation(cell, iterations=4) & ~binary_dilation(labels > 0, iterations=1)
        brighter += volume[cell].mean() > volume[shell].mean()
    assert brighter >= 36


def test_some_cells_touch_and_sizes_and_brightness_vary(made):
    volume, labels, _ = made
    apart = labels[:, :, 1:] != labels[:, :, :-1]
    assert np.sum(apart & (labels[:, :, 1:] > 0) & (labels[:, :, :-1] > 0)) > 0
    sizes = np.bincount(labels.ravel())[1:]
    assert np.percentile(sizes, 90) > 2 * np.percentile(sizes, 10)
    brightness = np.bincount(labels.ravel(), weights=volume.ravel())[1:] / sizes
    assert np.percentile(brightness, 90) > 1.5 * np.percentile(brightness, 10)


def test_stripes_run_along_x(made):
    steps = np.diff(made[0].astype(float), axis=1)  # from row to row
    left, right = (half.mean(axis=2).ravel() for half in np.split(steps, 2, axis=2))
    assert np.corrcoef(left, right)[0, 1] > 0.4  # noise and cells of the two halves have nothing in common


def test_no_threshold_finds_the_cells():
    volume, labels, _ = make_light_sheet((64, 160, 160), cells=50)
    cells = labels > 0
    dice = [2 * np.sum((volume > t) & cells) / (np.sum(volume > t) + cells.sum()) for t in range(150, 1500, 50)]
    assert 0.1 < max(dice) < 0.6


def test_what_is_written_is_read_back(tmp_path):
    files = write_demo(tmp_path / "demo", (24, 64, 64), cells=5, seed=1)
    volume, labels, centres = make_light_sheet((24, 64, 64), cells=5, seed=1)
    for path, expected in ((files.volume, volume), (files.labels, labels)):
        with open_volume(path) as opened:
            assert opened.voxel_size_um == pytest.approx(VOXEL_SIZE_UM)
            whole = opened.read(Box.whole(opened.shape))[0]
        np.testing.assert_array_equal(whole, expected)
    np.testing.assert_allclose(read_points(files.centres).positions, centres, atol=5e-4)
