"""Zarr of both versions, OME-Zarr of both, and the pyramid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.errors import BadOption, BrokenFile, NotAVolume
from medhpc.geometry import Box
from medhpc.volume import build_pyramid, create_ome_zarr, create_volume, open_volume
from medhpc.volume.chunking import chunks_and_shards
from medhpc.volume.ome_zarr import mean_of
from medhpc.volume.zarr import chunk_file

VOXELS = np.random.default_rng(0).integers(0, 60000, (20, 30, 40)).astype(np.uint16)
BOX = Box((1, 3, 4), (15, 29, 37))


@pytest.mark.parametrize(
    "options", [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": (16, 32, 32)}, {"dtype": ">u2"}]
)
def test_plain_arrays(tmp_path: Path, options: dict) -> None:
    options = {"dtype": "u2", **options}
    array = zarr.create_array(tmp_path / "a.zarr", shape=VOXELS.shape, chunks=(8, 16, 16), **options)
    array[:] = VOXELS
    with open_volume(tmp_path / "a.zarr") as volume:
        assert volume.chunks == (8, 16, 16)
        assert volume.dtype.isnative
        np.testing.assert_array_equal(volume.read(BOX)[0], VOXELS[BOX.slices])
        before = volume.fingerprint()
    array[5, 5, 5] = 1
    with open_volume(tmp_path / "a.zarr") as volume:
        assert volume.fingerprint() != before
    with pytest.raises(BadOption, match="level 1 of a Zarr array without a pyramid"):
        open_volume(tmp_path / "a.zarr", level=1)


def test_one_large_chunk_is_expensive(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(512, 512, 512), chunks=(512, 512, 512), dtype="u2")
    with open_volume(tmp_path / "a.zarr") as volume:
        assert volume.why_expensive == "chunks of 512 x 512 x 512, each decoded whole"


@pytest.mark.parametrize("chunks", [{"chunks": (4, 8, 8)}, {"chunks": (4, 8, 8), "shards": (8, 8, 8)}])
def test_an_empty_file_is_not_taken_for_zeros(tmp_path: Path, chunks: dict) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(16, 8, 8), dtype="u2", **chunks)
    array[:] = 5
    chunk_file(array, (0, 0, 0)).write_bytes(b"")
    with open_volume(tmp_path / "a.zarr") as volume:
        with pytest.raises(BrokenFile):
            volume.read(Box.whole(volume.shape))
        assert (volume.read(Box((8, 0, 0), (16, 8, 8))) == 5).all()


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_without_voxels_are_one_line(tmp_path: Path, version: int) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 8, 8), chunks=(4, 8, 8), dtype="u2", zarr_format=version)
    metadata = tmp_path / "a.zarr" / ("zarr.json" if version == 3 else ".zarray")
    metadata.write_text(re.sub(r"\[\s*4,", "[0,", metadata.read_text()))
    with pytest.raises(BrokenFile, match="chunks of 0 x 8 x 8 voxels"):
        open_volume(tmp_path / "a.zarr")


def test_groups(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("raw", data=VOXELS)
    with open_volume(tmp_path / "a.zarr") as volume:
        np.testing.assert_array_equal(volume.read(BOX)[0], VOXELS[BOX.slices])
    group.create_array("labels", data=VOXELS)
    with pytest.raises(NotAVolume, match="it holds labels, raw"):
        open_volume(tmp_path / "a.zarr")
    with open_volume(tmp_path / "a.zarr" / "labels") as volume:
        assert volume.shape == VOXELS.shape


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_others(tmp_path: Path, version: str) -> None:
    """Axes t c z y x, units in nanometres, a scale for the whole image; 0.4 in Zarr v2, 0.5 in v3."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in range(2):
        data = VOXELS[np.newaxis, np.newaxis, ..., :: 2**level]
        group.create_array(str(level), data=np.concatenate([data, data], axis=1), chunks=(1, 1, 8, 8, 8))
        scale = {"type": "scale", "scale": [1, 1, 300, 50, 25 * 2**level]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    whole = [{"type": "scale", "scale": [1, 1, 10, 10, 10]}]
    multiscales = [{"axes": axes, "datasets": datasets, "coordinateTransformations": whole, "version": version}]
    ome = {"version": version, "multiscales": multiscales}
    group.attrs.update({"multiscales": multiscales} if version == "0.4" else {"ome": ome})
    with open_volume(tmp_path / "a.zarr", level=1, channel=1) as volume:
        assert volume.format == f"OME-Zarr {version}"
        assert volume.levels == 2
        assert (volume.voxel_size, volume.unit) == ((3, 0.5, 0.5), "um")
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], VOXELS[..., ::2])
    with pytest.raises(BadOption, match="level 2, expected 0 to 1"):
        open_volume(tmp_path / "a.zarr", level=2)


def test_levels_grow_into_cubes(tmp_path: Path) -> None:
    options = {"voxel_size": (5, 2, 2), "unit": "um", "levels": 4, "chunks": (8, 8, 8), "shards": (16, 16, 16)}
    with create_volume(tmp_path / "a.ome.zarr", VOXELS.shape, VOXELS.dtype, **options) as writer:
        writer.write(0, VOXELS)
    sizes, shapes = [], []
    for level in range(4):
        with open_volume(tmp_path / "a.ome.zarr", level=level) as volume:
            sizes.append(volume.voxel_size)
            shapes.append(volume.shape)
    assert sizes == [(5, 2, 2), (5, 4, 4), (10, 8, 8), (20, 16, 16)]
    assert shapes == [(20, 30, 40), (20, 15, 20), (10, 8, 10), (5, 4, 5)]


def test_the_metadata(tmp_path: Path) -> None:
    group = create_ome_zarr(
        tmp_path / "cells.ome.zarr", (8, 9, 10), np.dtype("u1"), channels=2, voxel_size=(2, 1, 1), unit="mm", levels=2
    )
    assert dict(group.attrs)["ome"] == {
        "version": "0.5",
        "multiscales": [
            {
                "name": "cells",
                "type": "mean",
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "z", "type": "space", "unit": "millimeter"},
                    {"name": "y", "type": "space", "unit": "millimeter"},
                    {"name": "x", "type": "space", "unit": "millimeter"},
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 2, 1, 1]}],
                    },
                    {
                        "path": "1",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [1.0, 2, 2, 2]},
                            {"type": "translation", "translation": [0.0, 0, 0.5, 0.5]},
                        ],
                    },
                ],
            }
        ],
    }
    with pytest.raises(BadOption, match="a Zarr is there already"):
        create_ome_zarr(tmp_path / "cells.ome.zarr", (8, 9, 10), np.dtype("u1"))


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("channels", [0, 2])
def test_the_pyramid_and_its_resumption(tmp_path: Path, labels: bool, channels: int) -> None:
    full = np.stack([VOXELS, VOXELS[::-1]]) if channels else VOXELS
    shape = (20, 30, 40)
    group = create_ome_zarr(
        tmp_path / "a.zarr", shape, full.dtype, channels=channels, levels=3, chunks=(4, 4, 4), shards=(8, 8, 8)
    )
    group["0"][:] = full
    steps: list[tuple[int, int]] = []
    build_pyramid(group, labels=labels, progress=lambda *step: steps.append(step))
    factor = (1, 2, 2, 2)[-full.ndim :]
    for level in ("1", "2"):
        full = full[tuple(slice(None, None, f) for f in factor)] if labels else mean_of(full, factor)
        np.testing.assert_array_equal(group[level][:], full)
    assert steps[-1][0] == steps[-1][1] == len(steps)
    shards = sorted((tmp_path / "a.zarr" / "2").rglob("c/**/*"))
    shards = [path for path in shards if path.is_file()]
    kept = shards[0].stat().st_mtime_ns
    shards[-1].unlink()
    steps.clear()
    build_pyramid(group, labels=labels, progress=lambda *step: steps.append(step))
    assert shards[-1].exists()
    assert shards[0].stat().st_mtime_ns == kept
    np.testing.assert_array_equal(group["2"][:], full)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(["u1", "i2", "u4", "f2", "f4", "f8"]))
def test_mean_of_cells(shape: tuple[int, int, int], dtype: str) -> None:
    block = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    padded = np.pad(block.astype(float), [(0, n % 2) for n in shape], mode="edge")
    z, y, x = (n // 2 for n in padded.shape)
    expected = padded.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))
    mean = mean_of(block, (2, 2, 2))
    assert mean.dtype == block.dtype
    np.testing.assert_allclose(mean, np.rint(expected) if dtype[0] in "iu" else expected, rtol=1e-3)


@settings(max_examples=200)
@given(st.tuples(*[st.integers(1, 3000)] * 3), st.integers(1, 16))
def test_shards_are_whole_chunks_and_slabs_fit_into_memory(shape: tuple[int, int, int], voxel_bytes: int) -> None:
    plane_bytes = shape[1] * shape[2] * voxel_bytes
    chunk, shard = chunks_and_shards(shape, plane_bytes)
    assert all(s % c == 0 and c <= n for c, s, n in zip(chunk, shard, shape, strict=True))
    assert shard[0] * plane_bytes <= max(2**30, plane_bytes)


def test_shards_by_hand() -> None:
    assert chunks_and_shards((999, 999, 999), 1, shards=(128, 96, 33)) == ((64, 48, 33), (128, 96, 33))
    assert chunks_and_shards((999, 999, 999), 1, chunks=(8, 8, 8)) == ((8, 8, 8), (16, 16, 16))
    with pytest.raises(BadOption, match="not a whole number of chunks"):
        chunks_and_shards((999, 999, 999), 1, chunks=(60, 60, 60), shards=(64, 64, 64))


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    from medhpc.errors import BrokenFile

    with create_volume(tmp_path / "a.zarr", VOXELS.shape, VOXELS.dtype, levels=1) as writer:
        writer.write(0, VOXELS)
    shard = next(path for path in (tmp_path / "a.zarr" / "0").rglob("c/**/*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with open_volume(tmp_path / "a.zarr") as volume, pytest.raises(BrokenFile):
        volume.read(Box.whole(volume.shape))
