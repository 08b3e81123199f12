"""The plan: everything that is decided before the first tile is computed, as one JSON file.

A plan holds numbers, not lists: the grid of 10^6 tiles is three integers. It is written once, never changed, and
carries a digest of itself, so that results of different plans cannot mix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medhpc.errors import NotARun
from medhpc.geometry import Box, Grid, Index, Tile, Windows
from medhpc.run.parts import computed_in_parts

VERSION = 4
GPU_ENGINES = ("torch", "triton", "triton-f32")
"""As :mod:`medhpc.engine` has them, which imports torch."""
BASE = 800 * 2**20  # bytes of Python, torch and the libraries, before the first voxel


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input volume, as it was when the plan was made."""

    path: str  # absolute, as the user named it; with ":/dataset" for HDF5
    channel: int | None  # the one channel that is read, or None for all
    level: int  # of an OME-Zarr pyramid
    copy: str  # "" or the place, inside the run folder, of the copy that tiles are read from
    fingerprint: Mapping[str, Any]  # of the file at `path`
    shape: Index
    channels: int
    dtype: str
    voxel_size: tuple[float, float, float] | None  # in `unit`
    unit: str
    affine: tuple[tuple[float, ...], ...] | None  # NIfTI only

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x) in micrometres; None where it is unknown."""
        if self.voxel_size is None:
            return None
        factor = 1000.0 if self.unit == "mm" else 1.0
        z, y, x = (size * factor for size in self.voxel_size)
        return z, y, x


@dataclass(frozen=True, kw_only=True)
class NetworkUsed:
    """Which network the plan is for; its digest must be the same at every step."""

    path: str  # "" for a module that was given from Python
    digest: str
    name: str
    classes: tuple[str, ...]
    receptive_radius: tuple[int, ...] | None
    minimum_shape: Index  # the shortest block that it can pad
    stride: Index  # blocks start at whole multiples of it
    voxel_size: tuple[float, float, float] | None = None  # of its training, in micrometres
    calibrated: bool = False  # it looks at a window of intensities: numbers mean the same in all volumes


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """``(voxel - mean) / std`` per channel, fixed once for the whole volume; empty tuples leave voxels alone."""

    source: str  # "volume", "network" or "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HaloRow:
    """One line of the halo table: what halo `halo` gave on the samples."""

    halo: int  # voxels
    max_error: float  # largest difference to the reference context
    mean_error: float
    flipped: float  # fraction of voxels whose class differs
    work: float  # voxels computed / voxels kept, for a core of the planned tile


@dataclass(frozen=True, kw_only=True)
class Halo:
    """The halo and how far it can be trusted."""

    size: Index
    how: str  # "exact", "measured" or "extrapolated" (searched), "given" (and measured), "none" (blended windows)
    tolerance: float
    samples: int = 0  # boxes measured
    context: int = 0  # halo of the reference, voxels
    reference_is_exact: bool = False
    table: tuple[HaloRow, ...] = ()
    note: str = ""

    @property
    def max_error(self) -> float | None:
        """Largest error measured for the halo in use; 0 where it is exact, None where nothing was measured."""
        if self.how == "exact":
            return 0.0
        found = [row.max_error for row in self.table if row.halo == max(self.size)]
        return found[0] if found else None


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How overlapping windows are weighted; mode ``none`` means that tiles are computed with a halo instead."""

    mode: str  # "none", "gaussian" or "linear"
    window: Index = (0, 0, 0)
    step: Index = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to compute the region, and what it costs."""

    name: str  # "boxes", "columns" or "sweep"
    halo: Index
    exact: bool
    column: Index  # what one sweep writes; of boxes, a tile
    computed: int  # voxels
    bytes: int  # at a time, in one task
    fits: bool  # into the memory


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The tiles of a column are computed together, while its planes stream along z through the network."""

    step: int  # planes that are computed at once
    bytes: int  # that a task uses in all; of several ranks, each
    ranks: int = 1  # that share the rows of the planes


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a tile writes: an array (channels, z, y, x) of the shape of the volume."""

    kind: str  # "probability", "argmax" or "raw"
    dtype: str
    channels: int
    chunk: Index
    shard: Index


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a voxel costs, measured by a probe of this network on the planning machine."""

    seconds_per_voxel: float
    bytes_per_voxel: float  # while the network computes
    memory: int  # bytes that a task may use in all
    block_voxels: int  # so many voxels at once fit in them
    engine: str  # the one that all tasks use: results of engines differ by rounding
    device: str
    threads: int
    needed: float = 1.0  # of the computing on a tile's read box, the part that its write box depends on

    @property
    def can_use_gpus(self) -> bool:
        """Whether tasks with a GPU compute on it: the other engines are for CPUs, wherever they run."""
        return self.engine in GPU_ENGINES


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a run, decided before it starts."""

    source: Source
    network: NetworkUsed
    normalization: Normalization
    halo: Halo
    blend: Blend
    stored: Stored
    cost: Cost
    tile: Index
    region: Box
    nan: str = "refuse"  # or "zero"
    sweep: Sweep | None = None
    schemes: tuple[Scheme, ...] = ()  # that were compared
    request: Mapping[str, Any] = field(default_factory=dict)  # the options as the user gave them
    created: str = ""  # ISO time
    medhpc: str = ""  # version

    @property
    def grid(self) -> Grid:
        """The tiles of this run."""
        return self._grid(self.tile)

    @property
    def columns(self) -> Grid:
        """What a sweep computes at a time: all planes of the tiles that lie behind each other."""
        return self._grid((self.source.shape[0], *self.tile[1:]))

    def _grid(self, tile: Index) -> Grid:
        network, columns = self.network, self.sweep is not None
        context = (self.halo.size, self.region, network.minimum_shape, network.stride)
        return Grid(self.source.shape, tile, *context, in_columns=columns)

    @property
    def scheme(self) -> str:
        """How it is computed: "boxes", "columns", or "sweep" where there is one column."""
        if not self.sweep:
            return "boxes"
        return "sweep" if len(self.columns) == 1 else "columns"

    @property
    def windows(self) -> Windows:
        """The global window grid of a blended run."""
        return Windows(self.source.shape, self.blend.window, self.blend.step)

    @property
    def most_read(self) -> int:
        """Voxels of the largest box that a tile reads."""
        if self.blend.mode == "none":
            return self.grid.largest_read()
        extents = zip(self.tile, self.blend.window, self.source.shape, strict=True)
        return math.prod(min(tile + 2 * (window - 1), length) for tile, window, length in extents)

    @property
    def splits(self) -> bool:
        """Whether a tile with its halo does not fit in the memory, so that it is computed in parts."""
        return self.blend.mode == "none" and not self.sweep and self.most_read > self.cost.block_voxels

    @property
    def computed_voxels(self) -> int:
        """Voxels that the network computes for all tiles together, parts with their own halos included."""
        if self.sweep:
            return self.columns.read_voxels()
        if self.blend.mode != "none":
            return self.windows.voxels_touching(self.grid)
        return computed_in_parts(self.grid, self.cost.block_voxels) if self.splits else self.grid.read_voxels()

    @property
    def seconds(self) -> float:
        """What all tiles together take, on the machine that planned them."""
        return self.computed_voxels * self.cost.seconds_per_voxel * self.cost.needed

    @property
    def memory_bytes(self) -> int:
        """What a task is expected to use; at most the limit that the plan was made for."""
        if self.sweep:
            return self.sweep.bytes
        largest = min(self.cost.block_voxels, self.most_read)
        return int(BASE + largest * (self.cost.memory - BASE) / self.cost.block_voxels)

    @property
    def stored_bytes(self) -> int:
        """What all tiles take on the disk, before compression."""
        return self.region.size * self.stored.channels * np.dtype(self.stored.dtype).itemsize

    def read_box(self, tile: Tile) -> Box:
        """The voxels that `tile` needs: its read box, or the hull of the windows that touch its write box."""
        return tile.read if self.blend.mode == "none" else self.windows.hull(tile.write)

    @property
    def digest(self) -> str:
        """Digest of every decision in the plan (sha256, 16 hexadecimal digits)."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        return json.dumps({"version": VERSION, "digest": self.digest, "plan": asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read ``plan.json``.

        Raises
        ------
        NotARun
            Not a plan, a plan of another version, or one that was edited.
        """
        try:
            file = json.loads(text)
            version, digest = file["version"], file["digest"]
        except (ValueError, TypeError, KeyError) as error:
            raise NotARun("plan.json is not a medhpc plan (damaged?); make a new run with 'medhpc tile'") from error
        if version != VERSION:
            raise NotARun(f"plan.json has version {version}, this medhpc reads version {VERSION}; make a new run")
        try:
            plan = cls._from_dict(_tuples(file["plan"]))
        except (TypeError, KeyError) as error:
            raise NotARun("plan.json lacks or adds fields (edited?); make a new run with 'medhpc tile'") from error
        if plan.digest != digest:
            raise NotARun("plan.json was changed after 'medhpc tile' wrote it; make a new run")
        return plan

    @classmethod
    def _from_dict(cls, fields: dict[str, Any]) -> Plan:
        halo = fields["halo"] | {"table": tuple(HaloRow(**row) for row in fields["halo"]["table"])}
        parts = {
            "source": Source(**fields["source"]),
            "network": NetworkUsed(**fields["network"]),
            "normalization": Normalization(**fields["normalization"]),
            "halo": Halo(**halo),
            "blend": Blend(**fields["blend"]),
            "stored": Stored(**fields["stored"]),
            "cost": Cost(**fields["cost"]),
            "sweep": Sweep(**fields["sweep"]) if fields["sweep"] else None,
            "schemes": tuple(Scheme(**row) for row in fields["schemes"]),
            "region": Box(**fields["region"]),
        }
        return cls(**(fields | parts))


def _tuples(value: Any) -> Any:
    """JSON has no tuples: turn its lists back into them, at every depth."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
