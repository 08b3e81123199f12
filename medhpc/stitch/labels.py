"""Labels slab by slab: objects are found, cut apart where they touch, and numbered by their first voxel.

::

    slab 0   label, measure |  merge by the faces  | split what begins here |  number by   | paint
    slab 1   label, measure |       of slabs       | split what begins here | first voxel  | paint
    slab 2   label, measure |                      | split what begins here |              | paint

In memory: about one slab, and the tables of objects. No step depends on where slabs or tiles are cut.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from medhpc import objects
from medhpc.geometry import Box
from medhpc.objects import Table
from medhpc.stitch.components import Components
from medhpc.stitch.parts import Parts


class Labels:
    """The final ids of a volume.

    Parameters
    ----------
    components : Components
        Of all slabs.
    parts : Parts or None
        Of all slabs; None where objects are not cut apart.
    min_size : int
        Voxels; smaller objects and parts are left out.
    """

    def __init__(self, components: Components, parts: Parts | None, min_size: int) -> None:
        self.components, self.parts, self.min_size = components, parts, min_size

    @cached_property
    def table(self) -> Table:
        """The objects; row i has id i + 1."""
        return self._candidates.take(self._order)

    @property
    def dtype(self) -> np.dtype:
        """The smallest that holds all ids."""
        return objects.smallest_dtype(len(self.table))

    @property
    def left_whole(self) -> int:
        """Objects too large to be cut."""
        return 0 if self.parts is None else int(self.parts.left_whole.sum())

    def paint(self, slab: Box) -> np.ndarray:
        """Ids of the voxels of one slab, in the smallest dtype."""
        painted = self.components.paint(slab, self._ids_of_rows)
        if self.parts is not None:
            for row, box, parts in self.parts.inside(slab):
                ids = self._ids_of_parts[row]
                np.copyto(painted[box.relative_to(slab).slices], ids[parts], where=parts > 0)
        return painted

    @cached_property
    def _candidates(self) -> Table:
        """Whole objects, then parts."""
        whole = self.components.table
        return whole if self.parts is None else Table.join([whole, self.parts.table])

    @cached_property
    def _order(self) -> np.ndarray:
        """The rows of candidates that become objects, by first voxel in raster order."""
        kept = self._candidates.voxels >= self.min_size
        if self.parts is not None:
            kept[self.parts.owners] = False
        return np.flatnonzero(kept)[np.argsort(self._candidates.first[kept])]

    @cached_property
    def _ids(self) -> np.ndarray:
        """For each candidate its id, 0 where it is left out."""
        ids = np.zeros(len(self._candidates), self.dtype)
        ids[self._order] = np.arange(1, len(self._order) + 1)
        return ids

    @cached_property
    def _ids_of_rows(self) -> np.ndarray:
        """For each object before cutting its id, then the background's."""
        return np.append(self._ids[: len(self.components.table)], self.dtype.type(0))

    @cached_property
    def _ids_of_parts(self) -> dict[int, np.ndarray]:
        """For each object in parts, the ids of these; that of part 0 is the background's."""
        assert self.parts is not None
        rows, begins = np.unique(self.parts.owners, return_index=True)
        in_turn = np.argsort(begins)
        groups = np.split(self._ids[len(self.components.table) :], begins[in_turn][1:])
        # Where nothing was cut there is one group, empty, and no row.
        with_background = [np.append(self.dtype.type(0), ids) for ids in groups]
        return dict(zip(rows[in_turn].tolist(), with_background, strict=False))
