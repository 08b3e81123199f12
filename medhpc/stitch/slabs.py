"""Reading what is proven, and writing it slab by slab with Dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medhpc.errors import MissingTiles
from medhpc.geometry import Box
from medhpc.run import Run


class ProvenTiles:
    """The stored tiles of a run as an array (channels, z, y, x), whose damage is told in our own words."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._array = run.shards.array
        self.shape, self.dtype, self.ndim = self._array.shape, self._array.dtype, 4

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            return np.asarray(self._array[index])
        except (ValueError, OSError) as error:  # checksums that do not fit; a shard cut short or gone
            raise MissingTiles(
                f"stored tiles of {self._run.folder} are damaged ({error}); "
                f"mend them with 'medhpc infer {self._run.folder}'"
            ) from error

    def read(self, box: Box) -> np.ndarray:
        """A box of all channels."""
        return self[(slice(None), *box.slices)]


def whole_planes(region: Box, volume: tuple[int, ...], thickness: int) -> list[Box]:
    """Slabs of whole planes that hold `region`; their faces stand at multiples of `thickness`."""
    starts = range(region.start[0] // thickness * thickness, region.stop[0], thickness)
    _, height, length = volume
    return [Box((z, 0, 0), (min(z + thickness, volume[0]), height, length)) for z in starts]


def store_slab(
    source: ProvenTiles, target: Any, slab: Box, reduce: Callable[[np.ndarray], np.ndarray] | None = None
) -> None:
    """Write one slab of `target` from the same voxels of `source`, in parallel, a shard of the target at a time.

    Parameters
    ----------
    target : zarr.Array
        (z, y, x), or (channels, z, y, x) where the source has several.
    slab : Box
        Whole shards of the target along z.
    reduce : callable, optional
        (channels, z, y, x) -> (z, y, x), voxel by voxel.
    """
    import dask
    import dask.array as da

    # Blocks are the target's shards, so that no two of them write the same file (dask cannot know that).
    shard = target.shards or target.chunks
    blocks = da.from_array(source, chunks=(source.shape[0], *shard[-3:]), asarray=False, inline_array=True)
    block = blocks[(slice(None), *slab.slices)]
    if reduce is not None:
        block = block.map_blocks(reduce, drop_axis=0, dtype=target.dtype, meta=np.empty((0, 0, 0), target.dtype))
    elif len(target.shape) == 3:
        block = block[0]
    region = slab.slices if len(target.shape) == 3 else (slice(None), *slab.slices)
    with dask.config.set(scheduler="threads"):
        da.store(block, target, regions=region, lock=False)
