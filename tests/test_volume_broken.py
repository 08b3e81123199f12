"""Files cut at random places: an error of ours, or the truth, never anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from test_volume_dicom import EVEN, write_series

from medhpc.errors import MedhpcError
from medhpc.geometry import Box
from medhpc.volume import create_volume, open_volume

VOXELS = np.random.default_rng(0).integers(0, 60000, (9, 40, 50)).astype(np.uint16)
CUTS = 20


def ours(name: str):
    def make(folder: Path) -> Path:
        with create_volume(folder / name, VOXELS.shape, VOXELS.dtype) as writer:
            writer.write(0, VOXELS)
        return folder / name

    return make


def tiff(**options: object):
    def make(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", VOXELS, photometric="minisblack", **options)
        return folder / "a.tif"

    return make


def png(folder: Path) -> Path:
    (folder / "a.png").write_bytes(imagecodecs.png_encode(VOXELS[0]))
    return folder / "a.png"


def jpeg(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(VOXELS[0].astype(np.uint8)))
    return folder / "a.jpg"


def zarr2(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=VOXELS, chunks=(5, 20, 30), zarr_format=2)
    return folder / "a.zarr"


def dicom(folder: Path) -> Path:
    write_series(folder / "d", EVEN)
    return folder / "d"


MAKERS = {
    "tiff": tiff(),
    "tiff-plain": tiff(metadata=None),
    "tiff-imagej": tiff(imagej=True),
    "tiff-ome": tiff(ome=True, metadata={"axes": "ZYX"}),
    "tiff-strips": tiff(compression="zlib", metadata=None),
    "tiff-tiles": tiff(compression="lzw", tile=(16, 16)),
    "hdf5": ours("a.h5"),
    "nifti": ours("a.nii"),
    "nifti-gz": ours("a.nii.gz"),
    "ome-zarr": ours("a.ome.zarr"),
    "zarr2": zarr2,
    "png": png,
    "jpeg": jpeg,
    "dicom": dicom,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", MAKERS)
def test_truncated(tmp_path: Path, kind: str) -> None:
    """A file that is cut (of a folder: any one of its files) is refused, or reads as if it were not."""
    path = MAKERS[kind](tmp_path)
    with open_volume(path) as volume:
        whole = volume.read(Box.whole(volume.shape))
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    random = np.random.default_rng(len(kind))
    refused = 0
    for n in range(CUTS):
        file = files[n % len(files)]
        content = file.read_bytes()
        file.write_bytes(content[: int(random.integers(0, len(content)))])
        try:
            with open_volume(path) as volume:
                np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), whole)
        except MedhpcError as error:
            refused += 1
            assert "\n" not in str(error) and str(tmp_path) in str(error)
        file.write_bytes(content)
    assert refused >= CUTS // 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", MAKERS)
def test_flipped_bytes_never_crash(tmp_path: Path, kind: str) -> None:
    """Where the header is damaged, anything may be read, or an error of ours be raised."""
    path = MAKERS[kind](tmp_path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    random = np.random.default_rng(len(kind))
    for n in range(CUTS):
        file = files[n % len(files)]
        content = file.read_bytes()
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 400), 3):
            damaged[place] ^= int(random.integers(1, 256))
        file.write_bytes(damaged)
        try:
            with open_volume(path) as volume:
                volume.read(Box((0, 0, 0), tuple(min(8, n) for n in volume.shape)))
        except MedhpcError as error:
            assert "\n" not in str(error)
        file.write_bytes(content)


def test_a_zarr_without_metadata(tmp_path: Path) -> None:
    path = ours("a.ome.zarr")(tmp_path)
    shutil.rmtree(path / "0")
    with pytest.raises(MedhpcError, match="a.ome.zarr"):
        open_volume(path)
