"""The tile grid as text: one line a z-slab, its rows of tiles beside each other.

::

    z 0  ######## ######## ####>>>> >>>>....
    z 1  .x...... ........ ........ ........
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNS = "#>.-x"  # by TileState: done, running, waiting, missing, failed
NAMES = ("done", "running", "waiting", "missing", "failed")
STYLES: dict[str, dict[str, Any]] = {
    "#": {"fg": "green"},
    ">": {"fg": "cyan", "bold": True},
    ".": {"dim": True},
    "-": {"fg": "yellow"},
    "x": {"fg": "red", "bold": True},
}


@dataclass(frozen=True, kw_only=True)
class TileMap:
    """The lines of a map, and the (z, y, x) tiles that one sign stands for."""

    labels: tuple[str, ...]
    rows: tuple[str, ...]
    cell: tuple[int, int, int]

    def lines(self, *, colour: bool) -> list[str]:
        """The map, and what its signs mean."""
        width = max(map(len, self.labels))
        paint = _painted if colour else str
        lines = [f"z {label:{width}}  {paint(row)}" for label, row in zip(self.labels, self.rows, strict=True)]
        there = [(sign, name) for sign, name in zip(SIGNS, NAMES, strict=True) if any(sign in row for row in self.rows)]
        legend = ["  ".join(f"{paint(sign)} {name}" for sign, name in there)]
        if self.cell != (1, 1, 1):
            legend.append(f"a sign is {' x '.join(map(str, self.cell))} tiles, and shows the worst of them")
        return [*lines, "", *legend]


def tile_map(states: NDArray[Any], width: int = 80, height: int = 24) -> TileMap:
    """Draw the states of a tile grid, as large as there is room.

    Parameters
    ----------
    states : (z, y, x) array
        :class:`medhpc.jobs.progress.TileState` of each tile; where a sign must stand for several, the largest shows.
    width, height : int
        Columns, and lines for the slabs.
    """
    z, y, x = states.shape
    slabs = -(-z // max(1, height))
    labels = tuple(_label(low, min(low + slabs, z) - 1) for low in range(0, z, slabs))
    room = max(1, width - len(max(labels, key=len)) - 4)
    cell = (slabs, *_cell(y, x, room))
    worst = _worst(states, cell)
    _, rows, signs = worst.shape
    gap = " " if rows * (signs + 1) - 1 <= room else ""
    drawn = tuple(gap.join("".join(SIGNS[state] for state in row) for row in slab) for slab in worst.tolist())
    return TileMap(labels=labels, rows=drawn, cell=cell)


def _label(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else f"{first}"


def _cell(y: int, x: int, room: int) -> tuple[int, int]:
    """Tiles along y and x that a sign must stand for, so that a slab fits into `room` columns.

    Rows of the grid stay apart, with a gap between them, as long as each can have one sign.
    """
    signs = (room + 1) // y - 1  # of a row of the grid, beside its gap
    if signs >= 1:
        return 1, -(-x // signs)
    return -(-y // room), x


def _worst(states: NDArray[Any], cell: tuple[int, int, int]) -> NDArray[Any]:
    """The largest of each cell; cells at the end may be cut."""
    import numpy as np

    for axis, length in enumerate(cell):
        states = np.maximum.reduceat(states, range(0, states.shape[axis], length), axis=axis)
    return states


def _painted(text: str) -> str:
    """The text with the colour of each sign, one escape sequence for signs in a row."""
    parts, start = [], 0
    for end in range(1, len(text) + 1):
        if end == len(text) or text[end] != text[start]:
            parts.append(click.style(text[start:end], **STYLES.get(text[start], {})))
            start = end
    return "".join(parts)
