"""Three ways to compute a volume, and what each costs.

::

    boxes      tiles with a halo on all sides; as many tasks as there are tiles
    columns    a halo in y and x only: planes stream along z through each column (:meth:`medhpc.engine.Engine.sweep`)
    sweep      one column of whole planes: exact, nothing is computed twice

A column needs memory for its plane, whatever its length along z: some hundred planes of each map. So deep networks on
large planes want columns, and shallow ones, or small planes, a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from medhpc.engine import Engine
from medhpc.errors import BadOption
from medhpc.geometry import Box, Grid, Index
from medhpc.ranks.slabs import divide
from medhpc.run.parts import computed_in_parts
from medhpc.run.plan import BASE, Cost, Halo, Scheme, Stored, Sweep
from medhpc.run.shards import EDGE
from medhpc.tiling.size import LONGEST, LOSS, STEP
from medhpc.volume import Volume

NAMES = ("auto", "boxes", "columns", "sweep")
PLANES = 8
"""Blocks of a step that wait before and behind the computing, in the numbers of the volume and as float32."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """What was chosen: halo and tile, and whether the tiles behind each other are a column."""

    halo: Halo
    tile: Index
    sweep: Sweep | None = None
    schemes: tuple[Scheme, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sweeping:
    """What decides which columns there are.

    Attributes
    ----------
    engine : Engine
    volume : Volume
    region : Box
    stored : Stored
        Without its shards.
    memory : int
        Bytes that a task may use.
    seconds_per_voxel : float
    ranks : int
        That share the rows of a column.
    size : (z, y, x), optional
        Of a column along y and x, and of what is stored of it at a time along z, where the user says so.
    """

    engine: Engine
    volume: Volume
    region: Box
    stored: Stored
    memory: int
    seconds_per_voxel: float
    ranks: int = 1
    size: Index | None = None

    @property
    def step(self) -> int:
        """Planes of a step."""
        return self.engine.sweep_step

    @property
    def radius(self) -> int:
        """Of the network's sight."""
        return int(max(self.engine.network.receptive_radius))

    def scheme(self, name: str, halo: Halo) -> Scheme:
        """Columns with this halo in y and x, and the exact one along z; of a sweep, one column."""
        size = (self.radius, *halo.size[1:])
        lengths = [[self.volume.shape[axis]] if name == "sweep" else self._lengths(axis) for axis in (1, 2)]
        columns = [(self.volume.shape[0], y, x) for y in lengths[0] for x in lengths[1]]
        computed = [self._grid(column, size).read_voxels() for column in columns]
        best = None
        for number in np.argsort(computed, kind="stable"):
            one = self._costed(name, columns[number], size, halo.how == "exact", computed[number])
            best = one if best is None or one.bytes < best.bytes else best
            if one.fits:
                return one
        assert best is not None
        return best

    def tile(self, column: Index) -> Index:
        """What a column writes at a time: as many planes as a shard, or fewer, so that a kill costs little."""
        plane = self._grid(column, (0, 0, 0)).largest_read() // self.volume.shape[0] * self.seconds_per_voxel
        if self.size:
            return self.size[0], column[1], column[2]
        planes = EDGE
        while planes > EDGE // STEP and planes * plane > LOSS:
            planes //= 2
        return min(planes, column[0]), column[1], column[2]

    def _costed(self, name: str, column: Index, halo: Index, exact: bool, computed: int) -> Scheme:
        grid = self._grid(column, halo)
        z, y, x = (max(grid.reads_along(axis)) for axis in range(3))
        y = self._rows(y)
        numbers = self.volume.dtype.itemsize + 2 * 4
        waiting = PLANES * self.step * self.volume.channels * numbers
        written = 2 * self.tile(column)[0] * self.stored.channels * np.dtype(self.stored.dtype).itemsize
        needed = BASE + self.engine.sweep_bytes((z, y, x), self.step) + (waiting + written) * y * x
        return Scheme(
            name=name,
            halo=halo,
            exact=exact,
            column=column,
            computed=computed,
            bytes=needed,
            fits=needed <= self.memory,
        )

    def _rows(self, length: int) -> int:
        """Of a column, the rows that the rank with most of them keeps: its own, and its neighbours' beside them."""
        reach = max(self.engine.network.dilations) if self.ranks > 1 else 0
        slabs = divide(length, self.ranks, least=max(reach, 1), what="rows")
        return max(len(rows) + reach * ((n > 0) + (n < self.ranks - 1)) for n, rows in enumerate(slabs.all()))

    def _grid(self, column: Index, halo: Index) -> Grid:
        least = tuple(self.engine.network.minimum_shape)
        return Grid(self.volume.shape, column, halo, self.region, (least[0], least[1], least[2]))

    def _lengths(self, axis: int) -> list[int]:
        """Of columns along y or x: quarters of a shard, whole shards, or all."""
        length = self.volume.shape[axis]
        if self.size:
            return [self.size[axis]]
        parts = range(EDGE // STEP, EDGE, EDGE // STEP)
        return [n for n in (*parts, *range(EDGE, LONGEST * EDGE, EDGE)) if n < length] + [length]


def boxes(grid: Grid, halo: Halo, cost: Cost) -> Scheme:
    """Tiles of this size with this halo."""
    grid = replace(grid, halo=halo.size)
    voxels = min(grid.largest_read(), cost.block_voxels)
    return Scheme(
        name="boxes",
        halo=halo.size,
        exact=halo.how == "exact",
        column=grid.tile,
        computed=computed_in_parts(grid, cost.block_voxels),
        bytes=int(BASE + voxels * (cost.memory - BASE) / cost.block_voxels),
        fits=True,
    )


def why_no_sweep(engine: Engine, blend: str) -> str:
    """Why planes cannot stream through this network here; "" where they can."""
    if blend != "none":
        return "windows are blended"
    if not engine.sweeps:
        return f"engine '{engine.name}' computes whole blocks of this network (native and torch those of MS-D networks)"
    return "a 2D network sees each plane by itself" if engine.network.ndim == 2 else ""


def choose_scheme(name: str, schemes: Sequence[Scheme], memory: int, *, exact: bool) -> Scheme:
    """The scheme asked for; with ``auto`` boxes, or of the exact ones what computes the fewest voxels.

    Raises
    ------
    BadOption
        It does not fit into the memory.
    """
    if name == "auto" and not exact:
        return schemes[0]
    named = [one for one in schemes if name in ("auto", one.name) and (one.exact or not exact)]
    fitting = [one for one in named if one.fits]
    if not fitting:
        _refuse(named[0], memory)
    return min(fitting, key=lambda one: one.computed) if name == "auto" else fitting[0]


def _refuse(scheme: Scheme, memory: int) -> NoReturn:
    got, need = (f"{math.ceil(bytes / 2**30 * 100) / 100:.2f}G" for bytes in (memory, scheme.bytes))
    other = "columns or boxes" if scheme.name == "sweep" else "boxes"
    raise BadOption(f"scheme '{scheme.name}' needs --memory {need} at least, {got} are allowed; or use {other}")
