"""The map of a tile grid: fits its room, and never looks better than the run is."""

from pathlib import Path

import click
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medhpc.cli.tile_map import NAMES, SIGNS, tile_map
from medhpc.jobs.progress import TileState

lengths = st.integers(1, 40)


def grid(z: int, y: int, x: int, *, seed: int = 0, states: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, states, (z, y, x), np.uint8)


def test_every_state_has_a_sign_and_a_name():
    assert tuple(state.name.lower() for state in TileState) == NAMES
    assert len(set(SIGNS)) == len(TileState)


@given(lengths, lengths, lengths, st.integers(20, 120), st.integers(1, 30))
def test_a_map_fits_its_room(z, y, x, width, height):
    drawn = tile_map(grid(z, y, x), width, height)
    assert len(drawn.rows) == len(drawn.labels) <= height
    assert max(map(len, drawn.lines(colour=False)[: len(drawn.rows)])) <= width


@given(lengths, lengths, lengths, st.integers(20, 120), st.integers(1, 30), st.data())
def test_a_sign_shows_the_worst_of_its_tiles(z, y, x, width, height, data):
    """One bad tile among good ones is seen, wherever it is, and seen once."""
    states = np.zeros((z, y, x), np.uint8)
    place = tuple(data.draw(st.integers(0, n - 1)) for n in states.shape)
    states[place] = data.draw(st.sampled_from(TileState))
    drawn = tile_map(states, width, height)
    signs = "".join(drawn.rows).replace(" ", "")
    assert signs.count("#") == len(signs) - (states[place] != TileState.DONE)
    row = drawn.rows[place[0] // drawn.cell[0]].replace(" ", "")
    along_x = -(-x // drawn.cell[2])
    assert row[place[1] // drawn.cell[1] * along_x + place[2] // drawn.cell[2]] == SIGNS[states[place]]


@given(lengths, lengths, lengths)
def test_with_enough_room_a_sign_is_a_tile(z, y, x):
    drawn = tile_map(grid(z, y, x), 2000, 100)
    assert drawn.cell == (1, 1, 1)
    assert [[len(row) for row in slab.split()] for slab in drawn.rows] == [[x] * y] * z


def test_the_map_on_paper():
    states = np.full((4, 3, 8), TileState.DONE, np.uint8)
    states[2:] = TileState.WAITING
    states[1, 1:] = TileState.RUNNING
    states[0, 2, 7] = TileState.FAILED
    states[3, 2] = TileState.MISSING
    maps = [tile_map(states, *room).lines(colour=False) for room in ((80, 24), (20, 24), (12, 2))]
    text = "\n\n".join("\n".join(lines) for lines in maps) + "\n"
    assert text == (Path(__file__).parent / "golden" / "tile_map.txt").read_text()


def test_in_colour_it_says_the_same():
    drawn = tile_map(grid(2, 3, 4))
    coloured = drawn.lines(colour=True)
    assert "\x1b[31m" in "".join(coloured)
    assert [click.unstyle(line) for line in coloured] == drawn.lines(colour=False)
