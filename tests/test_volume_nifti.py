"""The header of a NIfTI file, in the file that is made of it: what still holds is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medhpc.dip.files import cast, create_like
from medhpc.dip.image import open_image
from medhpc.geometry import Box
from medhpc.volume import convert, open_volume

TURNED = np.array([[-2.0, 0, 0, 90], [0, 0, 3, -20], [0, 1.5, 0, 5], [0, 0, 0, 1]])
KEPT = ("descrip", "aux_file", "cal_max", "cal_min", "dim_info", "xyzt_units", "toffset", "qform_code", "sform_code")
ORDER = ("slice_code", "slice_start", "slice_end", "slice_duration")


def header_of(kind: Any = nibabel.Nifti1Header) -> Any:
    header = kind()
    header.set_data_dtype(np.int16)
    header["descrip"], header["aux_file"] = b"TE=2.3;scanner 4", b"none"
    header["cal_max"], header["toffset"], header["slice_duration"] = 812.5, 3.0, 0.07
    header.set_dim_info(0, 1, 2)
    header["slice_end"], header["slice_code"] = 9, 3
    header.set_xyzt_units("mm", "msec")
    return header


def store(
    path: Path, shape: tuple[int, ...], *, qform: int = 1, sform: int = 2, kind: Any = nibabel.Nifti1Image
) -> Any:
    """A file of (t, z, y, x), its two transforms not the same."""
    values = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    image = kind(values.T, None, header_of(kind.header_class))
    image.header.set_zooms((2.0, 1.5, 3.0, 2200.0)[: len(shape)])
    shifted = TURNED.copy()
    shifted[:3, 3] += 0.5
    image.set_qform(TURNED, qform)
    image.set_sform(shifted, sform)
    nibabel.save(image, path)
    return nibabel.load(path)


def write_like(path: Path, source: Path, factor: int = 1) -> None:
    """As a result of `dip` is written."""
    image = open_image(source)
    with create_like(path, image, factor) as writer:
        voxels = image.whole()
        voxels = voxels.repeat(factor, 1).repeat(factor, 2).repeat(factor, 3)
        writer.write(0, cast(voxels, writer.dtype))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 2), (1, 0), (0, 4), (0, 0)])
def test_a_header_travels(tmp_path: Path, codes: tuple[int, int], kind: Any) -> None:
    before = store(tmp_path / "a.nii", (10, 8, 7), qform=codes[0], sform=codes[1], kind=kind).header
    with open_volume(tmp_path / "a.nii") as volume:
        convert(volume, tmp_path / "b.nii.gz")
    copy = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(copy.dataobj), np.asarray(nibabel.load(tmp_path / "a.nii").dataobj))
    for name in (*(KEPT if any(codes) else KEPT[:-2]), *ORDER):
        assert copy.header[name] == before[name], name
    if any(codes):
        np.testing.assert_allclose(copy.get_qform(), nibabel.load(tmp_path / "a.nii").get_qform(), atol=1e-5)
        np.testing.assert_allclose(copy.get_sform(), nibabel.load(tmp_path / "a.nii").get_sform(), atol=1e-5)
    assert copy.header.get_zooms() == before.get_zooms()


def test_a_series_is_one_with_its_step_and_unit(tmp_path: Path) -> None:
    before = store(tmp_path / "a.nii.gz", (4, 10, 8, 7)).header
    write_like(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz")
    after = nibabel.load(tmp_path / "b.nii.gz").header
    for name in (*KEPT, *ORDER):
        assert after[name] == before[name], name
    assert after.get_zooms() == before.get_zooms() and after.get_xyzt_units() == ("mm", "msec")
    assert after.get_data_shape() == before.get_data_shape() and after.get_data_dtype() == np.int16


def test_both_transforms_move_with_a_region_and_a_finer_grid(tmp_path: Path) -> None:
    before = store(tmp_path / "a.nii", (10, 8, 7))
    with open_volume(tmp_path / "a.nii") as volume:
        convert(volume, tmp_path / "b.nii", region=Box((1, 2, 3), (9, 8, 7)))
    write_like(tmp_path / "c.nii", tmp_path / "a.nii", factor=2)
    for name, here, there in (("b.nii", (0, 0, 0), (3, 2, 1)), ("c.nii", (0.5, 0.5, 0.5), (0, 0, 0))):
        after = nibabel.load(tmp_path / name)
        for one, other in ((after.get_qform(), before.get_qform()), (after.get_sform(), before.get_sform())):
            np.testing.assert_allclose(one @ [*here, 1], other @ [*there, 1], atol=1e-4)
        assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (1, 2)
        assert after.header["slice_code"] == 0 and after.header["descrip"] == before.header["descrip"]
    assert nibabel.load(tmp_path / "c.nii").header.get_zooms() == (1.0, 0.75, 1.5)


def test_scaled_integers_are_physical_values_in_floats(tmp_path: Path) -> None:
    """What a fit finds is no multiple of the slope."""
    image = store(tmp_path / "a.nii", (10, 8, 7))
    with open(tmp_path / "a.nii", "r+b") as file:
        file.seek(112)
        file.write(np.array([0.25, -3.0], "<f4").tobytes())
    write_like(tmp_path / "b.nii", tmp_path / "a.nii")
    after = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(np.asarray(after.dataobj).T, np.asarray(image.dataobj).T * 0.25 - 3)
    assert after.get_data_dtype() == np.float32 and after.header["descrip"] == b"TE=2.3;scanner 4"
