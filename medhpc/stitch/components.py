"""Components of slabs, and the objects that they make where they touch across the faces of slabs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from medhpc import objects
from medhpc.geometry import Box, Index
from medhpc.objects import Table
from medhpc.stitch.foreground import Foreground
from medhpc.stitch.scratch import Scratch

COLUMNS = tuple(Table.__dataclass_fields__)


class Components:
    """Each slab is labelled once, by itself; the planes on both sides of a face tell what belongs together.

    In memory: one slab while it is labelled, then a row for each component.

    Parameters
    ----------
    slabs : list of Box
        One after the other along z.
    volume : (z, y, x)
        Shape of the whole volume.
    array : zarr.Array
        Where components are kept, (z, y, x) uint32, numbered from 1 in each slab.
    scratch : Scratch
        Where tables are kept; slabs that stand there are not labelled again.
    """

    def __init__(self, slabs: list[Box], volume: Index, array: Any, scratch: Scratch) -> None:
        self.slabs, self.volume, self.array, self.scratch = slabs, volume, array, scratch

    def label(self, number: int, foreground: Foreground) -> None:
        """Label one slab and measure its components."""
        if self.scratch.has(f"slab-{number}.npz"):
            return
        slab = self.slabs[number]
        mask, weights = foreground.read(slab)
        labels = objects.label(mask)
        self.array[slab.slices] = labels.astype(np.uint32)
        table = objects.measure(labels, slab.start, self.volume, weights)
        self.scratch.save(f"slab-{number}.npz", vars(table) | {"first_plane": labels[0], "last_plane": labels[-1]})

    def merge(self) -> None:
        """Find out which components of all slabs, labelled by now, are one object."""
        if self.scratch.has("merged.npz"):
            return
        numbers = range(len(self.slabs))
        counts = [len(self.scratch.load(f"slab-{number}.npz", "voxels")["voxels"]) for number in numbers]
        rows = objects.merge(counts, [self._face(number) for number in numbers[:-1]])
        self.scratch.save("merged.npz", {"rows": rows.astype(np.int32), "counts": np.array(counts, np.int64)})

    # From here on all components are merged.

    @cached_property
    def table(self) -> Table:
        """The objects; rows in no particular order."""
        numbers = range(len(self.slabs))
        measured = [Table(**self.scratch.load(f"slab-{number}.npz", *COLUMNS)) for number in numbers]
        return Table.join(measured).grouped(np.concatenate(self._rows))

    @cached_property
    def count(self) -> int:
        """How many objects there are."""
        return 1 + max((int(rows.max(initial=-1)) for rows in self._rows), default=-1)

    @cached_property
    def begins(self) -> np.ndarray:
        """Number of the slab in which each object begins."""
        faces = [slab.start[0] for slab in self.slabs[1:]]
        return np.searchsorted(faces, self.table.low[:, 0], side="right")

    def paint(self, box: Box, values: np.ndarray) -> np.ndarray:
        """The value of the object at each voxel, (z, y, x); `values` (rows + 1,) ends with the background's."""
        painted = np.empty(box.shape, values.dtype)
        for slab, rows in zip(self.slabs, self._rows, strict=True):
            piece = slab.intersection(box)
            if piece.size:
                of_components = values[np.append(-1, rows)]
                planes = painted[piece.relative_to(box).slices]
                # Plane by plane, as indices are turned into 64 bits. Nothing is clipped; "raise" would copy the planes.
                for plane, components in zip(planes, self.array[piece.slices], strict=True):
                    plane[...] = np.take(of_components, components, mode="clip")
        return painted

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        """For each slab, the row of the object that each component belongs to."""
        merged = self.scratch.load("merged.npz", "rows", "counts")
        return np.split(merged["rows"], np.cumsum(merged["counts"])[:-1])

    def _face(self, number: int) -> np.ndarray:
        """The components that touch between a slab and the next."""
        above = self.scratch.load(f"slab-{number}.npz", "last_plane")["last_plane"]
        below = self.scratch.load(f"slab-{number + 1}.npz", "first_plane")["first_plane"]
        return objects.touching(above, below)
