"""Colours: what is red, green and blue in a file is so again in the file that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from medhpc.errors import BadOption, BrokenFile, UnknownFormat
from medhpc.geometry import Box
from medhpc.volume import check_holds, check_writable, convert, create_volume, open_volume


def colours(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """Pixels beside each other: (..., y, x, colours)."""
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def write(path: Path, pixels: np.ndarray) -> Path:
    """By the libraries that others write with."""
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    elif path.suffix == ".jpg":
        path.write_bytes(imagecodecs.jpeg8_encode(pixels, 100))
    else:
        extra = ["unassalpha"] if pixels.shape[-1] == 4 else None
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=extra, metadata=None)
    return path


def voxels_of(path: Path) -> tuple[np.ndarray, bool]:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape)), volume.are_colours


@pytest.mark.parametrize("start", [".png", ".tif"])
@pytest.mark.parametrize("end", [".png", ".tif"])
@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_travel_from_any_format_to_any(tmp_path: Path, start: str, end: str, count: int, dtype: type) -> None:
    pixels = colours((20, 30, count), dtype)
    with open_volume(write(tmp_path / f"a{start}", pixels)) as volume:
        assert volume.are_colours and volume.channels == count
        convert(volume, tmp_path / f"b{end}")
    voxels, are_colours = voxels_of(tmp_path / f"b{end}")
    assert are_colours and voxels.dtype == dtype
    np.testing.assert_array_equal(voxels[:, 0], np.moveaxis(pixels, -1, 0))
    if end == ".png":
        np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "b.png").read_bytes()), pixels)
    else:
        with tifffile.TiffFile(tmp_path / "b.tif") as tif:
            assert tif.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
            np.testing.assert_array_equal(tif.asarray(), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_stack_in_colour_is_one_again(tmp_path: Path, dtype: type) -> None:
    pixels = colours((5, 20, 30, 3), dtype)
    with open_volume(write(tmp_path / "a.tif", pixels)) as volume:
        convert(volume, tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), pixels)
    assert voxels_of(tmp_path / "b.tif")[1]


def test_jpeg_is_in_colour_or_grey(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    pixels = np.stack([smooth, smooth[::-1], smooth], -1)
    voxels, are_colours = voxels_of(write(tmp_path / "a.jpg", pixels))
    assert are_colours and np.abs(voxels[:, 0].astype(int) - np.moveaxis(pixels, -1, 0)).max() < 30
    voxels, are_colours = voxels_of(write(tmp_path / "b.jpg", smooth))
    assert not are_colours and np.abs(voxels[0, 0].astype(int) - smooth).max() < 6


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_jpeg_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    content = write(tmp_path / "a.jpg", colours((40, 50, 3))).read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BrokenFile, match="a.jpg"):
        open_volume(tmp_path / "a.jpg")


def test_channels_that_are_no_colours_stay_channels(tmp_path: Path) -> None:
    values = colours((3, 1, 20, 30))
    with create_volume(tmp_path / "a.tif", (1, 20, 30), np.uint8, channels=3) as writer:
        writer.write(0, values)
    assert not voxels_of(tmp_path / "a.tif")[1]
    with open_volume(write(tmp_path / "b.png", colours((20, 30, 3))), channel=1) as volume:
        assert not volume.are_colours


def test_what_png_cannot_hold_is_refused_before_it_is_made(tmp_path: Path) -> None:
    for shape, dtype, channels, line in (
        ((2, 20, 30), np.uint8, 0, "2 planes"),
        ((1, 20, 30), np.float32, 0, "float32"),
        ((1, 20, 30), np.uint8, 3, "3 channels"),
    ):
        with pytest.raises(BadOption, match=f"PNG for {line}, expected one plane.*choose .tif"):
            check_holds(tmp_path / "a.png", shape, dtype, channels=channels, are_colours=False)
        with pytest.raises(BadOption, match=f"a.png: PNG for {line}"):
            create_volume(tmp_path / "a.png", shape, dtype, channels=channels)
    with pytest.raises(BadOption, match="one voxel wide"):
        check_holds(tmp_path / "a.tif", (5, 6, 1), np.uint8, are_colours=False)
    with pytest.raises(UnknownFormat, match="cannot write '.png'"):
        check_writable(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
