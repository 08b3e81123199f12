"""Objects seen slab by slab are those of the whole volume, and an object is cut where it is thin, nowhere else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medhpc import objects
from medhpc.objects import Table
from medhpc.stitch.request import SPLIT_DEPTH

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@st.composite
def masks(draw) -> np.ndarray:
    """Sparse or dense noise: components of all shapes, some of which touch over edges and corners only."""
    shape, seed = draw(shapes), draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(shape) < draw(st.sampled_from([0.02, 0.1, 0.25, 0.5, 0.9, 1.0]))


def pieces(table: Table) -> dict[int, tuple[object, ...]]:
    """What is measured, by first voxel: tables with the same rows in any order are equal."""
    rows = zip(*(getattr(table, name).tolist() for name in vars(table)), strict=True)
    return {row[0]: row for row in rows}


# --- measure -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(masks(), st.integers(0, 2**32 - 1), st.sampled_from(["uint8", "uint32", "float16"]))
def test_measures_are_those_of_brute_force(mask, seed, dtype):
    random = np.random.default_rng(seed)
    weights = (random.random(mask.shape) * 255).astype(dtype)
    start = tuple(random.integers(0, 50, 3).tolist())
    volume = tuple(a + n + int(random.integers(0, 50)) for a, n in zip(start, mask.shape, strict=True))
    labels = objects.label(mask)
    table = objects.measure(labels, start, volume, weights)
    assert len(table) == labels.max()
    for row in range(len(table)):
        inside = labels == row + 1
        places = np.argwhere(inside) + start
        assert table.voxels[row] == len(places)
        assert table.sums[row].tolist() == places.sum(axis=0).tolist()
        assert table.low[row].tolist() == places.min(axis=0).tolist()
        assert table.high[row].tolist() == (places.max(axis=0) + 1).tolist()
        assert table.first[row] == np.ravel_multi_index(tuple(places[0]), volume)
        assert table.weight[row] == weights[inside].astype(float).sum()


def test_without_weights_nothing_is_weighed():
    assert objects.measure(np.ones((1, 2, 3), np.int32), (0, 0, 0), (1, 2, 3)).weight.tolist() == [0]


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_an_empty_block_has_an_empty_table(dtype):
    table = objects.measure(np.zeros((2, 3, 4), np.int32), (0, 0, 0), (2, 3, 4), np.ones((2, 3, 4), dtype))
    assert len(table) == 0
    assert len(Table.join([table, table]).grouped(np.zeros(0, int))) == 0


@settings(deadline=None)
@given(masks(), st.data())
def test_measures_of_pieces_add_up_to_those_of_the_whole(mask, data):
    labels = objects.label(mask)
    groups = objects.label(mask)[mask] - 1
    # Every voxel as an object of its own, in any order.
    voxels = np.zeros(mask.shape, np.int32)
    voxels[mask] = np.arange(1, mask.sum() + 1)
    order = np.array(data.draw(st.permutations(range(int(mask.sum())))), int)
    single = objects.measure(voxels, (0, 0, 0), mask.shape).take(order)
    whole = objects.measure(labels, (0, 0, 0), mask.shape)
    together = single.grouped(groups[order])
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))


# --- merge ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(masks(), st.data())
def test_slabs_merge_to_the_components_of_the_whole(mask, data):
    cuts = data.draw(st.sets(st.integers(1, max(1, len(mask) - 1)), max_size=len(mask)).map(sorted))
    blocks = np.split(mask, [cut for cut in cuts if cut < len(mask)])
    labels = [objects.label(block) for block in blocks]
    starts = np.cumsum([0, *map(len, blocks)])[:-1]
    tables = [objects.measure(n, (z, 0, 0), mask.shape) for n, z in zip(labels, starts.tolist(), strict=True)]
    faces = [objects.touching(a[-1], b[0]) for a, b in zip(labels, labels[1:], strict=False)]
    members = objects.merge([len(table) for table in tables], faces)
    merged = Table.join(tables).grouped(members)
    assert pieces(merged) == pieces(objects.measure(objects.label(mask), (0, 0, 0), mask.shape))


@pytest.mark.parametrize("dy", [-1, 0, 1])
@pytest.mark.parametrize("dx", [-1, 0, 1])
def test_voxels_touch_over_faces_edges_and_corners(dy, dx):
    above, below = np.zeros((5, 5), np.int32), np.zeros((5, 5), np.int32)
    above[2, 2], below[2 + dy, 2 + dx] = 7, 4
    assert objects.touching(above, below).tolist() == [[7, 4]]


def test_voxels_two_apart_do_not_touch():
    above, below = np.zeros((5, 5), np.int32), np.zeros((5, 5), np.int32)
    above[2, 2], below[2, 4], below[0, 0] = 1, 1, 2
    assert objects.touching(above, below).shape == (0, 2)


def test_nothing_merges_to_nothing():
    assert objects.merge([0, 0], [np.zeros((0, 2), int)]).tolist() == []


# --- split ---------------------------------------------------------------------------------------


def drawn(*bodies, shape=(48, 48, 64), voxel_size=(1.0, 1.0, 1.0)) -> np.ndarray:
    """The union of ellipsoids (centre, radii), in physical coordinates, in its bounding box."""
    places = np.indices(shape).astype(float) * np.reshape(voxel_size, (3, 1, 1, 1))
    mask = np.zeros(shape, bool)
    for centre, radii in bodies:
        offset = (places - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(np.broadcast_to(radii, 3), (3, 1, 1, 1))
        mask |= (offset**2).sum(axis=0) <= 1
    return mask[ndimage.find_objects(mask.astype(int))[0]]


def count(mask: np.ndarray, voxel_size=(1.0, 1.0, 1.0), depth: float = SPLIT_DEPTH) -> int:
    return int(objects.split(mask, voxel_size, depth).max())


@settings(max_examples=20, deadline=None)
@given(st.floats(5, 9), st.floats(1.3, 1.8), st.floats(0, math.pi), st.floats(0, math.pi))
def test_two_balls_are_cut_between_their_centres(radius, apart, polar, azimuth):
    direction = np.array([math.cos(polar), math.sin(polar) * math.sin(azimuth), math.sin(polar) * math.cos(azimuth)])
    first = np.array([24.0, 24, 32]) - direction * radius * apart / 2
    second = first + direction * radius * apart
    mask = drawn((first, radius), (second, radius))
    parts = objects.split(mask, (1, 1, 1), SPLIT_DEPTH)
    assert parts.max() == 2
    assert ((parts > 0) == mask).all()
    sizes = np.bincount(parts.ravel())[1:]
    assert sizes.min() > 0.85 * sizes.max()


@pytest.mark.parametrize("radius", [1.0, 1.5, 2, 3, 5, 8, 12, 20])
def test_a_ball_stays_whole(radius):
    assert count(drawn(((24, 24, 32), radius))) == 1


@settings(max_examples=20, deadline=None)
@given(st.floats(3, 8), st.floats(1, 3), st.sampled_from([0, 1, 2]))
def test_an_ellipsoid_stays_whole_however_long(radius, longer, axis):
    radii = np.full(3, radius)
    radii[axis] *= longer
    assert count(drawn((np.full(3, 30.0), radii), shape=(60, 60, 60))) == 1


def test_a_bean_stays_whole():
    mask = np.zeros((40, 40, 40), bool)
    places = np.indices(mask.shape)
    for angle in np.linspace(0, 2, 40):  # a thick arc
        centre = np.reshape([20, 20 + 10 * math.sin(angle), 20 + 10 * math.cos(angle)], (3, 1, 1, 1))
        mask |= ((places - centre) ** 2).sum(axis=0) <= 36
    assert count(mask) == 1


def test_a_chain_falls_into_its_balls():
    assert count(drawn(*(((24, 24, 10 + 11 * n), 7.0) for n in range(4)))) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distances_are_physical(axis):
    voxel_size, shape = (3.0, 1.0, 1.0), (20, 60, 60)
    first, second = np.full(3, 30.0), np.full(3, 30.0)
    first[axis], second[axis] = 22, 38
    assert count(drawn((first, 10), (second, 10), shape=shape, voxel_size=voxel_size), voxel_size) == 2
    assert count(drawn((np.full(3, 30.0), 12), shape=shape, voxel_size=voxel_size), voxel_size) == 1


def test_depth_says_how_deep_a_neck_must_be():
    touching = drawn(((24, 24, 22), 8.0), ((24, 24, 34), 8.0))
    assert count(touching, depth=0.05) == 2
    assert count(touching, depth=0.9) == 1


@given(arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))))
@settings(deadline=None)
def test_tiny_objects_keep_all_their_voxels(mask):
    components = objects.label(mask)
    for number in range(1, components.max() + 1):
        parts = objects.split(components == number, (1, 1, 1), 0.1)
        assert ((parts > 0) == (components == number)).all()
        assert set(np.unique(parts[parts > 0])) == set(range(1, parts.max() + 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_objects_of_one_plane_are_cut_in_it(axis):
    def disc(centre):
        y, x = np.indices((40, 60))
        return (y - 20) ** 2 + (x - centre) ** 2 <= 64

    pair = np.expand_dims(disc(20) | disc(32), axis)
    one = np.expand_dims(disc(20), axis)
    assert count(pair) == 2
    assert count(one) == 1


@given(masks())
@settings(deadline=None)
def test_a_cut_covers_the_object_and_its_parts_are_connected(mask):
    components = objects.label(mask)
    if components.max():
        whole = components == 1
        parts = objects.split(whole, (2.0, 1.0, 0.5), 0.1)
        assert ((parts > 0) == whole).all()
        assert all(objects.label(parts == n).max() == 1 for n in range(1, parts.max() + 1))


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32"), (2**32, "uint64")],
)
def test_the_smallest_dtype_that_holds_all_ids(count, dtype):
    assert objects.smallest_dtype(count) == dtype
