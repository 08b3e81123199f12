"""Labels slab by slab: objects are found, cut apart where they touch, and numbered by their first voxel.

::

    slab 0   label, measure |  merge by the faces  | split what begins here |  number by   | paint
    slab 1   label, measure |       of slabs       | split what begins here | first voxel  | paint
    slab 2   label, measure |                      | split what begins here |              | paint

In memory: about one slab, and the tables of objects. No step depends on where slabs or tiles are cut. What is found for
all slabs together (merge, number) is kept as well, so that whoever works on one slab need not find it again.
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

    def number(self) -> None:
        """Give ids to the objects of all slabs, cut apart by now, by first voxel in raster order."""
        scratch = self.components.scratch
        if scratch.has("ids.npz"):
            return
        kept = self._candidates.voxels >= self.min_size
        if self.parts is not None:
            kept[self.parts.owners] = False
        in_order = np.flatnonzero(kept)[np.argsort(self._candidates.first[kept])]
        ids = np.zeros(len(kept), objects.smallest_dtype(len(in_order)))
        ids[in_order] = np.arange(1, len(in_order) + 1)
        scratch.save("ids.npz", {"ids": ids})

    # From here on all objects have their ids.

    @cached_property
    def table(self) -> Table:
        """The objects; row i has id i + 1."""
        kept = np.flatnonzero(self._ids)
        return self._candidates.take(kept[np.argsort(self._ids[kept])])

    @property
    def dtype(self) -> np.dtype:
        """The smallest that holds all ids."""
        return self._ids.dtype

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
    def _ids(self) -> np.ndarray:
        """For each candidate its id, 0 where it is left out."""
        return self.components.scratch.load("ids.npz", "ids")["ids"]

    @cached_property
    def _ids_of_rows(self) -> np.ndarray:
        """For each object before cutting its id, then the background's."""
        return np.append(self._ids[: self.components.count], self.dtype.type(0))

    @cached_property
    def _ids_of_parts(self) -> dict[int, np.ndarray]:
        """For each object in parts, the ids of these; that of part 0 is the background's."""
        assert self.parts is not None
        rows, begins = np.unique(self.parts.owners, return_index=True)
        in_turn = np.argsort(begins)
        groups = np.split(self._ids[self.components.count :], begins[in_turn][1:])
        # Where nothing was cut there is one group, empty, and no row.
        with_background = [np.append(self.dtype.type(0), ids) for ids in groups]
        return dict(zip(rows[in_turn].tolist(), with_background, strict=False))
