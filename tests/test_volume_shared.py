"""Real images."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from medhpc.errors import BrokenFile, NotAVolume
from medhpc.geometry import Box
from medhpc.volume import convert, open_volume

pytestmark = pytest.mark.shared


def read(path: Path | str) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))


def test_nuclei_in_hdf5(shared_data: Path) -> None:
    path = shared_data / "nuclei_ovule" / "1135_mini.h5"
    with open_volume(f"{path}:/raw") as volume:
        assert (volume.shape, volume.dtype, volume.unit) == ((100, 100, 100), np.uint8, "um")
        assert volume.voxel_size == pytest.approx((0.28371837, 0.12678642, 0.12678642))
        assert volume.chunks == (25, 25, 25)
    with pytest.raises(NotAVolume, match="/label, /raw"):
        open_volume(path)


@pytest.mark.parametrize("name", ["ct/example_ct", "ct/example_ct_sm", "ct/example_ct_sm_seg", "mri/MR_Gd"])
def test_nifti_equals_nibabel(shared_data: Path, name: str) -> None:
    image = nibabel.load(shared_data / f"{name}.nii.gz")
    with open_volume(shared_data / f"{name}.nii.gz") as volume:
        voxels = volume.read(Box.whole(volume.shape))[0]
        np.testing.assert_allclose(voxels, np.asarray(image.dataobj).T, rtol=1e-6)
        assert volume.voxel_size == pytest.approx(tuple(float(n) for n in image.header.get_zooms()[::-1]))
        assert volume.unit == "mm"
        np.testing.assert_array_equal(volume.affine, image.affine)
        assert "gzip" in volume.why_expensive


def test_dicom_is_spaced_by_its_positions(shared_data: Path, tmp_path: Path) -> None:
    with open_volume(shared_data / "ct" / "dicom") as volume:
        assert volume.shape == (20, 512, 512)
        assert (volume.voxel_size, volume.unit) == ((2.0, 0.9765625, 0.9765625), "mm")
        assert volume.dtype == np.int16
        voxels = volume.read(Box.whole(volume.shape))[0]
        assert voxels.min() == -1024 and 1000 < voxels.max() < 3072
        convert(volume, tmp_path / "a.ome.zarr")
    with open_volume(tmp_path / "a.ome.zarr") as copy:
        assert copy.voxel_size == (2.0, 0.9765625, 0.9765625) and copy.unit == "mm"
        np.testing.assert_array_equal(copy.read(Box.whole(copy.shape))[0], voxels)


def test_cells_in_planes(shared_data: Path) -> None:
    files = sorted((shared_data / "cells3d").glob("*.tif"))
    expected = np.stack([tifffile.imread(file) for file in files])
    np.testing.assert_array_equal(read(shared_data / "cells3d")[0], expected)
    np.testing.assert_array_equal(read(f"{shared_data}/cells3d/*.tif")[0], expected)


def test_nuclei_in_compressed_strips(shared_data: Path) -> None:
    path = shared_data / "nuclei3d" / "img3d.tif"
    np.testing.assert_array_equal(read(path)[0], tifffile.imread(path))


def test_an_xray_and_a_slide(shared_data: Path) -> None:
    with open_volume(shared_data / "xray" / "00000211_000.png") as volume:
        assert volume.shape == (1, 1024, 1024)
    with open_volume(shared_data / "slides" / "cmu_small_region.svs") as volume:
        assert (volume.shape, volume.channels) == ((1, 2967, 2220), 3)
        assert volume.voxel_size_um[1:] == pytest.approx((0.499, 0.499))
        box = Box((0, 1000, 1100), (1, 1300, 1500))
        expected = tifffile.imread(shared_data / "slides" / "cmu_small_region.svs")[1000:1300, 1100:1500]
        np.testing.assert_array_equal(volume.read(box)[:, 0], np.moveaxis(expected, -1, 0))
    with pytest.raises(BrokenFile):
        open_volume(shared_data / "slides" / "broken.svs")
