"""The laws of boxes, grids and windows, then a case by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhpc.errors import BadOption
from medhpc.geometry import Box, Grid, Windows, parse_index, parse_region

lengths = st.tuples(*[st.integers(1, 40)] * 3)


@st.composite
def boxes(draw, shape):
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return Box(tuple(start), tuple(stop))


@st.composite
def grids(draw):
    volume = draw(lengths)
    halo = draw(st.tuples(*[st.integers(0, 12)] * 3))
    return Grid(volume, draw(lengths), halo, draw(boxes(volume)), draw(st.tuples(*[st.integers(1, 15)] * 3)))


@given(grids())
def test_every_voxel_of_the_region_is_written_once(grid):
    written = np.zeros(grid.volume, int)
    for tile in grid:
        written[tile.write.slices] += 1
    expected = np.zeros(grid.volume, int)
    expected[grid.region.slices] = 1
    np.testing.assert_array_equal(written, expected)


@given(grids())
def test_reads_hold_the_halo_and_stay_in_the_volume(grid):
    whole = Box.whole(grid.volume)
    for tile in grid:
        assert whole.contains(tile.read)
        assert tile.read.contains(tile.write.grow(grid.halo).intersection(whole))
        assert all(n >= min(m, v) for n, m, v in zip(tile.read.shape, grid.least, grid.volume, strict=True))


@given(grids())
def test_indices_and_sums_agree_with_the_list_of_tiles(grid):
    tiles = list(grid)
    assert [tile.index for tile in tiles] == list(range(len(grid)))
    assert grid.read_voxels() == sum(tile.read.size for tile in tiles)
    assert grid.largest_read() == max(tile.read.size for tile in tiles)
    assert grid.read_amplification >= 1


@given(grids(), st.data())
def test_touching_finds_exactly_the_tiles_that_meet_a_box(grid, data):
    box = data.draw(boxes(grid.volume))
    expected = [tile for tile in grid if tile.write.intersection(box).size]
    assert list(grid.touching(box)) == expected


@given(lengths, st.data())
def test_a_region_cuts_where_the_whole_volume_cuts(volume, data):
    tile, region = data.draw(lengths), data.draw(boxes(volume))
    whole = {t.write for t in Grid(volume, tile, (0, 0, 0), Box.whole(volume))}
    for part in Grid(volume, tile, (0, 0, 0), region):
        assert any(full.contains(part.write) for full in whole)


@given(lengths, lengths, lengths)
def test_windows_cover_the_volume_and_fit_into_it(volume, window, step):
    step = tuple(min(s, w) for s, w in zip(step, window, strict=True))
    covered = np.zeros(volume, int)
    for box in Windows(volume, window, step).touching(Box.whole(volume)):
        assert Box.whole(volume).contains(box)
        assert box.shape == tuple(min(w, v) for w, v in zip(window, volume, strict=True))
        covered[box.slices] += 1
    assert covered.min() >= 1


@given(grids(), lengths, lengths)
def test_window_sums_agree_with_the_list(grid, window, step):
    windows = Windows(grid.volume, window, step)
    listed = sum(box.size for tile in grid for box in windows.touching(tile.write))
    assert windows.voxels_touching(grid) == listed


@given(lengths, lengths, st.data())
def test_hull_holds_every_window_that_touches(volume, window, data):
    windows = Windows(volume, window, tuple(max(1, w // 2) for w in window))
    box = data.draw(boxes(volume))
    hull = windows.hull(box)
    assert hull.contains(box)
    assert all(hull.contains(met) for met in windows.touching(box))


def test_a_grid_by_hand():
    grid = Grid((4, 6, 10), (4, 4, 4), (1, 1, 1), Box.whole((4, 6, 10)))
    assert grid.counts == (1, 2, 3)
    middle = grid[4]
    assert middle.write == Box((0, 4, 4), (4, 6, 8))
    assert middle.read == Box((0, 3, 3), (4, 6, 9))


@given(lengths, st.data())
def test_boxes_and_their_text(volume, data):
    box = data.draw(boxes(volume))
    assert parse_region(str(box), volume) == box
    other = data.draw(boxes(volume))
    assert box.relative_to(other).shift(other.start) == box
    assert box.contains(box.intersection(other)) or not box.intersection(other).size


def test_empty_ends_of_a_region_mean_the_whole_axis():
    assert parse_region(":,2:, :5", (4, 6, 10)) == Box((0, 2, 0), (4, 6, 5))


@pytest.mark.parametrize("text", ["1:2", "1:2,3:4", "a:b,:,:", "2:1,:,:", ":5,:,:", "-1:2,:,:", "1:1,:,:", "1,2,3"])
def test_bad_regions_are_refused_with_the_reason(text):
    with pytest.raises(BadOption, match="region"):
        parse_region(text, (4, 6, 10))


@pytest.mark.parametrize(("text", "value"), [("8", (8, 8, 8)), ("1,2,3", (1, 2, 3)), (" 4, 5 ,6", (4, 5, 6))])
def test_an_index(text, value):
    assert parse_index(text, "tile") == value


@pytest.mark.parametrize("text", ["", "0", "1,2", "1,2,x", "1,-2,3", "1.5"])
def test_bad_indices_are_refused(text):
    with pytest.raises(BadOption, match="tile"):
        parse_index(text, "tile")
