"""Statistics equal numpy's on the whole volume, and come close where they are sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.volume import create_volume, open_volume
from medhpc.volume.statistics import PERCENTILES


def write(path: Path, array: np.ndarray) -> None:
    with create_volume(path, array.shape[1:], array.dtype, channels=len(array)) as writer:
        writer.write(0, array)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["u1", "i1", "u2", "i2", "i4", "u8", "f4", "f8"]),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(2, 9)),
    st.integers(0, 99),
)
def test_equal_to_numpy(tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: tuple, seed: int) -> None:
    low = -50 if dtype[0] in "if" else 0
    array = np.random.default_rng(seed).integers(low, 100, shape).astype(dtype)
    path = tmp_path_factory.mktemp("s") / "a.h5"
    write(path, array)
    with open_volume(path) as volume:
        found = volume.statistics()
    assert found.exact and found.voxels == array.size and found.nonfinite is None
    numbers = array.astype(np.float64)
    np.testing.assert_allclose(found.mean, numbers.mean(axis=(1, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(found.std, numbers.std(axis=(1, 2, 3)), atol=1e-9)
    assert (found.minimum, found.maximum) == (numbers.min(), numbers.max())
    np.testing.assert_allclose([found.percentiles[q] for q in PERCENTILES], np.percentile(numbers, PERCENTILES))


def test_far_from_zero(tmp_path: Path) -> None:
    """A sum of squares in float32 would lose the deviation altogether."""
    array = (1e6 + np.random.default_rng(0).normal(size=(1, 30, 40, 50))).astype(np.float64)
    write(tmp_path / "a.h5", array)
    with open_volume(tmp_path / "a.h5") as volume:
        assert volume.statistics().std[0] == pytest.approx(array.std(), rel=1e-9)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.zarr", "a.nii.gz"])
def test_samples(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(0)
    gradient = np.linspace(0, 1000, 150)[:, None, None] + np.zeros((150, 200, 220))
    array = (gradient + random.normal(0, 30, gradient.shape)).clip(0).astype(np.uint16)[np.newaxis]
    write(tmp_path / name, array)
    with open_volume(tmp_path / name) as volume:
        found = volume.statistics(max_voxels=2**21)
        assert found == volume.statistics(max_voxels=2**21)
    assert not found.exact
    assert 2**18 < found.voxels <= 2**21
    assert found.mean[0] == pytest.approx(array.mean(), rel=0.05)
    assert found.std[0] == pytest.approx(array.std(), rel=0.2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_nonfinite_voxel_is_named(tmp_path: Path, bad: float) -> None:
    array = np.ones((2, 5, 6, 7), np.float32)
    array[1, 2, 3, 4] = array[0, 4, 0, 0] = bad
    write(tmp_path / "a.nii", array)
    with open_volume(tmp_path / "a.nii") as volume:
        found = volume.statistics()
    assert found.nonfinite == (2, 3, 4)
    assert found.mean == (1, 1) and found.std == (0, 0) and found.maximum == 1


def test_nothing_but_nan(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", np.full((1, 5, 6, 7), np.nan, np.float32))
    with open_volume(tmp_path / "a.nii") as volume:
        found = volume.statistics()
    assert found.nonfinite == (0, 0, 0) and np.isnan(found.mean[0]) and np.isnan(found.percentiles[50.0])
