"""TIFF in its many dresses, planes in folders, PNG."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from medhpc.errors import BadOption, BrokenFile, NotAVolume
from medhpc.geometry import Box
from medhpc.volume import open_volume

VOXELS = np.random.default_rng(0).integers(0, 60000, (5, 20, 30)).astype(np.uint16)
COLOUR = np.random.default_rng(1).integers(0, 255, (5, 20, 30, 3)).astype(np.uint8)
BOX = Box((1, 3, 4), (5, 19, 27))


def read(path: Path | str) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))


@pytest.mark.parametrize(
    ("options", "cheap"),
    [
        ({}, True),
        ({"metadata": None}, True),
        ({"bigtiff": True}, True),
        ({"byteorder": ">"}, True),
        ({"imagej": True, "metadata": {"axes": "ZYX"}}, True),
        ({"ome": True, "metadata": {"axes": "ZYX"}}, True),
        ({"rowsperstrip": 7}, True),
        ({"tile": (16, 16)}, True),
        ({"tile": (16, 16), "compression": "zlib"}, True),
        ({"tile": (16, 16, 16), "compression": "zlib", "volumetric": True}, True),
        ({"compression": "zlib", "rowsperstrip": 7}, False),
        ({"compression": "lzw", "predictor": True}, False),
        ({"compression": "zstd"}, False),
        ({"compression": "zlib", "byteorder": ">", "predictor": True}, False),
    ],
)
def test_kinds_of_tiff(tmp_path: Path, options: dict, cheap: bool) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric="minisblack", **options)
    with open_volume(tmp_path / "a.tif") as volume:
        assert volume.shape == (5, 20, 30)
        assert volume.dtype == np.uint16
        assert volume.boxes_are_cheap is cheap
        assert bool(volume.why_expensive) is not cheap
        np.testing.assert_array_equal(volume.read(BOX)[0], VOXELS[BOX.slices])
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], VOXELS)


def test_pages_that_do_not_follow_each_other(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for plane in VOXELS:
            tif.write(plane, metadata=None, contiguous=False)
    with open_volume(tmp_path / "a.tif") as volume:
        assert volume.boxes_are_cheap and volume.chunks is None
        np.testing.assert_array_equal(volume.read(BOX)[0], VOXELS[BOX.slices])


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_colour(tmp_path: Path, separate: bool, compression: str | None, tile: tuple[int, int] | None) -> None:
    image = np.moveaxis(COLOUR, -1, 1) if separate else COLOUR
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="rgb",
        planarconfig="separate" if separate else "contig",
        compression=compression,
        tile=tile,
    )
    with open_volume(tmp_path / "a.tif") as volume:
        assert (volume.axes, volume.channels, volume.shape) == ("CZYX", 3, (5, 20, 30))
        np.testing.assert_array_equal(volume.read(BOX), np.moveaxis(COLOUR, -1, 0)[(slice(None), *BOX.slices)])
    with open_volume(tmp_path / "a.tif", channel=2) as volume:
        np.testing.assert_array_equal(volume.read(BOX)[0], COLOUR[..., 2][BOX.slices])


def test_one_plane_in_colour(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR[0], photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[:, 0], np.moveaxis(COLOUR[0], -1, 0))


def test_jpeg_compression(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, compression="jpeg", tile=(32, 32))
    assert np.abs(read(tmp_path / "a.tif")[0, 0].astype(int) - smooth).max() < 12


def test_bits_and_trailing_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bits.tif", VOXELS > 30000)
    np.testing.assert_array_equal(read(tmp_path / "bits.tif")[0], VOXELS > 30000)
    tifffile.imwrite(tmp_path / "trailing.tif", VOXELS[..., np.newaxis], photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "trailing.tif")[0], VOXELS)


@pytest.mark.parametrize(("unit", "expected"), [("um", 1), ("\\u00B5m", 1), ("micron", 1), ("nm", 1e-3), ("mm", 1e3)])
def test_imagej_hyperstack(tmp_path: Path, unit: str, expected: float) -> None:
    stack = np.stack([VOXELS, VOXELS[::-1]], axis=1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "ZCYX", "spacing": 3.0, "unit": unit},
    )
    with open_volume(tmp_path / "a.tif") as volume:
        assert volume.format == "ImageJ TIFF"
        assert volume.voxel_size_um == pytest.approx((3 * expected, 0.5 * expected, 0.25 * expected))
        assert volume.unit == ("mm" if unit == "mm" else "um")
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), stack.swapaxes(0, 1))


def test_ome(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeZ": 3}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([VOXELS, VOXELS]), metadata={"axes": "CZYX", **sizes})
    with open_volume(tmp_path / "a.ome.tif") as volume:
        assert volume.format == "OME-TIFF" and volume.channels == 2
        assert (volume.voxel_size, volume.unit) == ((3, 0.5, 0.25), "um")


def test_resolution_tags(tmp_path: Path) -> None:
    for unit, expected in (("CENTIMETER", (50, 50, 25)), ("INCH", None)):
        tifffile.imwrite(tmp_path / "a.tif", VOXELS[0], resolution=(400, 200), resolutionunit=unit)
        with open_volume(tmp_path / "a.tif") as volume:
            assert volume.voxel_size_um == (expected and pytest.approx(expected))


def test_pixels_per_inch_count_where_no_printer_prints_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS[0], resolution=(50800, 25400), resolutionunit="INCH")
    with open_volume(tmp_path / "a.tif") as volume:
        assert (volume.voxel_size, volume.unit) == (pytest.approx((1, 1, 0.5)), "um")


def test_the_pixels_of_an_aperio_slide(tmp_path: Path) -> None:
    slide = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
    about = (
        "Aperio Image Library v11.2.1 \n320x256 [0,0 320x256] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Left = 1"
    )
    tiles = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        tif.write(slide, description=about, **tiles)
        tif.write(slide[::8, ::8], photometric="rgb", description="Aperio thumbnail", metadata=None)
        tif.write(slide[::4, ::4], description="Aperio level", **tiles)
    for level, size in ((0, 0.499), (1, 4 * 0.499)):
        with open_volume(tmp_path / "a.svs", level=level) as volume:
            assert volume.format.startswith("Aperio SVS") and volume.levels == 2 and volume.unit == "um"
            assert volume.voxel_size == pytest.approx((0.499, size, size))


def test_time_series_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(NotAVolume, match="a time series of 5 frames.*swap the two axes"):
        open_volume(tmp_path / "a.tif")


def test_levels_of_a_pyramid(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        metadata = {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 3}
        tif.write(VOXELS, subifds=1, tile=(16, 16), metadata=metadata)
        tif.write(VOXELS[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    with open_volume(tmp_path / "a.ome.tif", level=1) as volume:
        assert volume.levels == 2
        assert volume.voxel_size == (3, 2, 2)
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], VOXELS[:, ::2, ::2])
    with pytest.raises(BadOption, match="level 2, expected 0 to 1"):
        open_volume(tmp_path / "a.ome.tif", level=2)


def test_missing_pages_are_noticed(tmp_path: Path) -> None:
    """A reader that stops where the chain of pages ends would show fewer planes."""
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, metadata=None, photometric="minisblack", compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        third = tif.pages[3].offset
    (tmp_path / "a.tif").write_bytes(whole[: third - 10])
    with pytest.raises(BrokenFile, match="cut short"):
        open_volume(tmp_path / "a.tif")


def write_planes(folder: Path, names: list[str], **options: object) -> None:
    folder.mkdir()
    for name, plane in zip(names, VOXELS, strict=True):
        tifffile.imwrite(folder / name, plane, **options)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}, {"ome": True}])
def test_a_folder_of_planes(tmp_path: Path, options: dict) -> None:
    write_planes(tmp_path / "p", ["z1.tif", "z2.tif", "z3.tif", "z10.tif", "z20.tif"], **options)
    (tmp_path / "p" / "notes.txt").touch()
    for path in (tmp_path / "p", f"{tmp_path}/p/*.tif"):
        with open_volume(path) as volume:
            assert volume.shape == (5, 20, 30)
            assert volume.boxes_are_cheap is ("compression" not in options)
            np.testing.assert_array_equal(volume.read(BOX)[0], VOXELS[BOX.slices])
            before = volume.fingerprint()
    with open_volume(f"{tmp_path}/p/z?.tif") as volume:
        assert volume.shape == (3, 20, 30)
        assert volume.fingerprint() != before


def test_planes_that_do_not_fit(tmp_path: Path) -> None:
    write_planes(tmp_path / "p", [f"{z}.tif" for z in range(5)])
    tifffile.imwrite(tmp_path / "p" / "3.tif", VOXELS[0].astype(np.float32))
    with open_volume(tmp_path / "p") as volume, pytest.raises(BrokenFile, match="3.tif: a plane of .*float32"):
        volume.read(Box.whole(volume.shape))
    tifffile.imwrite(tmp_path / "p" / "3.tif", VOXELS[0, :10])
    with pytest.raises(NotAVolume, match="5 pictures of different sizes.* 0.tif has 20 x 30 pixels, 3.tif 10 x 30"):
        open_volume(tmp_path / "p")
    (tmp_path / "p" / "2.png").write_bytes(imagecodecs.png_encode(VOXELS[0]))
    with pytest.raises(NotAVolume, match="planes of different formats"):
        open_volume(tmp_path / "p")
    tifffile.imwrite(tmp_path / "p" / "0.tif", VOXELS)
    with pytest.raises(NotAVolume, match="0.tif holds 5 planes"):
        open_volume(f"{tmp_path}/p/*.tif")


def test_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(COLOUR[0]))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[:, 0], np.moveaxis(COLOUR[0], -1, 0))
    (tmp_path / "p").mkdir()
    for z, plane in enumerate(VOXELS):
        (tmp_path / "p" / f"{z}.png").write_bytes(imagecodecs.png_encode(plane))
    np.testing.assert_array_equal(read(tmp_path / "p")[0], VOXELS)
    (tmp_path / "p" / "9.png").write_bytes(imagecodecs.png_encode(VOXELS[0, :, :7]))
    with pytest.raises(NotAVolume, match="0.png has 20 x 30 pixels, 9.png 20 x 7"):
        open_volume(tmp_path / "p")
