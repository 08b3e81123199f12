"""Write OME-Zarr 0.5: Zarr v3, sharded, checksummed, with a pyramid.

The axes are z y x, after c where there are channels. Level n+1 halves the axes whose voxels are not yet about twice as
long as the shortest, so that voxels become cubes while they grow (https://ngff.openmicroscopy.org/0.5/).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from medhpc.errors import BadOption
from medhpc.geometry import Index
from medhpc.volume.chunking import chunks_and_shards
from medhpc.volume.codecs import codecs_for
from medhpc.volume.formats import is_zarr
from medhpc.volume.layout import check_not_empty
from medhpc.volume.units import VoxelSize
from medhpc.volume.writer import Specification
from medhpc.volume.zarr import chunk_file

_SMALLEST = 256  # voxels; a level this small is the last
_THREADS = min(4, os.cpu_count() or 1)
_BATCH = 256  # shards handed to the threads at once, of millions
_UNITS = {"um": "micrometer", "mm": "millimeter"}

Level: TypeAlias = zarr.Array[Any]


class OmeZarrTarget:
    """Full resolution first, slab by slab; the pyramid when it is closed."""

    def __init__(
        self,
        folder: Path,
        specification: Specification,
        *,
        levels: int | None,
        chunks: Index | None,
        shards: Index | None,
        labels: bool,
        compression: bool,
    ) -> None:
        self._group = create_ome_zarr(
            folder,
            specification.shape,
            specification.dtype,
            channels=specification.channels,
            voxel_size=specification.voxel_size,
            unit=specification.unit,
            levels=levels,
            chunks=chunks,
            shards=shards,
            labels=labels,
            compression=compression,
        )
        self._labels = labels
        self._has_channels = specification.channels > 0
        self._full = _level(self._group, 0)
        self.slab = _shards(self._full)[-3]

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Write planes from `z0` on."""
        voxels = block if self._has_channels else block[0]

        def write_shard(inside: tuple[slice, ...]) -> None:
            *lead, planes, rows, columns = inside
            target = (*lead, slice(z0 + planes.start, z0 + planes.stop), rows, columns)
            self._full[target] = voxels[inside]

        # One call per shard: where one fails, no other is still being written when the error arrives here.
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(write_shard, _cells(voxels.shape, _shards(self._full))))

    def finish(self) -> None:
        """Build the pyramid."""
        build_pyramid(self._group, labels=self._labels)

    def close(self) -> None:
        """Nothing stays open."""


def create_ome_zarr(
    folder: str | Path,
    shape: Index,
    dtype: np.dtype[Any],
    *,
    channels: int = 0,
    voxel_size: VoxelSize | None = None,
    unit: str = "",
    levels: int | None = None,
    chunks: Index | None = None,
    shards: Index | None = None,
    labels: bool = False,
    compression: bool = True,
) -> zarr.Group:
    """Create an OME-Zarr image without voxels: its metadata and the arrays "0", "1", ...

    Parameters
    ----------
    shape : (z, y, x)
        Voxels of the full resolution.
    channels : int
        0 for no channel axis.
    voxel_size, unit
        (z, y, x) in ``um`` or ``mm``.
    levels : int, optional
        Levels of the pyramid; by default until no axis is longer than 256.
    chunks, shards : (z, y, x), optional
        By default as :func:`medhpc.volume.chunking.chunks_and_shards` says. Write whole shards only: a shard has one
        owner. `group["0"].shards` are those in use.
    labels : bool
        How :func:`build_pyramid` will be called; levels of means lie half a voxel further than those of labels.
    compression : bool
        As :func:`medhpc.volume.codecs.codecs_for` says; a CRC32C guards every chunk in either case.

    Returns
    -------
    zarr.Group
        Open for reading and writing.

    Raises
    ------
    BadOption
        A Zarr is there already, or shards are not a whole number of chunks.
    NotAVolume
        An axis has no voxels.
    """
    check_not_empty(shape)
    if is_zarr(Path(folder)):
        raise BadOption(f"{folder}: a Zarr is there already; remove it or choose another name")
    group = zarr.create_group(LocalStore(folder), zarr_format=3)
    factors = _level_factors(shape, voxel_size, levels)
    lead, names = ((channels,), ["c", "z", "y", "x"]) if channels else ((), ["z", "y", "x"])
    for level, factor in enumerate(factors):
        small = _divided(shape, factor)
        plane_bytes = max(1, channels) * small[1] * small[2] * np.dtype(dtype).itemsize
        chunk, shard = chunks_and_shards(small, plane_bytes, chunks, shards)
        group.create_array(
            str(level),
            shape=(*lead, *small),
            dtype=dtype,
            chunks=(*(1 for _ in lead), *chunk),
            shards=(*(1 for _ in lead), *shard),
            compressors=codecs_for(dtype, labels=labels) if compression else [Crc32cCodec()],
            dimension_names=names,
            fill_value=0,
        )
    name = Path(folder).name.removesuffix(".zarr").removesuffix(".ome")
    group.attrs["ome"] = _metadata(name, names, factors, voxel_size, unit, labels=labels)
    return group


def build_pyramid(group: zarr.Group, *, labels: bool, progress: Callable[[int, int], None] | None = None) -> None:
    """Fill levels 1, 2, ... of an image, each from the one before, shard by shard.

    Memory is a few shards, whatever the size of the volume. A shard that is there already is left as it is: the same
    call after a kill goes on where that one ended.

    Parameters
    ----------
    labels : bool
        Take one voxel of eight instead of their mean.
    progress : callable, optional
        Called with shards done and shards in all.
    """
    names = sorted((name for name in group.array_keys() if name.isdecimal()), key=int)
    pairs = [(_level(group, int(name) - 1), _level(group, int(name))) for name in names[1:]]
    total = sum(1 for _, target in pairs for _ in _cells(target.shape, _shards(target)))
    done = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        for source, target in pairs:  # a level must be whole before the next one reads it

            def fill(cell: tuple[slice, ...], source: Level = source, target: Level = target) -> None:
                if not _is_there(target, cell):
                    _shrink(source, target, cell, labels=labels)

            cells = _cells(target.shape, _shards(target))
            while batch := list(itertools.islice(cells, _BATCH)):
                for _ in threads.map(fill, batch):
                    done += 1
                    if progress:
                        progress(done, total)


def rows_of_levels(group: zarr.Group) -> list[tuple[int, int]]:
    """The pyramid above the full resolution as (level, row): a row is the shards that lie side by side in z.

    For those who fill it by :func:`fill_row`, a level after the one before it, the rows of a level in any order.
    """
    levels = [_level(group, level) for level in range(1, len(list(group.array_keys())))]
    counts = [-(-level.shape[-3] // _shards(level)[-3]) for level in levels]
    return [(level, row) for level, count in enumerate(counts, start=1) for row in range(count)]


def fill_row(group: zarr.Group, level: int, row: int, *, labels: bool) -> None:
    """Fill one row of shards of one level; what is there already is left as it is. See :func:`build_pyramid`."""
    source, target = _level(group, level - 1), _level(group, level)
    height = _shards(target)[-3]
    cells = [cell for cell in _cells(target.shape, _shards(target)) if cell[-3].start == row * height]
    with ThreadPoolExecutor(_THREADS) as threads:
        todo = (cell for cell in cells if not _is_there(target, cell))
        list(threads.map(lambda cell: _shrink(source, target, cell, labels=labels), todo))


def _shrink(source: Level, target: Level, cell: tuple[slice, ...], *, labels: bool) -> None:
    """Fill one shard of a level from the level before."""
    factor = tuple(2 if n > m else 1 for n, m in zip(source.shape, target.shape, strict=True))
    larger = tuple(slice(c.start * f, c.stop * f) for c, f in zip(cell, factor, strict=True))  # beyond the end: clipped
    block = np.asarray(source[larger])
    target[cell] = block[tuple(slice(None, None, f) for f in factor)] if labels else mean_of(block, factor)


def mean_of(block: np.ndarray[Any, Any], factor: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Mean over cells of `factor` voxels, rounded for integers; an odd last voxel counts double."""
    odd = [(0, -n % f) for n, f in zip(block.shape, factor, strict=True)]
    block = np.pad(block, odd, mode="edge") if any(extra for _, extra in odd) else block
    small = block.dtype.kind in "iu" and block.dtype.itemsize <= 2
    corners = itertools.product(*map(range, factor))
    views = [block[tuple(slice(a, None, f) for a, f in zip(corner, factor, strict=True))] for corner in corners]
    total: np.ndarray[Any, Any] = views[0].astype(np.float32 if small or block.dtype.itemsize <= 2 else np.float64)
    for view in views[1:]:
        total += view
    total /= len(views)
    if block.dtype.kind in "iu":
        np.rint(total, out=total)
    return total.astype(block.dtype)


def _level_factors(shape: Index, voxel_size: VoxelSize | None, levels: int | None) -> list[Index]:
    """By how much each level is smaller than the full resolution, along z, y and x."""
    if levels is not None and levels < 1:
        raise BadOption(f"{levels} levels, expected at least one")
    factors = [(1, 1, 1)]
    while len(factors) < (levels or 64):
        small = _divided(shape, factors[-1])
        if max(small) == 1 or (levels is None and max(small) <= _SMALLEST):
            break
        factors.append(_next_factor(factors[-1], small, voxel_size or (1.0, 1.0, 1.0)))
    return factors


def _next_factor(factor: Index, small: Index, voxel_size: VoxelSize) -> Index:
    sizes = [f * size for f, size in zip(factor, voxel_size, strict=True)]
    shortest = min(size for size, n in zip(sizes, small, strict=True) if n > 1)
    z, y, x = (f * 2 if n > 1 and size < 2 * shortest else f for f, n, size in zip(factor, small, sizes, strict=True))
    return z, y, x


def _divided(shape: Index, factor: Index) -> Index:
    z, y, x = (-(-n // f) for n, f in zip(shape, factor, strict=True))
    return z, y, x


def _metadata(
    name: str, axes: list[str], factors: list[Index], voxel_size: VoxelSize | None, unit: str, *, labels: bool
) -> dict[str, Any]:
    """Make the ``ome`` attribute of the group."""
    size = voxel_size or (1.0, 1.0, 1.0)
    lead = len(axes) - 3
    space = {"type": "space"} | ({"unit": _UNITS[unit]} if voxel_size else {})
    datasets = []
    for level, factor in enumerate(factors):
        scale = [f * s for f, s in zip(factor, size, strict=True)]
        shift = [0.0 if labels else (f - 1) / 2 * s for f, s in zip(factor, size, strict=True)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * lead + scale}]
        if any(shift):
            transformations.append({"type": "translation", "translation": [0.0] * lead + shift})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    named = [{"name": axis} | ({"type": "channel"} if axis == "c" else space) for axis in axes]
    multiscale = {"name": name, "axes": named, "datasets": datasets, "type": "nearest" if labels else "mean"}
    return {"version": "0.5", "multiscales": [multiscale]}


def _level(group: zarr.Group, level: int) -> Level:
    array = group[str(level)]
    assert isinstance(array, zarr.Array)
    return array


def _shards(array: Level) -> tuple[int, ...]:
    return array.shards or array.chunks


def _is_there(array: Level, cell: tuple[slice, ...]) -> bool:
    """Whether the file of a shard exists; one of zeros has none, and is found to be zero again."""
    return chunk_file(array, tuple(c.start // s for c, s in zip(cell, _shards(array), strict=True))).exists()


def _cells(shape: tuple[int, ...], cell: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut an array into cells of one shape, those at the end clipped."""
    along = ([slice(a, min(a + length, n)) for a in range(0, n, length)] for n, length in zip(shape, cell, strict=True))
    return itertools.product(*along)
