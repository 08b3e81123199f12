"""What goes into a file comes out of it, box by box, in every format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.cli.main import run_here
from medhpc.errors import (
    BadOption,
    BrokenFile,
    NoPermission,
    NotAVolume,
    UnknownFormat,
    UnsupportedDtype,
    VolumeNotFound,
)
from medhpc.geometry import Box
from medhpc.volume import convert, create_ome_zarr, create_volume, describe, is_volume_path, open_volume
from medhpc.volume.layout import Layout

SUFFIXES = ["a.tif", "a.h5", "a.h5:/group/data", "a.nii", "a.nii.gz", "a.zarr", "a.ome.zarr"]
DTYPES = ["u1", "u2", ">u2", "u4", "u8", "i1", "i2", ">i4", "i8", "f2", "f4", ">f8", "?"]


def voxels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, shape)
    return numbers.astype(dtype)


def write(path: str | Path, array: np.ndarray, step: int = 3, **options: object) -> None:
    """Write an array (z, y, x) or (c, z, y, x), a few planes at a time."""
    channels = array.shape[0] if array.ndim == 4 else 0
    with create_volume(path, array.shape[-3:], array.dtype, channels=channels, **options) as writer:
        for z in range(0, array.shape[-3], step):
            writer.write(z, array[..., z : z + step, :, :])


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, int, int]) -> Box:
    ends = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SUFFIXES))
    shape = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(2, 70)))
    channels = data.draw(st.sampled_from([0, 1, 2, 5]))
    dtype = data.draw(st.sampled_from(DTYPES))
    array = voxels((channels, *shape) if channels else shape, dtype)
    unit = data.draw(st.sampled_from(["um", "mm"]))
    path = f"{tmp_path_factory.mktemp('v')}/{name}"
    write(path, array, data.draw(st.integers(1, 40)), voxel_size=(3.0, 0.5, 0.25), unit=unit)
    with open_volume(path) as volume:
        assert volume.shape == shape
        assert volume.channels == max(1, channels)
        assert volume.axes == ("CZYX" if channels > 1 else "ZYX")
        assert volume.dtype.isnative
        assert volume.voxel_size_um == pytest.approx([s * (1 if unit == "um" else 1000) for s in (3, 0.5, 0.25)])
        for _ in range(3):
            box = data.draw(boxes(shape))
            block = volume.read(box)
            expected = array.reshape(-1, *shape)[(slice(None), *box.slices)]
            assert block.flags.c_contiguous and block.flags.owndata | (block.base is not None)
            assert block.dtype == volume.dtype
            np.testing.assert_array_equal(block, expected)


@pytest.mark.parametrize("name", SUFFIXES)
def test_unknown_voxel_size_stays_unknown(tmp_path: Path, name: str) -> None:
    write(f"{tmp_path}/{name}", voxels((4, 5, 6), "u1"))
    with open_volume(f"{tmp_path}/{name}") as volume:
        assert (volume.voxel_size, volume.unit, volume.voxel_size_um) == (None, "", None)


@pytest.mark.parametrize("name", SUFFIXES)
def test_one_channel_is_chosen(tmp_path: Path, name: str) -> None:
    array = voxels((3, 4, 5, 6), "u2")
    write(f"{tmp_path}/{name}", array)
    with open_volume(f"{tmp_path}/{name}", channel=1) as volume:
        assert (volume.axes, volume.channels) == ("ZYX", 1)
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), array[1:2])
    with pytest.raises(BadOption, match="channel 3, expected 0 to 2"):
        open_volume(f"{tmp_path}/{name}", channel=3)


@pytest.mark.parametrize("name", SUFFIXES)
def test_threads_read_what_one_reads(tmp_path: Path, name: str) -> None:
    array = voxels((40, 50, 60), "u2")
    write(f"{tmp_path}/{name}", array)
    wrong: list[Box] = []
    with open_volume(f"{tmp_path}/{name}") as volume:

        def read(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(15):
                start = tuple(int(n) for n in random.integers(0, 30, 3))
                box = Box(start, tuple(a + 10 for a in start))
                if not np.array_equal(volume.read(box)[0], array[box.slices]):
                    wrong.append(box)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("name", SUFFIXES)
def test_a_fingerprint_changes_with_the_file(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    array = voxels((4, 5, 6), "u1")
    write(path, array)
    with open_volume(path) as volume:
        first = volume.fingerprint()
        assert volume.fingerprint() == first
    array[2, 2, 2] += 1
    write(path, array)
    with open_volume(path) as volume:
        assert volume.fingerprint() != first


@pytest.mark.parametrize("name", SUFFIXES)
def test_an_exception_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    with pytest.raises(ZeroDivisionError), create_volume(path, (4, 5, 6), "u1") as writer:
        writer.write(0, voxels((2, 5, 6), "u1"))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    array = voxels((4, 5, 6), "u1")
    write(path, array)
    with pytest.raises(BrokenFile, match="only 2 of 9 planes"), create_volume(path, (9, 5, 6), "u1") as writer:
        writer.write(0, voxels((2, 5, 6), "u1"))
    assert len(list(tmp_path.iterdir())) == 1
    with open_volume(path) as volume:
        np.testing.assert_array_equal(volume.read(Box.whole((4, 5, 6)))[0], array)


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "a.tif"
    write(out, voxels((4, 5, 6), "u1"))
    killed = (
        "import os, numpy as np\n"
        "from medhpc.volume import create_volume\n"
        f"writer = create_volume({str(out)!r}, (4, 5, 6), 'u1')\n"
        "writer.write(0, np.ones((2, 5, 6), 'u1'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[1]).returncode == -9
    with open_volume(out) as volume:
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], voxels((4, 5, 6), "u1"))
    assert len(list(tmp_path.iterdir())) == 2
    write(out, voxels((4, 5, 6), "u1"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_other_datasets_of_a_file_are_kept(tmp_path: Path) -> None:
    raw, labels = voxels((4, 5, 6), "u2"), voxels((4, 5, 6), "u4")
    write(f"{tmp_path}/a.h5:/raw", raw)
    write(f"{tmp_path}/a.h5:/labels", raw)
    write(f"{tmp_path}/a.h5:/labels", labels)
    for name, array in (("raw", raw), ("labels", labels)):
        with open_volume(f"{tmp_path}/a.h5:/{name}") as volume:
            np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], array)
    with pytest.raises(NotAVolume, match="2 datasets, name one as in .*a.h5:/raw': /labels, /raw"):
        open_volume(tmp_path / "a.h5")
    with pytest.raises(VolumeNotFound, match="no dataset '/none', it has /labels, /raw"):
        open_volume(f"{tmp_path}/a.h5:/none")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.h5", "a.ome.zarr", "a.tif"])
def test_convert_a_region(tmp_path: Path, name: str) -> None:
    array = voxels((2, 20, 30, 40), "u2")
    write(tmp_path / "in.ome.zarr", array, voxel_size=(3, 1, 1), unit="um")
    steps: list[tuple[int, int]] = []
    with open_volume(tmp_path / "in.ome.zarr") as source:
        region = Box((5, 6, 7), (15, 26, 37))
        convert(source, tmp_path / name, region=region, progress=lambda *step: steps.append(step))
        convert(source, tmp_path / f"mm{name}", voxel_size=(0.5, 0.25, 0.25), unit="mm")
    with open_volume(tmp_path / name) as volume:
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), array[(slice(None), *region.slices)])
        assert volume.voxel_size_um == pytest.approx((3, 1, 1))
    with open_volume(tmp_path / f"mm{name}") as volume:
        assert volume.voxel_size_um == pytest.approx((500, 250, 250))
    assert steps[-1] == (10, 10)


def test_the_affine_travels(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 10], [0.5, 0, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    array = voxels((5, 6, 7), "i2")
    nibabel.save(nibabel.Nifti1Image(array.T, affine), tmp_path / "a.nii")
    with open_volume(tmp_path / "a.nii") as source:
        convert(source, tmp_path / "b.nii.gz", region=Box((1, 2, 3), (5, 6, 7)))
    copy = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(copy.dataobj), array[1:, 2:, 3:].T)
    np.testing.assert_allclose(copy.affine[:, :3], affine[:, :3])
    np.testing.assert_allclose(copy.affine @ [0, 0, 0, 1], affine @ [3, 2, 1, 1])


def test_nifti_slope_and_intercept(tmp_path: Path) -> None:
    stored = voxels((5, 6, 7), "u1")
    for slope, intercept, dtype in ((1.0, -1024.0, "int16"), (0.5, 1.0, "float32")):
        image = nibabel.Nifti1Image(stored.T, np.eye(4))
        image.header.set_slope_inter(slope, intercept)
        image.header.set_xyzt_units("micron")
        image.to_filename(tmp_path / "a.nii")
        with open(tmp_path / "a.nii", "r+b") as file:  # nibabel scales the voxels when it is given slope and intercept
            file.seek(352)
            file.write(stored.tobytes())
        with open_volume(tmp_path / "a.nii") as volume:
            assert volume.dtype == dtype
            assert volume.unit == "um"
            np.testing.assert_allclose(volume.read(Box.whole(volume.shape))[0], stored * slope + intercept)


def test_a_long_axis_makes_nifti2(tmp_path: Path) -> None:
    array = voxels((1, 2, 32768), "u1")
    write(tmp_path / "a.nii", array)
    with open_volume(tmp_path / "a.nii") as volume:
        assert volume.format == "NIfTI-2"
        np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], array)


def test_nifti_time_is_refused_and_channels_are_not(tmp_path: Path) -> None:
    array = voxels((3, 4, 5, 6), "i2")
    image = nibabel.Nifti1Image(array.T, np.eye(4))
    nibabel.save(image, tmp_path / "channels.nii")
    with open_volume(tmp_path / "channels.nii") as volume:
        np.testing.assert_array_equal(volume.read(Box.whole((4, 5, 6))), array)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "time.nii")
    with pytest.raises(NotAVolume, match="time.nii: a time series of 3 volumes.*--channel 0 to 2.*'medhpc dip'"):
        open_volume(tmp_path / "time.nii")
    with open_volume(tmp_path / "time.nii", channel=1) as volume:
        assert volume.axes == "ZYX" and volume.time_step is None
        np.testing.assert_array_equal(volume.read(Box.whole((4, 5, 6)))[0], array[1])


def test_info_describes_a_time_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nibabel.Nifti1Image(voxels((3, 4, 5, 6), "i2").T, np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((1, 1, 1, 2500))
    nibabel.save(image, tmp_path / "time.nii")
    assert run_here(["info", str(tmp_path / "time.nii")]) == 0
    assert "3 volumes of a time series, 2.5 s apart" in capsys.readouterr().out
    assert run_here(["info", str(tmp_path / "time.nii"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["time_step"] == 2.5
    assert run_here(["convert", str(tmp_path / "time.nii"), str(tmp_path / "a.tif")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run_here(["convert", str(tmp_path / "time.nii"), str(tmp_path / "a.tif"), "--channel", "2"]) == 0


@pytest.mark.parametrize(
    ("stored", "shape", "channels"),
    [
        ((2304, 1280, 1024, 1), (2304, 1280, 1024), 1),
        ((1, 30, 20, 10), (30, 20, 10), 1),
        ((1, 1, 30, 20, 10), (30, 20, 10), 1),
        ((20, 10), (1, 20, 10), 1),
        ((20, 10, 1), (1, 20, 10), 1),
        ((1, 20, 10), (1, 20, 10), 1),
        ((3, 30, 20, 10), (30, 20, 10), 3),
        ((30, 20, 10, 3), (30, 20, 10), 3),
    ],
)
def test_axes_without_names(stored: tuple[int, ...], shape: tuple[int, ...], channels: int) -> None:
    layout = Layout.unnamed(stored)
    assert (layout.shape, layout.channels) == (shape, channels)


def test_axes_that_make_no_volume() -> None:
    for stored in ((7,), (2, 3, 4, 5, 6), (4, 0, 3)):
        with pytest.raises(NotAVolume):
            Layout.unnamed(stored)
    with pytest.raises(NotAVolume, match="time series of 5 frames"):
        Layout.named("TZYX", (5, 4, 3, 2))
    with pytest.raises(NotAVolume, match="axes CZYXS"):
        Layout.named("CZYXS", (2, 4, 3, 2, 3))


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "a.txt").write_text("hello")
    np.save(tmp_path / "a.npy", voxels((4, 5, 6), "u1"))
    (tmp_path / "text.tif").write_text("hello, this is no image")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.zarr").mkdir()
    for name, kind in [
        ("none.tif", VolumeNotFound),
        ("*.tiff", VolumeNotFound),
        ("a.pkl", UnknownFormat),
        ("a.txt", UnknownFormat),
        ("a.npy", UnknownFormat),
        ("folder", UnknownFormat),
        ("text.tif", BrokenFile),
        ("empty.tif", BrokenFile),
        ("bad.zarr", BrokenFile),
    ]:
        with pytest.raises(kind) as caught:
            open_volume(tmp_path / name)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["c8", "S3", [("a", "u1"), ("b", "u2")]])
def test_strange_dtypes_are_refused(tmp_path: Path, dtype: object) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((3, 4, 5), dtype))
    with pytest.raises(UnsupportedDtype):
        open_volume(f"{tmp_path}/a.h5:/x")
    with pytest.raises(UnsupportedDtype):
        create_volume(tmp_path / "a.zarr", (3, 4, 5), dtype)


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").touch()
    (tmp_path / "a.tif").mkdir()
    for name in ("a.zarr", "a.tif"):
        with pytest.raises(BadOption, match="will not replace"):
            create_volume(tmp_path / name, (3, 4, 5), "u1")
    with pytest.raises(UnknownFormat, match="cannot write '.npy'"):
        create_volume(tmp_path / "a.npy", (3, 4, 5), "u1")
    with pytest.raises(VolumeNotFound, match="its folder does not exist"):
        create_volume(tmp_path / "none" / "a.tif", (3, 4, 5), "u1")
    with pytest.raises(NotAVolume):
        create_volume(tmp_path / "b.tif", (3, 0, 5), "u1")
    with pytest.raises(NotAVolume, match="an empty array of 3 x 0 x 5"):
        create_ome_zarr(tmp_path / "b.zarr", (3, 0, 5), np.dtype("u1"))


def test_an_array_without_voxels_is_no_volume(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((0, 4, 5), "u1"))
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 0), "u1"), np.eye(4)), tmp_path / "a.nii")
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 4, 5), dtype="u1", chunks=(2, 2, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((0, 4, 5), "u1")
    for name in ("a.tif", "a.nii", "a.zarr", "a.h5"):
        with pytest.raises(NotAVolume, match="an empty array of"):
            open_volume(tmp_path / name)


def test_planes_out_of_order_are_refused(tmp_path: Path) -> None:
    for z0, shape in ((1, (2, 5, 6)), (0, (2, 6, 5)), (0, (5, 5, 6)), (0, (2, 2, 5, 6))):
        with (
            pytest.raises(BadOption, match="expected"),
            create_volume(tmp_path / "a.h5", (4, 5, 6), "u1") as writer,
        ):
            writer.write(z0, np.zeros(shape, "u1"))


def test_boxes_outside_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", voxels((4, 5, 6), "u1"))
    with open_volume(tmp_path / "a.tif") as volume:
        for box in (Box((0, 0, 0), (5, 5, 6)), Box((-1, 0, 0), (1, 1, 1)), Box((2, 2, 2), (2, 3, 3))):
            with pytest.raises(BadOption):
                volume.read(box)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_no_permission(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", voxels((4, 5, 6), "u1"))
    (tmp_path / "a.tif").chmod(0)
    with pytest.raises(NoPermission):
        open_volume(tmp_path / "a.tif")
    tmp_path.chmod(0o500)
    with pytest.raises(NoPermission):
        create_volume(tmp_path / "b.tif", (4, 5, 6), "u1")


def test_paths_of_volumes() -> None:
    yes = ["a.tif", "a.TIFF", "a.h5", "a.h5:/x", "a.nii.gz", "a.ome.zarr", "dir/*.tif", "a.png", "."]
    assert all(map(is_volume_path, yes))
    assert not any(map(is_volume_path, ["a.csv", "a.xml", "a.safetensors", "a.gz", "a"]))


def test_describe_is_json(tmp_path: Path) -> None:
    import json

    array = voxels((4, 5, 6), "u2")
    write(tmp_path / "a.ome.zarr", array, voxel_size=(2, 1, 1), unit="mm")
    with open_volume(tmp_path / "a.ome.zarr") as volume:
        description = json.loads(json.dumps(describe(volume, volume.statistics())))
    assert description["shape"] == [4, 5, 6]
    assert description["voxel_size"] == [2, 1, 1] and description["unit"] == "mm"
    assert description["bytes"] == array.nbytes
    assert description["statistics"]["percentiles"]["50"] == np.percentile(array, 50)


def test_a_small_box_of_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """6 GB, sparse, as one BigTIFF; measured in a process of its own."""
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as tif:
        tif.write(shape=(2304, 1280, 1024), dtype="u2", photometric="minisblack", metadata={"axes": "ZYX"})
    measure = (
        "import resource\n"
        "from medhpc.geometry import Box\n"
        "from medhpc.volume import open_volume\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "import numpy, tifffile\n"
        "before = peak()\n"
        f"with open_volume({str(tmp_path / 'a.tif')!r}) as volume:\n"
        "    for z in range(0, 2304 - 64, 100):\n"
        "        volume.read(Box((z, 500, 300), (z + 64, 564, 364)))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 100


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own: HDF5 may end it where it cannot write."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    fill = (
        "import sys, numpy as np\n"
        "from medhpc.errors import DiskFull\n"
        "from medhpc.volume import create_volume\n"
        "planes = np.random.default_rng(0).integers(0, 60000, (16, 200, 200)).astype('u2')\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        with create_volume(path, (64, 200, 200), 'u2') as writer:\n"
        "            for z in range(0, 64, 16): writer.write(z, planes)\n"
        "    except DiskFull as error: print(error)\n"
    )
    try:
        paths = [f"{tmp_path}/{name}" for name in SUFFIXES]
        done = subprocess.run(
            [sys.executable, "-c", fill, *paths], cwd=Path(__file__).parents[1], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert [line.split(": no room")[0] for line in done.stdout.splitlines()] == paths
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_input_is_never_its_own_output(tmp_path: Path) -> None:
    path = tmp_path / "own.tif"
    with create_volume(path, (4, 8, 8), np.uint8) as writer:
        writer.write(0, np.ones((4, 8, 8), np.uint8))
    with open_volume(path) as volume, pytest.raises(BadOption, match="the input itself"):
        convert(volume, path, region=Box((0, 0, 0), (1, 8, 8)))
    with open_volume(path) as volume:
        assert volume.shape == (4, 8, 8)
        convert(volume, tmp_path / "a.h5:/raw")
    with open_volume(f"{tmp_path / 'a.h5'}:/raw") as volume:
        convert(volume, f"{tmp_path / 'a.h5'}:/copy")  # another dataset of the same file stands beside it
        with pytest.raises(BadOption, match="the input itself"):
            convert(volume, tmp_path / "a.h5")
