"""The tile step: what it decides, and what it refuses before anything is computed."""

import dataclasses
import itertools
import json
import math
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import cells, msd, stored, write_tiff

from medhpc import errors
from medhpc.errors import MedhpcError
from medhpc.geometry import Box, Grid
from medhpc.infer import infer
from medhpc.nets import Foreign, Identity
from medhpc.run import Run
from medhpc.run.advice import advice
from medhpc.run.folder import claimed
from medhpc.run.parts import SMALLEST, computed_in_parts, halve
from medhpc.run.plan import BASE, Plan, Stored
from medhpc.tiling import summarize
from medhpc.tiling import tile as plan_tiles
from medhpc.tiling.planning import requested
from medhpc.tiling.size import block_voxels, choose_tile

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")


def tile(*arguments, **options) -> Plan:
    return plan_tiles(*arguments, **({"device": "cpu", "threads": 1} | options))


@pytest.fixture
def source(tmp_path) -> Path:
    return write_tiff(tmp_path / "volume.tif", cells((10, 24, 30)), resolution=(2.0, 2.0), imagej=True)


@pytest.fixture
def network(tmp_path) -> Path:
    msd().save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


# --- what is refused -----------------------------------------------------------------------------


def volume_of(shape=(10, 24, 30), dtype="f4", place=None, value=math.nan):
    def write(folder: Path) -> dict:
        values = np.random.default_rng(0).random(shape).astype(dtype)
        if place:
            values[place] = value
        return {"volume": write_tiff(folder / "odd.tif", values)}

    return write


def file_of(name: str, content: bytes, option: str):
    def write(folder: Path) -> dict:
        (folder / name).write_bytes(content)
        return {option: folder / name}

    return write


def zarr_of(shape, dtype):
    def write(folder: Path) -> dict:
        zarr.create_array(folder / "odd.zarr", shape=shape, dtype=dtype, chunks=(4, 4, 4))
        return {"volume": folder / "odd.zarr"}

    return write


def torn(name: str, option: str):
    """The good file of this name, cut in half."""

    def write(folder: Path) -> dict:
        content = (folder / name).read_bytes()
        return file_of(f"torn-{name}", content[: len(content) // 2], option)(folder)

    return write


POOLING = Foreign(torch.nn.Identity(), in_channels=1, out_channels=1, ndim=3, halo=4, stride=4)
BLIND = Identity()
BLIND.receptive_radius = None

REFUSED = {
    # the volume
    "no volume": ({"volume": "nowhere.tif"}, errors.VolumeNotFound, "nowhere.tif"),
    "no format": (file_of("notes.txt", b"text", "volume"), errors.UnknownFormat, "notes.txt"),
    "torn volume": (torn("volume.tif", "volume"), errors.BrokenFile, "torn-volume.tif"),
    "complex volume": (zarr_of((4, 4, 4), "c8"), errors.UnsupportedDtype, "complex64"),
    "empty volume": (zarr_of((0, 4, 4), "u1"), errors.NotAVolume, "empty|no voxels"),
    "no such channel": ({"channel": 3}, errors.BadOption, "channel 3"),
    "no such level": ({"level": 2}, errors.BadOption, "level 2"),
    "NaN": (volume_of(place=(3, 4, 5)), errors.NonFinite, "3, ?4, ?5.*--nan zero"),
    "infinity": (volume_of(place=(0, 0, 29), value=-math.inf), errors.NonFinite, "0, ?0, ?29.*--nan zero"),
    # the network
    "no network": ({"network": "nowhere.safetensors"}, errors.BadNetwork, "nowhere.safetensors"),
    "pickle": (file_of("net.pt", pickle.dumps({"a": 1}), "network"), errors.BadNetwork, "net.pt"),
    "pickle in disguise": (file_of("x.safetensors", pickle.dumps({"a": 1}), "network"), errors.BadNetwork, "x.safe"),
    "torn network": (torn("net.safetensors", "network"), errors.BadNetwork, "torn-net"),
    "folder for a network": ({"network": "."}, errors.BadNetwork, r"^\."),
    "two channels for one": ({"network": msd(inputs=2)}, errors.NetworkMismatch, "2 channel.*has 1"),
    "too thin": ({"network": msd(dilations=(10,))}, errors.NetworkMismatch, "10 x 24 x 30.*11 x 11 x 11"),
    "a plane for a 3D network": (volume_of((1, 24, 30)), errors.NetworkMismatch, "2D network"),
    # options
    "tile too large": ({"tile": "8,25,30"}, errors.BadOption, "larger than the volume"),
    "tile of two": ({"tile": "8,8"}, errors.BadOption, "Z,Y,X"),
    "tile of zero": ({"tile": "0,8,8"}, errors.BadOption, "Z,Y,X"),
    "tile of zero from Python": ({"tile": (0, 8, 8)}, errors.BadOption, "tile"),
    "tile of two from Python": ({"tile": (8, 8)}, errors.BadOption, "tile"),
    "tile and stride": ({"network": POOLING, "tile": "4,6,8"}, errors.BadOption, "stride 4,4,4"),
    "region beyond": ({"region": "0:10,0:24,0:31"}, errors.BadOption, "leaves the volume"),
    "empty region": ({"region": "5:5,:,:"}, errors.BadOption, "empty"),
    "half a region": ({"region": "0:5,0:5"}, errors.BadOption, "Z0:Z1"),
    "no region": ({"region": "everything"}, errors.BadOption, "Z0:Z1"),
    "region from Python": ({"region": Box((0, 0, 0), (99, 1, 1))}, errors.BadOption, "leaves the volume"),
    "halo below zero": ({"halo": "-1"}, errors.BadOption, "halo '-1'"),
    "halo below zero from Python": ({"halo": -1}, errors.BadOption, "halo '-1'"),
    "halo in words": ({"halo": "wide"}, errors.BadOption, "auto, exact"),
    "no probabilities": ({"network": "identity"}, errors.BadOption, "--store raw"),
    "halo unknown": ({"network": BLIND, "halo": "exact", "store": "raw"}, errors.BadOption, "receptive radius"),
    "tolerance below zero": ({"tolerance": -0.1, "halo": "auto"}, errors.BadOption, "tolerance"),
    "tolerance of zero": ({"tolerance": 0.0, "halo": "auto"}, errors.BadOption, "tolerance"),
    "tolerance of NaN": ({"tolerance": math.nan, "halo": "auto"}, errors.BadOption, "tolerance"),
    "store": ({"store": "everything"}, errors.BadOption, "probability, argmax, raw"),
    "dtype": ({"dtype": "float64"}, errors.BadOption, "uint8, float16"),
    "normalize": ({"normalize": "tile"}, errors.BadOption, "volume, network"),
    "normalize unknown": ({"normalize": "network"}, errors.BadOption, "training statistics"),
    "blend": ({"blend": "cosine"}, errors.BadOption, "none, gaussian, linear"),
    "overlap of one": ({"blend": "linear", "overlap": 1.0}, errors.BadOption, "overlap"),
    "overlap below zero": ({"blend": "linear", "overlap": -0.5}, errors.BadOption, "overlap"),
    "overlap of NaN": ({"blend": "linear", "overlap": math.nan}, errors.BadOption, "overlap"),
    "window of zero": ({"blend": "linear", "window": "0"}, errors.BadOption, "window"),
    "window from Python": ({"blend": "linear", "window": (0, 4, 4)}, errors.BadOption, "window"),
    "nan": ({"nan": "maybe"}, errors.BadOption, "refuse, zero"),
    "little memory": ({"memory": 100 * 2**20}, errors.BadOption, "give at least"),
    "no memory": ({"memory": 0}, errors.BadOption, "give at least"),
    "device": ({"device": "abacus"}, errors.BadOption, "auto, cpu"),
    "threads": ({"threads": 0}, errors.BadOption, "at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_does_not_block_a_second_try(tmp_path, source, network, case):
    arrange, kind, text = REFUSED[case]
    good = {"volume": source, "network": network, "halo": "exact", "tile": "10,12,15"}
    options = good | (arrange(tmp_path) if callable(arrange) else arrange)
    with pytest.raises(MedhpcError, match=text) as caught:
        tile(options.pop("volume"), tmp_path / "run", **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()

    tile(good.pop("volume"), tmp_path / "run", **good)
    infer(tmp_path / "run", threads=1)
    assert stored(tmp_path / "run").any()


@pytest.mark.parametrize("dtype", ["c8", "c16", "S3", [("a", "u1"), ("b", "f4")]])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, dtype):
    import h5py

    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["raw"] = np.zeros((4, 8, 8), dtype)
    with pytest.raises(errors.UnsupportedDtype):
        tile(f"{tmp_path / 'volume.h5'}:/raw", tmp_path / "run", network="identity", store="raw")


def test_a_folder_in_use_is_refused(tmp_path, source):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(errors.RunNotEmpty, match=r"thesis\.tex"):
        tile(source, tmp_path / "run", network="identity")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_run_is_not_planned_over(tmp_path, source):
    plan = tile(source, tmp_path / "run", network="identity", store="raw")
    with pytest.raises(errors.RunNotEmpty, match="medhpc infer"):
        tile(source, tmp_path / "run", network="identity", store="raw", tile=(5, 5, 5))
    assert Run(tmp_path / "run").plan == plan


def test_a_refused_option_leaves_no_folder(tmp_path, source):
    for options in ({"tile": "99"}, {"region": "x"}, {"store": "x"}, {"blend": "x"}):
        with pytest.raises(errors.BadOption):
            tile(source, tmp_path / "run", network="identity", **options)
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_of_the_user_stays(tmp_path, source):
    (tmp_path / "run").mkdir()
    with pytest.raises(errors.BadOption):
        tile(source, tmp_path / "run", network="identity", store="raw", memory=1)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_is_planned_once_at_a_time(tmp_path, source):
    with claimed(tmp_path / "run"), pytest.raises(errors.RunNotEmpty, match="another 'medhpc tile' is planning"):
        tile(source, tmp_path / "run", network="identity", store="raw")
    tile(source, tmp_path / "run", network="identity", store="raw")


def test_holes_are_read_as_zero_on_request(tmp_path):
    values = np.random.default_rng(0).normal(5, 2, (6, 12, 12)).astype(np.float32)
    values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
    source = write_tiff(tmp_path / "volume.tif", values)
    plan = tile(source, tmp_path / "run", network=msd(), nan="zero", halo="exact", tile=(6, 6, 6), store="raw")
    assert plan.normalization.mean[0] == pytest.approx(values[np.isfinite(values)].mean(), rel=1e-3)
    infer(tmp_path / "run", network=msd(), threads=1)
    assert np.isfinite(stored(tmp_path / "run")).all()


# --- what is planned -----------------------------------------------------------------------------


def test_the_plan_holds_what_was_seen(tmp_path, source, network):
    plan = tile(source, tmp_path / "run", network=network, halo="exact", tile="10,12,15", region=":,:,5:20")
    values = tifffile.imread(source).astype(np.float64)
    assert Run(tmp_path / "run").plan == plan
    assert plan.source.shape == (10, 24, 30) and plan.source.dtype == "uint16" and plan.source.copy == ""
    assert plan.normalization.mean[0] == pytest.approx(values.mean())
    assert plan.normalization.std[0] == pytest.approx(values.std())
    assert plan.network.digest and plan.network.path == str(network)
    assert plan.halo.size == (6, 6, 6) and plan.halo.how == "exact" and plan.halo.max_error == 0
    assert plan.region == Box((0, 0, 5), (10, 24, 20))
    assert len(plan.grid) == 4


def test_paths_in_a_plan_do_not_depend_on_where_it_was_made(tmp_path, source, network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = tile("volume.tif", "run", network="net.safetensors", halo="exact")
    assert (plan.source.path, plan.network.path) == (str(source), str(network))
    monkeypatch.chdir("/")
    infer(tmp_path / "run", threads=1)


def test_nothing_but_the_plan_is_on_the_disk(tmp_path, source):
    tile(source, tmp_path / "run", network="identity", store="raw")
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {"plan.json", "prediction.zarr/zarr.json"}


def test_equal_requests_are_told_from_others(tmp_path, source):
    a = requested(volume=source, network="identity")
    assert a == requested(volume=str(source), network="identity", halo="auto", threads=7)
    assert a != requested(volume=source, network="identity", halo=3)
    assert json.loads(json.dumps(a)) == a
    plan = tile(source, tmp_path / "run", network="identity", store="raw")
    assert Run(tmp_path / "run").plan.request == requested(volume=source, network="identity", store="raw") | {
        "device": "cpu"
    }
    assert plan.request["tile"] == "auto"


def test_a_million_tiles_are_planned_at_once(tmp_path):
    zarr.create_array(tmp_path / "large.zarr", shape=(6400, 6400, 6400), dtype="u1", chunks=(64, 64, 64))
    tile(tmp_path / "large.zarr", tmp_path / "warm", network="identity", store="raw")
    began = time.process_time()
    plan = tile(tmp_path / "large.zarr", tmp_path / "run", network="identity", store="raw", tile="64")
    assert summarize(plan, tmp_path / "run")["tiles"] == 10**6
    assert time.process_time() - began < 1


def test_a_single_tile_needs_no_halo(tmp_path, source):
    plan = tile(source, tmp_path / "run", network=msd())
    assert plan.tile == plan.source.shape
    assert plan.halo.how == "exact" and "no seam" in plan.halo.note and not plan.halo.table
    # Should memory run out while it is computed, its parts have the whole halo.
    assert plan.halo.size == (6, 6, 6) and summarize(plan, tmp_path / "run")["read_amplification"] == 1


def test_a_region_has_a_halo_even_in_one_tile(tmp_path, source):
    plan = tile(source, tmp_path / "run", network=msd(), region=":,2:20,:")
    assert plan.halo.size[0] > 0


# --- copies of inputs that cannot be read in boxes -----------------------------------------------


def strips(path: Path, values: np.ndarray) -> Path:
    tifffile.imwrite(path, values, compression="zlib", photometric="minisblack")
    return path


def test_an_expensive_input_is_copied_once(tmp_path):
    values, seen = cells((12, 40, 40)), []
    source = strips(tmp_path / "volume.tif", values)
    plan = tile(
        source, tmp_path / "run", network="identity", store="raw", tile="5,16,40", report=lambda *a: seen.append(a)
    )
    assert plan.source.copy and plan.source.path == str(source)
    assert "strips" in seen[0][0] and seen[-1][1:] == (12, 12)
    infer(tmp_path / "run", threads=1)
    assert np.array_equal(stored(tmp_path / "run")[0], values)


def test_a_nifti_is_copied_too(tmp_path):
    import nibabel

    values = cells((8, 20, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([2, 2, 3, 1])), tmp_path / "volume.nii.gz")
    plan = tile(tmp_path / "volume.nii.gz", tmp_path / "run", network="identity", store="raw", tile="8,10,10")
    infer(tmp_path / "run", threads=1)
    assert np.array_equal(stored(tmp_path / "run")[0], values)
    assert plan.source.affine and plan.source.voxel_size == (3.0, 2.0, 2.0)


@pytest.fixture
def copied_and_cut_short(monkeypatch):
    """Call `tile` and end it after the copying."""

    def cut_short(*arguments, **options):
        def interrupt(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("medhpc.tiling.planning.choose_normalization", interrupt)
            tile(*arguments, **options)

    return cut_short


@pytest.mark.parametrize("change", ["another file", "another content", "another channel"])
def test_the_copy_of_another_input_is_not_taken(tmp_path, change, copied_and_cut_short):
    """A tile that was ended after the copying leaves its copy behind."""
    first = np.stack([cells((6, 20, 20), seed) for seed in (1, 2)], axis=1)
    second = first[:, ::-1, ::-1] if change != "another channel" else first
    a = tmp_path / "a.tif"
    tifffile.imwrite(a, first, compression="zlib", imagej=False, metadata={"axes": "ZCYX"}, photometric="minisblack")
    options = dict(network="identity", store="raw", tile="6,10,20")
    copied_and_cut_short(a, tmp_path / "run", channel=0, **options)
    assert any((tmp_path / "run").rglob("zarr.json"))
    b = tmp_path / "b.tif" if change == "another file" else a
    if second is not first:
        tifffile.imwrite(b, second, compression="zlib", metadata={"axes": "ZCYX"}, photometric="minisblack")
    channel = 1 if change == "another channel" else 0
    plan = tile(b, tmp_path / "run", channel=channel, **options)
    infer(tmp_path / "run", threads=1)
    assert np.array_equal(stored(tmp_path / "run")[0], second[:, channel])
    assert [str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").glob("source/*")] == [
        plan.source.copy
    ]


def test_a_copy_that_is_whole_is_used_again(tmp_path, copied_and_cut_short):
    source = strips(tmp_path / "volume.tif", cells((6, 20, 20)))
    options = dict(network="identity", store="raw", tile="6,10,20")
    copied_and_cut_short(source, tmp_path / "run", **options)
    seen = []
    tile(source, tmp_path / "run", report=lambda *a: seen.append(a), **options)
    assert seen == []


def test_a_change_of_the_original_is_noticed_though_there_is_a_copy(tmp_path):
    source = strips(tmp_path / "volume.tif", cells((6, 20, 20)))
    tile(source, tmp_path / "run", network="identity", store="raw")
    strips(source, cells((6, 20, 20), seed=1))
    with pytest.raises(errors.SourceChanged):
        infer(tmp_path / "run", threads=1)


# --- tile sizes ----------------------------------------------------------------------------------


def read_by(volume, region, halo, size) -> int:
    return Grid(volume, size, halo, region).read_voxels()


@settings(max_examples=60)
@given(st.data())
def test_no_other_tile_that_fits_reads_less(data):
    edge = data.draw(st.sampled_from([4, 16]))
    volume = data.draw(st.tuples(*[st.integers(1, 5 * edge)] * 3))  # all of 20^3 tile sizes are tried
    halo = data.draw(st.tuples(*[st.integers(0, 9)] * 3))
    most = data.draw(st.integers(10, 30_000))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in volume)
    region = Box(start, tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, volume, strict=True)))
    size = choose_tile(volume, region, halo, block_voxels=most, seconds_per_voxel=1e-9, edge=edge)

    def fits(size) -> bool:
        return Grid(volume, size, halo, region).largest_read() <= most

    lengths = [{*range(edge // 4, min(length, 16 * edge + 1), edge // 4), length} for length in volume]
    fitting = [other for other in itertools.product(*lengths) if fits(other)]
    if fitting:
        assert size in fitting
        least = min(read_by(volume, region, halo, other) for other in fitting)
        assert read_by(volume, region, halo, size) == least
    else:
        assert size == tuple(min(edge, length) for length in volume)


def test_a_tile_takes_no_longer_than_a_kill_may_cost():
    volume = (2304, 1280, 1024)
    size = choose_tile(volume, Box.whole(volume), (32,) * 3, block_voxels=10**9, seconds_per_voxel=1e-5)
    assert Grid(volume, size, (32,) * 3, Box.whole(volume)).largest_read() * 1e-5 <= 120
    assert all(s % 32 == 0 and s >= 128 for s in size)


def test_nothing_is_read_twice_along_an_axis_that_a_tile_spans():
    volume, halo = (2304, 1280, 160), (48, 48, 48)
    size = choose_tile(volume, Box.whole(volume), halo, block_voxels=20_000_000, seconds_per_voxel=1e-9)
    assert size[2] == 160 and read_by(volume, Box.whole(volume), halo, size) < 2 * math.prod(volume)


def test_without_a_halo_tiles_are_single_shards():
    volume = (1000, 1000, 1000)
    assert choose_tile(volume, Box.whole(volume), (0, 0, 0), block_voxels=10**9, seconds_per_voxel=1e-9) == (128,) * 3


@given(st.integers(10**9, 10**12), st.floats(1, 10**4), st.integers(1, 4))
def test_a_block_fits_the_memory(memory, per_voxel, channels):
    stored = Stored(kind="probability", dtype="uint8", channels=1, chunk=(0, 0, 0), shard=(0, 0, 0))
    try:
        voxels = block_voxels(memory, per_voxel, channels, 2, stored)
    except errors.BadOption as error:
        assert "give at least" in str(error)
        assert (memory - BASE) / per_voxel < 32**3 * (1 + 20 * channels)
    else:
        assert BASE + voxels * (per_voxel + 2 * channels + 1) <= memory


def test_the_memory_that_is_asked_for_is_enough(tmp_path, source):
    with pytest.raises(errors.BadOption) as caught:
        tile(source, tmp_path / "run", network=msd(), memory=2**20, halo="exact")
    least = float(str(caught.value).split("at least ")[1].rstrip("G"))
    tile(source, tmp_path / "run", network=msd(), memory=int(least * 2**30), halo="exact")


# --- what a network reads ------------------------------------------------------------------------


@given(st.data())
def test_a_read_box_has_all_that_the_network_needs(data):
    volume = tuple(data.draw(st.integers(1, 40)) for _ in range(3))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in volume)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, volume, strict=True))
    halo, least, stride = (tuple(data.draw(st.integers(low, 9)) for _ in range(3)) for low in (0, 1, 1))
    whole, box = Box.whole(volume), Box(start, stop)
    read = box.with_context(halo, least, stride, whole)
    assert whole.contains(read)
    assert read.contains(box.grow(halo).intersection(whole))
    for axis in range(3):
        assert read.shape[axis] >= min(least[axis], volume[axis])
        assert read.start[axis] % stride[axis] == 0
        assert read.shape[axis] <= max(box.shape[axis] + 2 * halo[axis], least[axis]) + stride[axis] - 1


# --- what is told --------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_summary_is_what_happens(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("summary")
    source = write_tiff(folder / "volume.tif", cells((9, 20, 25)))
    size = tuple(data.draw(st.integers(6, n)) for n in (9, 20, 25))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in (9, 20, 25))
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, (9, 20, 25), strict=True))
    plan = tile(source, folder / "run", network="identity", store="raw", tile=size, region=Box(start, stop))
    told = summarize(plan, folder / "run")
    infer(folder / "run", threads=1)
    shards = [path for path in (folder / "run" / "prediction.zarr" / "c").rglob("*") if path.is_file()]
    assert told["output_files"] == len(shards)
    assert told["output_bytes"] == 2 * Box(start, stop).size
    assert told["tiles"] == len(plan.grid)
    assert told["read_amplification"] == pytest.approx(plan.grid.read_amplification)
    assert json.loads(json.dumps(told))["halo"] == list(plan.halo.size)
    assert told["free_bytes"] > 0 and told["free_inodes"] > 0


def computed(core: Box, whole: Box, halo: tuple[int, int, int], most: int) -> int:
    """Voxels computed for a core in halves, box by box, as the engine gets them."""
    read = core.with_context(halo, (1, 1, 1), (1, 1, 1), whole)
    if read.size <= most or max(core.shape) < 2 * SMALLEST:
        return read.size
    return sum(computed(half, whole, halo, most) for half in halve(core, int(np.argmax(core.shape))))


@settings(deadline=None)
@given(st.data())
def test_the_work_of_computing_in_parts_is_counted(data):
    volume = tuple(data.draw(st.integers(1, 150)) for _ in range(3))
    size = tuple(data.draw(st.integers(min(n, 17), n)) for n in volume)
    halo = tuple(data.draw(st.integers(0, 40)) for _ in range(3))
    most = data.draw(st.integers(1, 2 * math.prod(volume)))
    whole = Box.whole(volume)
    grid = Grid(volume, size, halo, whole)
    assert computed_in_parts(grid, most) == sum(computed(each.write, whole, halo, most) for each in grid)


def test_a_huge_halo_in_little_memory_says_what_it_costs(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", np.zeros((128, 128, 128), np.uint8))
    plan = tile(source, tmp_path / "run", network=msd(), tile=(64, 64, 64), halo=48, memory=BASE + 8 * 2**20)
    told = summarize(plan, tmp_path / "run")
    assert told["splits"] and told["read_amplification"] > 20 > told["unsplit_amplification"]
    computed = told["read_amplification"] * 128**3 * plan.cost.seconds_per_voxel
    assert told["seconds"] == pytest.approx(told["needed"] * computed)
    assert told["needed"] < 1


def test_the_work_of_blending_is_counted(tmp_path, source):
    plan = tile(source, tmp_path / "run", network=msd(), blend="linear", window=(10, 12, 12), tile="10,12,15")
    told = summarize(plan, tmp_path / "run")
    windows = [list(plan.windows.touching(one.write)) for one in plan.grid]
    assert told["read_amplification"] == sum(w.size for each in windows for w in each) / plan.region.size
    assert plan.halo.how == "none" and told["max_error"] is None


def test_advice_on_voxels_of_another_size_and_on_calibrated_intensities(tmp_path):
    source = write_tiff(tmp_path / "v.tif", cells((12, 16, 16)))
    plan = tile(source, tmp_path / "run", network=msd(2), halo="exact")
    assert advice(plan) == []

    def changed(trained, here, **network):
        return dataclasses.replace(
            plan,
            source=dataclasses.replace(plan.source, voxel_size=here, unit="um"),
            network=dataclasses.replace(plan.network, voxel_size=trained, **network),
        )

    assert advice(changed((2.0, 1.0, 1.0), (2.5, 1.0, 0.8))) == []
    [line] = advice(changed((3.0, 3.0, 3.0), (1.0, 1.0, 1.0)))
    assert "3 x 3 x 3 um; these are 1 x 1 x 1 um" in line
    [line] = advice(changed(None, None, calibrated=True))
    assert "--normalize network" in line
