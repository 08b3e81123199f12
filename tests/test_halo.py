"""The halo: what is measured is what a brute-force comparison gives, and what is chosen is enough."""

import math

import numpy as np
import pytest
import torch
from samples import cells, msd, whole, write_tiff
from torch import nn

from medhpc import engine as engines
from medhpc.errors import BadOption
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.nets import MSD, Foreign
from medhpc.run import Run
from medhpc.run.plan import Halo, Plan
from medhpc.tiling import tile as plan_tiles
from medhpc.tiling.halo import HALOS, RING, SAFETY, SAMPLES, HaloProbe, choose_halo

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")

TOLERANCE = 0.5 / 255


def tile(*arguments, **options) -> Plan:
    return plan_tiles(*arguments, device="cpu", threads=1, **options)


def trained_like(seed: int, ndim: int = 3, depth: int = 8) -> MSD:
    """A network like those that training makes: far taps matter less than near ones, and scores are a few units."""
    network = msd(depth, ndim=ndim, dilations=(1, 2, 3, 4), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, weight in enumerate(network.weights):
            middle = (slice(None), slice(None), *(1,) * ndim)
            kept = weight[middle].clone()
            weight *= 0.6 / network.dilations[layer]
            weight[middle] = kept + 0.2
        network.head_weight.copy_(torch.randn(network.head_weight.shape, generator=generator) * 0.7)
    return network


def normalized(volume: np.ndarray) -> np.ndarray:
    return ((volume - np.float32(volume.mean())) / np.float32(volume.std()))[None].astype(np.float32)


def probe_of(network, volume: np.ndarray, *, kind="classes", region=None, seconds_per_voxel=1e-7, budget=60.0):
    block = normalized(volume)
    return HaloProbe(
        engines.load(network, device="cpu", threads=1),
        lambda box: np.ascontiguousarray(block[(slice(None), *box.slices)]),
        volume.shape,
        region or Box.whole(volume.shape),
        kind=kind,
        seconds_per_voxel=seconds_per_voxel,
        budget=budget,
    )


def classes(scores: np.ndarray) -> np.ndarray:
    return torch.from_numpy(scores).softmax(0).numpy()


# --- what is measured ----------------------------------------------------------------------------


@pytest.mark.parametrize("halo", [0, 2, 5])
def test_the_measured_error_is_the_largest_of_the_samples(halo):
    network, volume = msd(3), cells((40, 60, 60))  # radius 6: the reference is exact
    probe = probe_of(network, volume)
    truth, engine, block = classes(whole(network, volume)), engines.load(network, threads=1), normalized(volume)
    row = probe.row(halo)
    errors, flipped = [], []
    measured = [core.box for core in probe.cores if core.reference is not None]
    for core in measured:
        read = core.grow((halo,) * 3).intersection(Box.whole(volume.shape))
        values = engine(np.ascontiguousarray(block[(slice(None), *read.slices)]), "classes")
        values = values[(slice(None), *core.relative_to(read).slices)]
        expected = truth[(slice(None), *core.slices)]
        errors.append(np.abs(values - expected))
        flipped.append(values.argmax(0) != expected.argmax(0))
    assert probe.exact and len(measured) == SAMPLES
    assert row.max_error == pytest.approx(max(error.max() for error in errors), abs=1e-5)
    assert row.mean_error == pytest.approx(np.mean([error.mean() for error in errors]), abs=1e-6)
    assert row.flipped == pytest.approx(np.mean(flipped))


def test_errors_fall_with_the_halo_and_end_at_the_radius():
    probe = probe_of(msd(4, dilations=(1, 2, 3)), cells((40, 60, 60)))  # radius 1 + 2 + 3 + 1
    found = [probe.row(halo).max_error for halo in (0, 2, 4, 7)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.01 and found[-1] < 1e-5


def test_samples_are_those_with_the_most_contrast_around():
    volume = np.random.default_rng(0).normal(100, 1, (30, 150, 150)).astype(np.float32)
    volume[:, 100:, 100:] += 1000 * np.random.default_rng(1).random((30, 50, 50))
    probe = probe_of(msd(3), volume)
    probe.row(4)
    measured = [core.box for core in probe.cores if core.reference is not None]
    assert len(measured) == SAMPLES < len(probe.cores)
    corner = Box((0, 100, 100), (30, 150, 150)).grow((0, 4 + RING, 4 + RING))
    assert all(core.intersection(corner).size for core in measured)


def test_cores_reach_the_borders_of_the_region():
    region = Box((3, 10, 0), (37, 60, 55))
    probe = probe_of(msd(3), cells((40, 60, 60)), region=region)
    boxes = [core.box for core in probe.cores]
    assert all(region.contains(box) for box in boxes)
    for axis in range(3):
        assert min(box.start[axis] for box in boxes) == region.start[axis]
        assert max(box.stop[axis] for box in boxes) == region.stop[axis]


@pytest.mark.parametrize("shape", [(11, 11, 11), (11, 40, 300), (40, 12, 13)])
def test_small_and_narrow_volumes_are_measured_too(shape):
    found = probe_of(msd(3, dilations=(10, 3, 1)), cells(shape)).search(None, 1)
    assert found.table and found.samples >= 1


# --- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_auto_keeps_the_whole_volume_within_the_tolerance(tmp_path, seed):
    volume, network = cells((40, 70, 80), seed, count=25), trained_like(seed)
    source = write_tiff(tmp_path / "volume.tif", volume)
    plan = tile(source, tmp_path / "run", network=network, tile="20,35,40", dtype="float16")
    assert plan.halo.how == "measured" and plan.halo.note == ""
    assert 0 < plan.halo.size[0] < network.receptive_radius[0]  # it was worth measuring
    infer(tmp_path / "run", network=network, threads=1)
    error = np.abs(Run(tmp_path / "run").shards.array[0] - classes(whole(network, volume))[1])
    assert error.max() <= TOLERANCE + 2**-11  # float16 itself


def test_auto_takes_the_smallest_halo_of_its_table_that_is_good_enough():
    found = probe_of(trained_like(1), cells((40, 70, 80))).search(None, 1)
    assert [row.halo for row in found.table] == [halo for halo in HALOS if halo <= found.size[0]]
    assert found.tolerance == pytest.approx(TOLERANCE)
    assert [row.max_error * SAFETY < TOLERANCE for row in found.table] == [False] * (len(found.table) - 1) + [True]
    assert found.max_error == found.table[-1].max_error


def test_a_larger_tolerance_asks_for_a_smaller_halo():
    sizes = [probe_of(trained_like(2), cells((40, 70, 80))).search(limit, 1).size[0] for limit in (1e-4, 1e-2, 0.3)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_a_2d_network_reads_no_other_planes(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", cells((3, 120, 130)))
    network = trained_like(0, ndim=2)
    for halo in ("auto", "exact", 3):
        plan = tile(source, tmp_path / str(halo), network=network, halo=halo, tile="1,64,64")
        assert plan.halo.size[0] == 0 < plan.halo.size[1] == plan.halo.size[2]
        assert all(one.read.shape[0] == 1 for one in plan.grid)


def test_exact_is_the_receptive_radius(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", cells((12, 30, 30)))
    network = msd(7, dilations=(1, 2, 3))
    plan = tile(source, tmp_path / "run", network=network, halo="exact", tile="12,15,15")
    assert plan.halo == Halo(size=(13, 13, 13), how="exact", tolerance=0.0)


@pytest.mark.parametrize(("halo", "how"), [(2, "given"), ("2", "given"), (6, "exact"), (40, "exact")])
def test_a_halo_by_hand(tmp_path, halo, how):
    source = write_tiff(tmp_path / "volume.tif", cells((12, 30, 30)))
    plan = tile(source, tmp_path / "run", network=msd(3), halo=halo, tile="12,15,15")
    assert plan.halo.how == how and plan.halo.size == (int(halo),) * 3
    if how == "given":
        assert [row.halo for row in plan.halo.table] == [2]
        assert plan.halo.max_error > TOLERANCE and "--halo auto" in plan.halo.note
        assert plan.halo.table[0].work == pytest.approx((12 * 34 * 34) / (12 * 30 * 30))
    else:
        assert plan.halo.max_error == 0


class Blurring(nn.Module):
    """Averages over 2 * radius + 1 voxels; pools by `stride` where that is asked for."""

    def __init__(self, radius: int, stride: int = 1) -> None:
        super().__init__()
        self.radius, self.stride = radius, stride

    def forward(self, x):
        if self.stride > 1:
            x = nn.functional.avg_pool3d(x, self.stride)
            x = nn.functional.interpolate(x, scale_factor=self.stride)
        if self.radius:
            x = nn.functional.avg_pool3d(x, 2 * self.radius + 1, 1, self.radius, count_include_pad=False)
        return x


@pytest.mark.parametrize(("asked", "got"), [("exact", 24), (1, 8), (8, 8), (9, 16)])
def test_halos_are_whole_strides(tmp_path, asked, got):
    network = Foreign(Blurring(5, stride=8), in_channels=1, out_channels=1, ndim=3, halo=18, stride=8)
    source = write_tiff(tmp_path / "volume.tif", cells((24, 48, 48)))
    plan = tile(source, tmp_path / "run", network=network, halo=asked, tile="24,24,24")
    assert plan.halo.size == (got,) * 3


def test_where_blocks_start_is_no_error_of_the_halo():
    """A pooling network sees other cells in a block that starts elsewhere; a tile never does."""
    network = Foreign(Blurring(2, stride=4), in_channels=1, out_channels=1, ndim=3, halo=5, stride=4)
    probe = probe_of(network, cells((41, 67, 70)), region=Box((1, 2, 3), (39, 66, 69)))
    assert [probe.row(halo).max_error < 1e-6 for halo in (0, 4, 8)] == [False, False, True]
    assert probe.search(None, 4).size == (8, 8, 8)


def test_a_network_that_sees_nothing_around_needs_no_halo(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", cells((12, 30, 30)))
    network = Foreign(nn.Identity(), in_channels=1, out_channels=1, ndim=3, halo=0)
    assert tile(source, tmp_path / "run", network=network, tile="6,15,15").halo == Halo(
        size=(0, 0, 0), how="exact", tolerance=0.0
    )


def test_a_network_of_unknown_radius_is_measured(tmp_path):
    network = Foreign(Blurring(3), in_channels=1, out_channels=1, ndim=3, halo=0)
    network.receptive_radius = None
    found = probe_of(network, cells((60, 120, 120))).search(None, 1)
    assert found.size == (4, 4, 4) and not found.reference_is_exact
    with pytest.raises(BadOption, match="receptive radius"):
        choose_halo("exact", None, network, lambda _: None)


def test_raw_numbers_are_measured_against_their_range():
    network = Foreign(Blurring(3), in_channels=1, out_channels=1, ndim=3, halo=3)
    volume = cells((40, 60, 60))
    for scale in (1, 1000):
        network.module = nn.Sequential(Blurring(3), Scaling(scale))
        probe = probe_of(network, volume, kind="raw")
        row = probe.row(1)
        assert row.flipped == 0 and row.max_error > probe.tolerance(None)
        assert probe.tolerance(None) == pytest.approx(TOLERANCE * probe.spread())
        assert probe.spread() > scale and probe.tolerance(0.25) == 0.25
        assert probe_of(network, volume, kind="raw").search(None, 1).size == (3, 3, 3)


class Scaling(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


# --- what it may cost ----------------------------------------------------------------------------


class Counting:
    """Counts the voxels that an engine computes; time stands still but for them."""

    def __init__(self, engine, seconds_per_voxel: float) -> None:
        self.engine, self.network, self.per_voxel, self.now = engine, engine.network, seconds_per_voxel, 0.0

    def __call__(self, block, kind, wanted):
        self.now += block[0].size * self.per_voxel
        return self.engine(block, kind, wanted)


@pytest.mark.parametrize("seconds_per_voxel", [1e-6, 1e-5, 1e-4, 1e-3])
def test_the_budget_is_kept(monkeypatch, seconds_per_voxel):
    """However slow the network, the search ends about in time, with a table, and says where it failed."""
    volume = cells((60, 100, 100))
    block = normalized(volume)
    clock = Counting(engines.load(trained_like(3, depth=12), device="cpu", threads=1), seconds_per_voxel)
    monkeypatch.setattr("medhpc.tiling.halo.time.monotonic", lambda: clock.now)
    probe = HaloProbe(
        clock,
        lambda box: np.ascontiguousarray(block[(slice(None), *box.slices)]),
        volume.shape,
        Box.whole(volume.shape),
        kind="classes",
        seconds_per_voxel=seconds_per_voxel,
        budget=60.0,
    )
    found = probe.search(1e-9, 1)  # a tolerance that only the exact halo can reach
    one = (24 + 2 * 32) ** 3 * seconds_per_voxel  # at least one reference and one core are computed
    assert clock.now <= 60.0 * 1.5 + 2 * one
    assert found.table and found.samples >= 1
    assert found.note == "" or ("tolerance is not reached" in found.note and "\n" not in found.note)
    assert found.note or found.reference_is_exact
    if found.how == "extrapolated":
        assert found.table[-1].halo < max(found.size) <= 2 * found.table[-1].halo + RING
        assert found.max_error is None  # nothing is claimed for a halo that was not measured


def test_a_huge_radius_gets_an_affordable_reference():
    network = msd(30, dilations=tuple(range(1, 11)))
    probe = probe_of(network, cells((30, 60, 60)), seconds_per_voxel=1e-4)
    assert probe.radius == 165 and not probe.exact
    assert 2 * RING <= probe.context < 165
    assert max(probe._halos(1)) <= probe.context - RING  # far enough inside to be told from it


def test_no_number_of_a_plan_is_not_finite(tmp_path):
    source = write_tiff(tmp_path / "volume.tif", np.full((12, 30, 30), 7, np.uint16))
    plan = tile(source, tmp_path / "run", network=msd(3), tile="12,15,15")
    assert plan.halo.table
    assert all(math.isfinite(value) for row in plan.halo.table for value in vars(row).values())
