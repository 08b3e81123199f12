"""Infer: a tiled volume is what the whole volume would have been."""

import dataclasses
import itertools
import shutil
import threading

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import cells, msd, probabilities, stored, whole, write_tiff
from torch import nn

from medhpc import engine as engines
from medhpc.engine import BlockTooLarge
from medhpc.errors import BadOption, BrokenFile, NonFinite
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.infer.predict import encode, predict, window_weights
from medhpc.nets import Foreign, Identity
from medhpc.run import Plan, Run, select, status
from medhpc.run.blocks import read_block
from medhpc.tiling import tile as plan_tiles
from medhpc.volume import open_volume

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")
lengths = st.tuples(*[st.integers(1, 14)] * 3)


def tile(*arguments, **options) -> Plan:
    return plan_tiles(*arguments, device="cpu", threads=1, **options)


def tiled(folder, volume: np.ndarray, network, **options) -> np.ndarray:
    """Plan and compute; what is stored then."""
    source = write_tiff(folder / "volume.tif", volume)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    tile(source, run, network=network, **options)
    infer(run, network=None if network == "identity" else network, device="cpu", threads=1)
    Run(run).require_all()
    return stored(run)


@st.composite
def places(draw, shape):
    """A tile shape and a region of a volume of this shape; not so many tiles that it takes long."""
    sizes = [draw(st.integers(max(1, n // 5), n)) for n in shape]
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    stops = [draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)]
    region = draw(st.sampled_from([Box.whole(shape), Box(tuple(starts), tuple(stops))]))
    return tuple(sizes), region


# --- identity: the pipeline itself changes nothing -----------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_identity_stores_the_input(tmp_path, dtype, order):
    kind = np.dtype(dtype)
    volume = (
        np.random.default_rng(0).integers(0, 256**kind.itemsize, (7, 11, 13), dtype="u8", endpoint=False)
        if kind.itemsize < 8
        else np.random.default_rng(0).normal(size=(7, 11, 13))
    )
    volume = volume.astype(f"u{kind.itemsize}").view(kind) if kind.kind in "iu" else volume.astype(kind)
    source = tmp_path / "volume.tif"
    tifffile.imwrite(source, volume.astype(kind.newbyteorder(order)), byteorder=order, photometric="minisblack")
    tile(source, tmp_path / "run", network="identity", store="raw", tile=(3, 11, 5))
    infer(tmp_path / "run", threads=1)
    result = stored(tmp_path / "run")
    assert result.dtype == kind
    assert np.array_equal(result[0], volume)


def test_identity_stores_booleans_as_zeros_and_ones(tmp_path):
    volume = np.random.default_rng(0).random((4, 9, 9)) < 0.5
    source = tmp_path / "volume.tif"
    tifffile.imwrite(source, volume, photometric="minisblack")
    tile(source, tmp_path / "run", network="identity", store="raw", tile=(2, 4, 4))
    infer(tmp_path / "run", threads=1)
    assert np.array_equal(stored(tmp_path / "run")[0], volume.astype(np.uint8))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_identity_for_any_tile_and_region(tmp_path_factory, data):
    shape = data.draw(lengths)
    channels = data.draw(st.sampled_from([1, 3]))
    volume = np.random.default_rng(0).integers(0, 2**16, (channels, *shape)).astype(np.uint16)
    size, region = data.draw(places(shape))
    folder = tmp_path_factory.mktemp("identity")
    source = folder / "volume.npy.zarr"
    _write_zarr(source, volume)
    tile(source, folder / "run", network="identity", store="raw", tile=size, region=region)
    infer(folder / "run", threads=1)
    expected = np.zeros_like(volume)
    expected[(slice(None), *region.slices)] = volume[(slice(None), *region.slices)]
    assert np.array_equal(stored(folder / "run"), expected)


def _write_zarr(path, volume: np.ndarray) -> None:
    import zarr

    array = zarr.create_array(path, shape=volume.shape, dtype=volume.dtype, dimension_names=("c", "z", "y", "x"))
    array[:] = volume


@pytest.mark.parametrize("mode", ["gaussian", "linear"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4"])
def test_blending_equal_windows_changes_nothing(tmp_path, mode, dtype):
    volume = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (10, 20, 20), dtype, endpoint=True)
    result = tiled(tmp_path, volume, "identity", store="raw", tile=(5, 8, 7), blend=mode, window=(6, 9, 9))
    assert result.dtype == volume.dtype
    assert np.array_equal(result[0], volume)


# --- tiled == whole ------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_exact_halo_gives_what_the_whole_volume_gives(tmp_path_factory, data):
    shape = tuple(data.draw(st.integers(5, 26)) for _ in range(3))
    network = msd(data.draw(st.integers(1, 4)), dilations=(1, 3, 2), outputs=data.draw(st.integers(1, 3)))
    volume = cells(shape)
    size, region = data.draw(places(shape))
    where = (slice(None), *region.slices)
    folder = tmp_path_factory.mktemp("exact")
    scores = whole(network, volume)
    raw = tiled(folder, volume, network, store="raw", halo="exact", tile=size, region=region)
    assert np.allclose(raw[where], scores[where], rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    steps = tiled(folder, volume, network, halo="exact", tile=size, region=region)[where].astype(int)
    difference = np.abs(steps - np.rint(255 * probabilities(scores)[where]))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_2d_network_gives_what_the_whole_volume_gives(tmp_path_factory, data):
    shape = (data.draw(st.integers(1, 4)), *(data.draw(st.integers(8, 50)) for _ in range(2)))
    network = msd(4, ndim=2)
    volume = cells(shape)
    size, region = data.draw(places(shape))
    result = tiled(
        tmp_path_factory.mktemp("flat"), volume, network, halo="exact", store="raw", tile=size, region=region
    )
    scores, where = whole(network, volume), (slice(None), *region.slices)
    assert np.allclose(result[where], scores[where], rtol=1e-4, atol=1e-4 * np.abs(scores).max())


def test_several_channels(tmp_path):
    volume = np.stack([cells((12, 20, 20), seed) for seed in (1, 2)])
    network = msd(inputs=2, outputs=3)
    result = tiled(tmp_path, volume, network, halo="exact", tile=(5, 8, 20))
    assert np.abs(result - np.rint(255 * probabilities(whole(network, volume)))).max() <= 1
    assert result.shape == (2, 12, 20, 20)


def test_a_halo_that_is_too_small_shows(tmp_path):
    """The tests above can fail."""
    volume, network = cells((20, 30, 30)), msd(4)
    result = tiled(tmp_path, volume, network, halo=1, store="raw", tile=(10, 10, 10))
    assert np.abs(result - whole(network, volume)).max() > 0.01


class Pooling(nn.Module):
    """Down by four, up again, with a skip: what a small U-Net does."""

    def __init__(self, ndim: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        convolution = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.pool = nn.MaxPool3d(2) if ndim == 3 else nn.MaxPool2d(2)
        self.first, self.second = convolution(1, 4, 3, padding=1), convolution(4, 4, 3, padding=1)
        self.deep, self.last = convolution(4, 4, 3, padding=1), convolution(8, 2, 3, padding=1)

    def forward(self, x):
        full = self.first(x).relu()
        deep = self.deep(self.pool(self.second(self.pool(full)).relu())).relu()
        return self.last(torch.cat([full, nn.functional.interpolate(deep, scale_factor=4)], 1))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_a_pooling_network_gives_what_the_whole_volume_gives(tmp_path_factory, data):
    shape = tuple(data.draw(st.integers(5, 30)) for _ in range(3))
    network = Foreign(Pooling().eval(), in_channels=1, out_channels=2, ndim=3, halo=12, stride=4)
    volume = cells(shape)
    size, region = data.draw(places(shape))
    size = tuple(n if t == n else max(4, t // 4 * 4) for t, n in zip(size, shape, strict=True))
    result = tiled(
        tmp_path_factory.mktemp("pool"), volume, network, halo="exact", store="raw", tile=size, region=region
    )
    scores, where = whole(network, volume), (slice(None), *region.slices)
    assert np.allclose(result[where], scores[where], rtol=1e-4, atol=1e-5)


# --- memory --------------------------------------------------------------------------------------


def prepared(folder, network, shape=(40, 50, 60), size=(40, 50, 33), **options):
    """Engine, plan, and the first tile with its block."""
    source = write_tiff(folder / "volume.tif", cells(shape))
    plan = tile(source, folder / "run", network=network, halo="exact", tile=size, **options)
    first = plan.grid[0]
    with open_volume(source) as volume:
        block = read_block(volume, plan.read_box(first))
    return engines.load(network, device="cpu", threads=1), plan, first, block


def little_memory(plan: Plan, voxels: int) -> Plan:
    return dataclasses.replace(plan, cost=dataclasses.replace(plan.cost, block_voxels=voxels))


class Limited:
    """An engine that is out of memory above so many voxels."""

    def __init__(self, engine, most: int) -> None:
        self.engine, self.most, self.refused, self.computed = engine, most, 0, 0

    def __call__(self, block, kind, wanted=None):
        if block[0].size > self.most:
            self.refused += 1
            raise BlockTooLarge("no room")
        self.computed += 1
        return self.engine(block, kind, wanted)


POOLING = Foreign(Pooling(seed=1).eval(), in_channels=1, out_channels=2, ndim=3, halo=12, stride=4)


@pytest.mark.parametrize(
    ("network", "size", "most"),
    [
        (msd(3), (40, 50, 33), 60_000),
        (msd(3), (40, 50, 33), 30_000),
        (msd(3, ndim=2), (40, 50, 33), 30_000),
        (POOLING, (40, 50, 60), 90_000),
        (POOLING, (40, 50, 60), 70_000),
    ],
)
def test_computing_in_parts_changes_nothing(tmp_path, network, size, most):
    engine, plan, first, block = prepared(tmp_path, network, size=size, store="raw")
    at_once = predict(engine, plan, first, block)
    planned = Limited(engine, 10**9)
    assert np.allclose(predict(planned, little_memory(plan, most), first, block), at_once, rtol=1e-4, atol=1e-5)
    surprised = Limited(engine, most)
    assert np.allclose(predict(surprised, plan, first, block), at_once, rtol=1e-4, atol=1e-5)
    assert planned.computed == surprised.computed > 1
    assert surprised.refused > 0


def test_what_cannot_be_split_further_is_one_clear_line(tmp_path):
    engine, plan, first, block = prepared(tmp_path, msd(3))
    with pytest.raises(BadOption, match=r"does not fit in memory.*--halo") as caught:
        predict(Limited(engine, 100), plan, first, block)
    assert "\n" not in str(caught.value)


def test_a_window_that_does_not_fit_is_one_clear_line(tmp_path):
    engine, plan, first, block = prepared(tmp_path, msd(3), blend="gaussian", window=(20, 20, 20))
    with pytest.raises(BadOption, match=r"window .*does not fit in memory.*--window"):
        predict(Limited(engine, 100), plan, first, block)


# --- blending ------------------------------------------------------------------------------------


def sliding_window(network, volume: np.ndarray, window, step, mode: str) -> np.ndarray:
    """Whole-volume sliding-window inference, written down as simply as can be."""
    engine = engines.load(network, device="cpu", threads=1)
    block = ((volume - np.float32(volume.mean())) / np.float32(volume.std()))[None].astype(np.float32)
    window = [min(w, n) for w, n in zip(window, volume.shape, strict=True)]
    starts = [
        sorted({min(a, n - w) for a in range(0, n, s)}) for n, w, s in zip(volume.shape, window, step, strict=True)
    ]
    weight = np.float32(1)
    for w in window:
        x = (np.arange(w) - (w - 1) / 2) / (w / 2)
        profile = np.exp(-((4 * x) ** 2) / 2) if mode == "gaussian" else 1 - abs(x)
        weight = weight * profile.reshape(-1, *[1] * 0) if np.ndim(weight) == 0 else weight[..., None] * profile
    weight = np.maximum(weight / weight.max(), 1e-3)
    total, weights = 0, np.zeros(volume.shape)
    for corner in itertools.product(*starts):
        where = tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
        values = engine(np.ascontiguousarray(block[(slice(None), *where)]), "raw")
        total = np.zeros((len(values), *volume.shape)) if np.ndim(total) == 0 else total
        total[(slice(None), *where)] += weight * values
        weights[where] += weight
    return total / weights


@pytest.mark.parametrize("mode", ["gaussian", "linear"])
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_blended_tiles_are_whole_volume_sliding_windows(tmp_path_factory, mode, data):
    shape = tuple(data.draw(st.integers(6, 24)) for _ in range(3))
    window = tuple(data.draw(st.integers(4, 12)) for _ in range(3))
    overlap = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    volume, network, folder = cells(shape), msd(3), tmp_path_factory.mktemp("blend")
    plan = dict(store="raw", blend=mode, window=window, overlap=overlap)
    step = [max(1, int(np.ceil(min(w, n) * (1 - overlap)))) for w, n in zip(window, shape, strict=True)]
    expected = sliding_window(network, volume, window, step, mode)
    at_once = tiled(folder, volume, network, tile=shape, **plan)
    assert np.allclose(at_once, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    size, _ = data.draw(places(shape))
    assert np.array_equal(tiled(folder, volume, network, tile=size, **plan), at_once)  # bit for bit


def test_blending_over_a_region_is_blending_over_everything(tmp_path):
    volume, network = cells((12, 30, 30)), msd(3)
    options = dict(store="raw", blend="gaussian", window=(8, 12, 12), tile=(12, 10, 10))
    everything = tiled(tmp_path, volume, network, **options)
    region = Box((2, 7, 11), (9, 25, 30))
    part = tiled(tmp_path, volume, network, region=region, **options)
    where = (slice(None), *region.slices)
    assert np.array_equal(part[where], everything[where])


@given(lengths, st.sampled_from(["gaussian", "linear"]))
def test_weights_are_symmetric_positive_and_largest_in_the_middle(shape, mode):
    weights = window_weights(mode, shape)
    assert weights.shape == shape and weights.dtype == np.float32
    assert weights.min() >= 1e-3 and weights.max() == 1
    assert weights[tuple(n // 2 for n in shape)] == 1
    assert np.allclose(weights, np.flip(weights))


# --- what is stored ------------------------------------------------------------------------------


def test_argmax_is_the_class_of_the_largest_probability(tmp_path):
    volume, network = cells((10, 16, 16)), msd(outputs=4)
    result = tiled(tmp_path, volume, network, store="argmax", halo="exact", tile=(10, 8, 16))
    assert result.dtype == np.uint8
    assert (result[0] == whole(network, volume).argmax(axis=0)).mean() > 0.999


def test_argmax_of_one_output_is_a_threshold(tmp_path):
    volume, network = cells((10, 16, 16)), msd(outputs=1)
    result = tiled(tmp_path, volume, network, store="argmax", halo="exact", tile=(10, 8, 16))
    assert (result[0] == (whole(network, volume)[0] >= 0)).mean() > 0.999


def test_argmax_of_many_classes_needs_two_bytes(tmp_path):
    volume, network = cells((5, 8, 8)), msd(1, outputs=300)
    result = tiled(tmp_path, volume, network, store="argmax", halo="exact", tile=(5, 8, 8))
    assert result.dtype == np.uint16
    assert (result[0] == whole(network, volume).argmax(axis=0)).mean() > 0.99


def test_float16_probabilities(tmp_path):
    volume, network = cells((10, 16, 16)), msd()
    result = tiled(tmp_path, volume, network, dtype="float16", halo="exact", tile=(10, 8, 16))
    assert result.dtype == np.float16
    assert np.allclose(result, probabilities(whole(network, volume)), atol=1e-3)


def test_probabilities_are_rounded_to_the_nearest_step():
    values = np.array([0, 0.00195, 0.00197, 0.5, 0.99803, 0.99805, 1.0], np.float32).reshape(1, 1, 1, 7)
    assert encode(values, "probability", "uint8").ravel().tolist() == [0, 0, 1, 128, 254, 255, 255]


def test_the_networks_own_normalisation(tmp_path):
    volume, network = cells((8, 12, 12)), msd()
    network.card = dataclasses.replace(network.card, normalization={"mean": [100.0], "std": [50.0]})
    result = tiled(tmp_path, volume, network, store="raw", normalize="network", halo="exact", tile=(8, 6, 12))
    with torch.inference_mode():
        expected = network(torch.from_numpy((volume[None, None] - np.float32(100)) / np.float32(50)))[0].numpy()
    assert np.allclose(result, expected, rtol=1e-4, atol=1e-2)


def test_a_constant_volume(tmp_path):
    volume = np.full((6, 12, 12), 500, np.uint16)
    result = tiled(tmp_path, volume, msd(), halo="exact", tile=(6, 6, 6))
    assert result.max() - result.min() <= 1  # no NaN, no seam


# --- ranges of tiles -----------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(1, 60))
def test_tasks_share_the_tiles_out(total, tasks):
    parts = [select(total, task=f"{k}/{tasks}") for k in range(1, tasks + 1)]
    assert [tile for part in parts for tile in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "expected"), [("0:3", range(3)), ("2:", range(2, 9)), (":4", range(4)), (":", range(9))]
)
def test_tiles_by_number(text, expected):
    assert select(9, tiles=text) == expected


@pytest.mark.parametrize(
    "options",
    [{"task": text} for text in ("0/3", "4/3", "1", "/3", "1/", "a/b", "-1/3", "1/0", "1.5/3")]
    + [{"tiles": text} for text in ("3:3", "5:2", "0:10", "a:b", "-1:3", "7")]
    + [{"task": "1/2", "tiles": "0:3"}],
)
def test_ranges_that_make_no_sense_are_refused(options):
    with pytest.raises(BadOption):
        select(9, **options)


def test_every_task_does_its_part_and_no_more(tmp_path):
    volume = cells((8, 20, 20))
    source = write_tiff(tmp_path / "volume.tif", volume)
    plan = tile(source, tmp_path / "run", network="identity", store="raw", tile=(8, 8, 8))
    for k in range(1, 13):  # more tasks than tiles
        result = infer(tmp_path / "run", task=f"{k}/12", threads=1)
        assert result.tiles == result.computed <= 1 and result.skipped == 0
    assert status(tmp_path / "run").total == len(plan.grid) == 9
    assert np.array_equal(stored(tmp_path / "run")[0], volume)


def test_a_second_call_does_what_is_missing_and_nothing_else(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", cells((8, 20, 20)))
    run = tmp_path / "run"
    tile(source, run, network="identity", store="raw", tile=(8, 8, 8))
    assert infer(run, tiles="2:5", threads=1).computed == 3
    Run(run).shards.paths(Run(run).plan.grid[3].write)[0].unlink()
    seen = []
    result = infer(run, threads=1, progress=lambda *counts: seen.append(counts))
    assert (result.tiles, result.computed, result.skipped, result.repaired) == (9, 7, 2, 1)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (9, 9)
    assert infer(run, threads=1).computed == 0


# --- within a task -------------------------------------------------------------------------------


def test_reading_and_writing_overlap_with_computing(tmp_path, monkeypatch):
    source = write_tiff(tmp_path / "volume.tif", cells((8, 40, 40)))
    run = tmp_path / "run"
    tile(source, run, network="identity", store="raw", tile=(8, 8, 8))
    threads = {"read": set(), "write": set(), "compute": set()}

    def noting(name, function):
        def call(*arguments, **options):
            threads[name].add(threading.current_thread().name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr("medhpc.infer.task.read_block", noting("read", read_block))
    monkeypatch.setattr(Run, "commit", noting("write", Run.commit))
    monkeypatch.setattr("medhpc.infer.predict.predict", noting("compute", predict))
    infer(run, threads=1)
    assert [len(threads[name]) for name in ("read", "compute")] == [1, 1]
    assert not threads["read"] & threads["write"] and not threads["compute"] & (threads["read"] | threads["write"])


def test_few_tiles_wait_however_many_there_are(tmp_path, monkeypatch):
    source = write_tiff(tmp_path / "volume.tif", cells((8, 80, 80)))
    run = tmp_path / "run"
    tile(source, run, network="identity", store="raw", tile=(8, 8, 8))
    alive, most, lock = 0, 0, threading.Lock()

    def count(by: int) -> None:
        nonlocal alive, most
        with lock:
            alive += by
            most = max(most, alive)

    def reading(*arguments):
        count(+1)
        return read_block(*arguments)

    def committing(self, *arguments):
        commit(self, *arguments)
        count(-1)

    commit = Run.commit
    monkeypatch.setattr("medhpc.infer.task.read_block", reading)
    monkeypatch.setattr(Run, "commit", committing)
    infer(run, threads=1)
    assert alive == 0 and most <= 8


def test_a_failing_network_is_entered_in_the_ledger(tmp_path):
    class Fussy(nn.Module):
        def forward(self, x):
            if x.max() > 7:
                raise ValueError("too bright")
            return x

    volume = np.zeros((4, 8, 40), np.float32)
    volume[2, 4, 27] = 8
    network = Foreign(Fussy(), in_channels=1, out_channels=1, ndim=3, halo=0, normalize=False)
    source, run = write_tiff(tmp_path / "volume.tif", volume), tmp_path / "run"
    tile(source, run, network=network, store="raw", tile=(4, 8, 8))
    with pytest.raises(ValueError, match="too bright"):
        infer(run, network=network, threads=1)
    found = status(run)
    assert found.failed == 1 and found.errors == ("ValueError: too bright",)
    assert found.done == 3  # those before it are kept


def test_a_hole_in_the_input_is_named_and_what_is_done_is_kept(tmp_path):
    volume = np.zeros((4, 8, 40), np.float32)
    volume[2, 4, 27] = np.nan
    source, run = write_tiff(tmp_path / "volume.tif", volume), tmp_path / "run"
    tile(source, run, network="identity", store="raw", tile=(4, 8, 8))
    with pytest.raises(NonFinite, match="z,y,x = 2,4,27.*--nan zero"):
        infer(run, threads=1)
    found = status(run)
    assert found.done == 3 and found.failed == 1 and "z,y,x = 2,4,27" in found.errors[0]
    shutil.rmtree(run)
    tile(source, run, network="identity", store="raw", tile=(4, 8, 8), nan="zero")
    infer(run, threads=1)
    assert np.array_equal(stored(run)[0], np.nan_to_num(volume))


def test_a_source_that_is_cut_short_after_it_was_opened(tmp_path, monkeypatch):
    source, run = write_tiff(tmp_path / "volume.tif", cells((8, 20, 20))), tmp_path / "run"
    tile(source, run, network="identity", store="raw", tile=(8, 8, 8))
    opening = Run.open_source

    def cutting(self):
        opened = opening(self)
        with source.open("r+b") as file:
            file.truncate(4000)
        return opened

    monkeypatch.setattr(Run, "open_source", cutting)
    with pytest.raises(BrokenFile):
        infer(run, threads=1)


def test_a_network_from_python_must_be_given_again(tmp_path):
    source, run = write_tiff(tmp_path / "volume.tif", cells((8, 20, 20))), tmp_path / "run"
    network = msd()
    tile(source, run, network=network, tile=(8, 20, 20), halo="exact")
    with pytest.raises(BadOption, match="network="):
        infer(run, threads=1)
    infer(run, network=network, threads=1)
    assert status(run).complete


def test_identity_needs_no_file(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", cells((4, 8, 8)))
    tile(source, tmp_path / "a", network=Identity(), store="raw")
    infer(tmp_path / "a", network=Identity(), threads=1)
    tile(source, tmp_path / "b", network="identity", store="raw")
    infer(tmp_path / "b", threads=1)
    assert np.array_equal(stored(tmp_path / "a"), stored(tmp_path / "b"))
