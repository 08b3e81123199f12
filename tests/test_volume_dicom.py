"""DICOM: slices in files, ordered and spaced by their positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medhpc.errors import NotAVolume, SeveralSeries
from medhpc.geometry import Box
from medhpc.volume import convert, open_volume

VOXELS = np.random.default_rng(0).integers(0, 4096, (6, 10, 12)).astype(np.uint16)
SERIES = generate_uid()


def write_slice(path: Path, plane: np.ndarray, z: float, **tags: object) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = SERIES
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.SliceThickness = 3
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, -20, z]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = plane.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def write_series(folder: Path, positions: list[float], **tags: object) -> None:
    """Slices whose names are in another order than their positions."""
    folder.mkdir(exist_ok=True)
    for n, z in enumerate(positions):
        write_slice(folder / f"{(n * 5) % 7}_{n}", VOXELS[n], z, **tags)


EVEN = [2.0 * n for n in range(6)]


def test_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN)
    (tmp_path / "d" / "readme.txt").write_text("not a slice")
    with open_volume(tmp_path / "d") as volume:
        assert (volume.voxel_size, volume.unit) == ((2.0, 0.5, 0.25), "mm")
        assert volume.dtype == np.int16
        assert not volume.boxes_are_cheap
        box = Box((1, 2, 3), (5, 9, 11))
        np.testing.assert_array_equal(volume.read(box)[0], VOXELS[box.slices].astype(np.int16) - 1024)
        np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [10, 20, 0, 1])
        convert(volume, tmp_path / "a.nii.gz")
        expected = volume.affine
    with open_volume(tmp_path / "a.nii.gz") as volume:
        np.testing.assert_allclose(volume.affine, expected)
        assert volume.voxel_size == pytest.approx((2.0, 0.5, 0.25))


def test_slices_in_other_planes(tmp_path: Path) -> None:
    """Coronal slices: the normal is along y, and the position with it."""
    (tmp_path / "d").mkdir()
    for n in range(4):
        tags = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImagePositionPatient": [0, 1.5 * n, 0]}
        write_slice(tmp_path / "d" / str(9 - n), VOXELS[n], 0, **tags)
    with open_volume(tmp_path / "d") as volume:
        assert volume.voxel_size == (1.5, 0.5, 0.25)
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], VOXELS[:4].astype(int) - 1024)


def test_slope_that_is_no_whole_number(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN, RescaleSlope="0.5")
    with open_volume(tmp_path / "d") as volume:
        assert volume.dtype == np.float32
        np.testing.assert_allclose(volume.read(Box.whole(volume.shape))[0], VOXELS * 0.5 - 1024)


def test_missing_and_doubled_slices(tmp_path: Path) -> None:
    for positions, message in (
        ([0, 2, 4, 8, 10, 12], r"not evenly spaced \(2 mm, but 4 mm after"),
        ([0, 2, 4, 4, 6, 8], "not evenly spaced"),
        ([0, 0, 0, 0, 0, 0], "several at one place"),
    ):
        write_series(tmp_path / "d", positions)
        with pytest.raises(SeveralSeries, match=message) as caught:
            open_volume(tmp_path / "d")
        assert "\n" not in str(caught.value)


def test_two_series_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN, SeriesNumber=3, SeriesDescription="thorax")
    write_slice(tmp_path / "d" / "scout", VOXELS[0], 0, SeriesInstanceUID=generate_uid(), SeriesNumber=1)
    with pytest.raises(SeveralSeries, match=r"2 DICOM series.*number 3 \(thorax, 6 slices.*number 1 "):
        open_volume(tmp_path / "d")


def test_reports_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN)
    report = pydicom.dcmread(next((tmp_path / "d").iterdir()))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.save_as(tmp_path / "d" / "report.dcm")
    with open_volume(tmp_path / "d") as volume:
        assert volume.shape == (6, 10, 12)


def test_slices_of_another_size(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN)
    write_slice(tmp_path / "d" / "odd", VOXELS[0, :5], 12)
    with pytest.raises(SeveralSeries, match="differ in size, spacing or orientation"):
        open_volume(tmp_path / "d")


def test_colour_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "d", EVEN, SamplesPerPixel=3)
    with pytest.raises(NotAVolume, match="in colour"):
        open_volume(tmp_path / "d")


def test_jpeg2000(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    large = VOXELS.repeat(8, axis=1).repeat(8, axis=2)
    for n, z in enumerate(EVEN):
        write_slice(tmp_path / "plain", large[n], z)
        dataset = pydicom.dcmread(tmp_path / "plain")
        dataset.compress(pydicom.uid.JPEG2000Lossless, encoding_plugin="pylibjpeg")
        dataset.save_as(tmp_path / "d" / str(n))
    with open_volume(tmp_path / "d") as volume:
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], large.astype(int) - 1024)
