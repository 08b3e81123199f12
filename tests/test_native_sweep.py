"""Sweeps of the native engine: the same planes as of a whole block, and bit for bit whatever cannot matter."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranked import on_ranks
from test_native import TOLERANCE, built, difference, lively, networks, noise, truth

from medhpc.engine import BlockTooLarge
from medhpc.engine.base import regrouped
from medhpc.engine.memory import peak_growth
from medhpc.engine.native import NativeEngine
from medhpc.engine.reference import ReferenceEngine
from medhpc.errors import NetworkMismatch
from medhpc.kernel import SweepShape, load_library, usable_variants
from medhpc.nets import MSD
from medhpc.nets.kernel import kernel_network
from medhpc.ranks.group import Ranks

VARIANTS = usable_variants() or ("none",)


def swept(engine: NativeEngine, volume: np.ndarray, step: int, kind: str = "raw", cuts: tuple[int, ...] = ()):
    blocks = np.split(volume, cuts, axis=1)
    return np.concatenate(list(engine.sweep(iter(blocks), volume.shape[1:], kind, step)), axis=1)


@st.composite
def networks_and_volumes(draw, ndim=None):
    """A network and a volume of up to 60 planes more than it needs."""
    network = draw(networks())
    assume(ndim is None or network.ndim == ndim)
    least = [1] * (3 - network.ndim) + list(network.minimum_shape)
    z, y, x = (n + draw(st.integers(0, most)) for n, most in zip(least, (60, 9, 9), strict=True))
    return network, noise(network.in_channels, z, y, x, seed=draw(st.integers(0, 99)))


# --- the same as the block ------------------------------------------------------------------------


@built
@settings(max_examples=60, deadline=None)
@given(st.data(), networks_and_volumes(), st.sampled_from(VARIANTS), st.integers(1, 45))
def test_the_definition(data, case, variant, step):
    network, volume = case
    cuts = sorted(data.draw(st.sets(st.integers(1, volume.shape[1] - 1), max_size=4))) if volume.shape[1] > 1 else []
    engine = NativeEngine(network, data.draw(st.integers(1, 3)), variant)
    found = swept(engine, volume, step, cuts=cuts)
    assert difference(found, engine(volume, "raw")) <= TOLERANCE
    assert difference(found, truth(network, volume)) <= TOLERANCE


@built
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MSD(1, 2, 25), (50, 11, 20)),
        (MSD(1, 2, 85), (64, 12, 12)),
        (MSD(2, 3, 12, width=2), (50, 12, 300)),  # several blocks in x
        (MSD(1, 2, 40, dilations=[1]), (100, 3, 20)),  # more targets and sources than fit the registers
        (MSD(1, 2, 6, dilations=[40, 2], padding="zero"), (90, 30, 30)),
        (MSD(1, 2, 12, dilations=[1, 2], padding="zero"), (1, 9, 9)),
    ],
    ids=["odd", "deep", "wide", "one dilation", "long dilation", "one plane"],
)
@pytest.mark.parametrize("step", [1, 10, 40])
def test_networks_of_all_kinds(network, shape, step):
    network, volume = lively(network), noise(network.in_channels, *shape)
    engine = NativeEngine(network, 2)
    assert difference(swept(engine, volume, step), engine(volume, "raw")) <= TOLERANCE


@built
@pytest.mark.parametrize("kind", ["probability", "classes"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_probabilities(kind, outputs):
    engine, volume = NativeEngine(lively(MSD(1, outputs, 12)), 1), noise(1, 50, 12, 13)
    assert np.allclose(swept(engine, volume, 16, kind), engine(volume, kind), atol=1e-5)


@built
@settings(max_examples=20, deadline=None)
@given(networks_and_volumes(ndim=3), st.integers(1, 40))
def test_threads_change_no_bit(case, step):
    network, volume = case
    one, two, three = (swept(NativeEngine(network, threads), volume, step) for threads in (1, 2, 3))
    assert np.array_equal(one, two) and np.array_equal(one, three)


@built
def test_how_the_planes_come_changes_no_bit():
    engine, volume = NativeEngine(lively(MSD(1, 2, 11)), 1), noise(1, 60, 11, 12)
    expected = swept(engine, volume, 16)
    assert np.array_equal(swept(engine, volume, 16, cuts=(1, 2, 30, 59)), expected)
    turned = np.ascontiguousarray(volume.transpose(3, 2, 1, 0), np.float64).transpose(3, 2, 1, 0)
    assert np.array_equal(swept(engine, turned, 16, cuts=(7,)), expected)


@built
def test_planes_come_out_as_soon_as_they_are_finished():
    network = lively(MSD(1, 2, 5, dilations=[1, 2]))  # it lags by 7 planes
    volume, given = noise(1, 40, 9, 9), []

    def planes():
        for z in range(40):
            given.append(z)
            yield volume[:, z : z + 1]

    finished = 0
    for block in NativeEngine(network, 1).sweep(planes(), (40, 9, 9), "raw", 4):
        finished += block.shape[1]
        assert finished == len(given) - 7 or len(given) == 40
    assert finished == 40


# --- resuming -------------------------------------------------------------------------------------


@built
@settings(max_examples=40, deadline=None)
@given(st.data(), networks_and_volumes(ndim=3), st.integers(1, 20))
def test_a_sweep_that_begins_below_gives_the_same_bits(data, case, step):
    network, (_, *plane) = case[0], case[1].shape[1:]
    engine = NativeEngine(network, 1)
    begin, warm = step * data.draw(st.integers(1, 2)), engine.sweep_warm_up(step)
    volume = noise(network.in_channels, begin + warm + data.draw(st.integers(1, 9)), *plane)
    whole, later = swept(engine, volume, step), swept(engine, volume[:, begin:], step)
    assert np.array_equal(whole[:, begin + warm :], later[:, warm:])


@built
@pytest.mark.parametrize(("depth", "step"), [(12, 1), (12, 8), (23, 10), (23, 40)])
def test_a_deep_sweep_that_begins_below_gives_the_same_bits(depth, step):
    network = lively(MSD(1, 2, depth))
    engine, radius = NativeEngine(network, 1), network.receptive_radius[0]
    warm = engine.sweep_warm_up(step)
    assert radius <= warm <= 3 * radius + step
    volume = noise(1, 2 * step + warm + 30, 11, 11)
    whole, later = swept(engine, volume, step), swept(engine, volume[:, 2 * step :], step)
    assert np.array_equal(whole[:, 2 * step + warm :], later[:, warm:])
    assert difference(later[:, radius:], whole[:, 2 * step + radius :]) <= TOLERANCE


# --- memory ---------------------------------------------------------------------------------------


@built
def test_memory_does_not_grow_with_the_depth_of_the_volume():
    engine = NativeEngine(MSD(1, 2, 30), 2)
    needed = engine.sweep_bytes((10_000, 64, 64), 20)
    assert needed == engine.sweep_bytes((100_000, 64, 64), 20)
    assert needed > engine.sweep_bytes((10_000, 64, 64), 10)
    assert engine.sweep_bytes((60, 64, 64), 20) < needed < engine.bytes((400, 64, 64))


@built
def test_memory_is_told_before():
    engine, shape = NativeEngine(lively(MSD(1, 2, 12)), 2), (300, 96, 100)
    plane = noise(1, 1, *shape[1:])
    with peak_growth(engine.device) as growth:
        for _ in engine.sweep((plane for _ in range(shape[0])), shape, "raw", 10):
            pass
    needed = engine.sweep_bytes(shape, 10)
    assert 0.8 * needed < growth.bytes < needed + 2**23  # a few planes on the way in


@built
def test_too_little_memory_is_said():
    engine = NativeEngine(MSD(1, 2, 100), 1)
    with pytest.raises(BlockTooLarge):
        next(engine.sweep(iter([]), (1000, 100_000, 400_000), "classes", 10))


# --- rows of neighbours ---------------------------------------------------------------------------


def swept_in_halves(network: MSD, volume: np.ndarray, cut: int, step: int) -> np.ndarray:
    """By two sweeps over the rows before and from `cut` on, which give each other rows."""
    kernel, reach = kernel_network(network, load_library(usable_variants()[0])), max(network.dilations)
    (_, z, y, x), sweeps, parts = volume.shape, [], []
    for rows, ghosts in ((cut, (0, reach)), (y - cut, (reach, 0))):
        sweeps.append(kernel.sweep(SweepShape(shape=(z, rows, x), ghosts=ghosts, step=step), "raw", 1))
    below, above = sweeps
    nothing = np.empty((0, 0, 0, 0), np.float32)
    for at in range(0, below.steps * step, step):
        planes = volume[:, at : at + step]
        below.begin(planes[:, :, : cut + reach] if at < z else None)
        above.begin(planes[:, :, cut - reach :] if at < z else None)
        for layer in range(network.depth):
            for sweep in sweeps:
                sweep.layer(layer)
            (_, up), (down, _) = below.edge_rows(layer), above.edge_rows(layer)
            below.put_ghosts(layer, nothing, down)
            above.put_ghosts(layer, up, nothing)
        parts.append(np.concatenate([sweep.finish() for sweep in sweeps], axis=2))
    return np.concatenate(parts, axis=1)


@built
@settings(max_examples=30, deadline=None)
@given(st.data(), networks_and_volumes(ndim=3), st.integers(1, 30))
def test_two_halves_that_give_each_other_rows_are_the_whole(data, case, step):
    network, volume = case
    reach = max(network.dilations)
    rows = 2 * reach + data.draw(st.integers(0, 12))
    volume = noise(network.in_channels, volume.shape[1], rows, volume.shape[3])
    cut = data.draw(st.integers(reach, rows - reach))
    assert difference(swept_in_halves(network, volume, cut, step), truth(network, volume)) <= TOLERANCE


RANKED = (
    {"dilations": [1, 3, 2], "width": 2},
    {"dilations": [2, 3], "padding": "zero", "in_channels": 2},
    {"dilations": [1, 3], "ndim": 2},
)


def sweeps_of_rows(ranks: Ranks, bounds: list[int]) -> list[np.ndarray]:
    """Each network's sweep of the rows of this rank."""
    found = []
    for numbers in RANKED:
        network = lively(MSD(**{"in_channels": 1, "out_channels": 2, "depth": 7, **numbers}))
        rows = noise(network.in_channels, 33, bounds[-1], 12)[:, :, bounds[ranks.rank] : bounds[ranks.rank + 1]]
        parts = NativeEngine(network, 1).sweep(iter([rows]), rows.shape[1:], "raw", 8, ranks)
        found.append(np.concatenate(list(parts), axis=1))
    return found


@built
@pytest.mark.parametrize("bounds", [[0, 3, 11], [0, 5, 8, 11, 16]])
def test_ranks_with_some_rows_each_give_the_whole(bounds):
    parts = on_ranks(len(bounds) - 1, sweeps_of_rows, bounds)
    for numbers, rows in zip(RANKED, zip(*parts, strict=True), strict=True):
        network = lively(MSD(**{"in_channels": 1, "out_channels": 2, "depth": 7, **numbers}))
        expected = truth(network, noise(network.in_channels, 33, bounds[-1], 12))
        assert difference(np.concatenate(rows, axis=2), expected) <= TOLERANCE


# --- what is given --------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20))
def test_blocks_of_any_depth_become_steps(depths, step):
    planes = np.arange(sum(depths)).reshape(1, -1, 1, 1)
    found = list(regrouped(iter(np.split(planes, np.cumsum(depths)[:-1], axis=1)), step))
    assert np.array_equal(np.concatenate(found, axis=1), planes)
    assert [block.shape[1] for block in found[:-1]] == [step] * (len(found) - 1)
    assert 1 <= found[-1].shape[1] <= step


@built
def test_a_volume_that_the_network_refuses_is_refused():
    with pytest.raises(NetworkMismatch, match="too thin"):
        NativeEngine(MSD(1, 2, 10), 1).sweep(iter([]), (10, 20, 20), "raw", 10)


@built
def test_an_engine_tells_whether_it_sweeps():
    network = lively(MSD(1, 2, 3))
    assert NativeEngine(network, 1).sweeps
    assert not ReferenceEngine(network).sweeps
