"""Zarr arrays of version 2 and 3, and OME-Zarr 0.1 to 0.5 (a level of its pyramid)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from medhpc.errors import BadOption, BrokenFile, NotAVolume
from medhpc.volume.arrays import ArraySource, why_expensive
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout
from medhpc.volume.units import VoxelSize, voxel_size_in

_MOST_FILES = 1000  # looked at for a fingerprint
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_zarr(path: Path, *, level: int = 0) -> ArraySource:
    """Open an array, or a level of an OME-Zarr image."""
    node = zarr.open(LocalStore(path, read_only=True), mode="r")
    if isinstance(node, zarr.Array):
        return _array_source(path, node, level)
    image = _multiscales(path, node)
    return _array_source(path, _only_array(path, node), level) if image is None else _image_source(path, *image, level)


def _array_source(path: Path, array: zarr.Array[Any], level: int) -> ArraySource:
    if level:
        raise BadOption(f"{path}: level {level} of a Zarr array without a pyramid, expected 0")
    names = getattr(array.metadata, "dimension_names", None) or ()
    named = len(names) == array.ndim and all(name and len(name) == 1 for name in names)
    layout = Layout.named("".join(names), array.shape) if named else Layout.unnamed(array.shape)
    return _source(path, array, layout, f"Zarr v{array.metadata.zarr_format} array")


def _image_source(path: Path, group: zarr.Group, version: str, multiscale: dict[str, Any], level: int) -> ArraySource:
    """Open a level of an image, its axes and voxel size from the metadata of OME-Zarr."""
    datasets = multiscale["datasets"]
    if not 0 <= level < len(datasets):
        raise BadOption(f"{path}: level {level}, expected 0 to {len(datasets) - 1}")
    array = group[datasets[level]["path"]]
    if not isinstance(array, zarr.Array):
        raise NotAVolume(f"{path}: level {level} is a group, expected an array")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", "tczyx")]
    layout = Layout.named("".join(axis["name"] for axis in axes), array.shape)
    voxel_size, unit = _voxel_size(multiscale, axes, level)
    return _source(path, array, layout, f"OME-Zarr {version}", voxel_size=voxel_size, unit=unit, levels=len(datasets))


def _source(path: Path, array: zarr.Array[Any], layout: Layout, name: str, **more: Any) -> ArraySource:
    if not all(array.chunks):
        raise BrokenFile(f"{path}: chunks of {' x '.join(map(str, array.chunks))} voxels in its metadata")
    cz, cy, cx = (min(c, n) for c, n in zip(layout.spatial(array.chunks, missing=1), layout.shape, strict=True))
    header = Header(
        format=name,
        shape=layout.shape,
        channels=layout.channels,
        dtype=array.dtype,
        chunks=(cz, cy, cx),
        why_expensive=why_expensive(array.chunks, array.dtype.itemsize),
        **more,
    )
    return ArraySource(header, layout, Shards(array) if array.shards else array, _files(path, array), lambda: None)


class Shards:
    """A sharded array; zarr alone would take an empty shard, which a full disk or a bad copy leaves, for zeros."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        lengths = zip(index, self._array.shards or (), strict=True)
        for place in itertools.product(*(range(part.start // n, -(-part.stop // n)) for part, n in lengths)):
            shard = chunk_file(self._array, place)
            if shard.exists() and not shard.stat().st_size:
                raise BrokenFile(f"{shard}: an empty file, expected voxels; copy it again")
        return self._array[index]


def _multiscales(path: Path, group: zarr.Group) -> tuple[zarr.Group, str, dict[str, Any]] | None:
    """Group, version and first multiscale of an image; None where the group is none."""
    attributes: dict[str, Any] = dict(group.attrs)
    ome: dict[str, Any] = attributes.get("ome", attributes)  # 0.5 keeps all under "ome", 0.4 at the top
    if "plate" in ome or "well" in ome:
        raise NotAVolume(f"{path}: an OME-Zarr plate, expected an image; name a field, as in '{path}/A/1/0'")
    if "bioformats2raw.layout" in ome:
        inner = group["0"]
        assert isinstance(inner, zarr.Group)
        return _multiscales(path / "0", inner)
    if not ome.get("multiscales"):
        return None
    multiscale = ome["multiscales"][0]
    return group, str(ome.get("version", multiscale.get("version", "0.4"))), multiscale


def _only_array(path: Path, group: zarr.Group) -> zarr.Array[Any]:
    arrays = dict(group.arrays())
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    names = ", ".join([*sorted(arrays), *sorted(f"{name}/" for name in group.group_keys())][:8]) or "nothing"
    raise NotAVolume(f"{path}: a Zarr group, no OME-Zarr image; name the array, as in '{path}/NAME': it holds {names}")


def _voxel_size(multiscale: dict[str, Any], axes: list[dict[str, str]], level: int) -> tuple[VoxelSize | None, str]:
    """Product of the scales of the level and of the image.

    Where no unit is stated, micrometres are meant, unless the full resolution has scale one, which says nothing.
    """
    spatial = [n for n, axis in enumerate(axes) if axis["name"].lower() in "zyx"]
    scale, full = (_scale(multiscale, n, len(axes)) for n in (level, 0))
    units = [axes[n].get("unit", "") for n in spatial]
    if not any(units):
        if all(full[n] == 1 for n in spatial):
            return None, ""
        units = ["um"] * len(spatial)
    sizes = [scale[n] for n in spatial]
    missing = 3 - len(spatial)  # a plane is as thick as its pixels are high
    return voxel_size_in(sizes[:1] * missing + sizes, units[:1] * missing + units)


def _scale(multiscale: dict[str, Any], level: int, ndim: int) -> list[float]:
    transformations = [
        *multiscale["datasets"][level].get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ]
    scales = [entry["scale"] for entry in transformations if entry.get("type") == "scale"]
    return [math.prod(float(scale[axis]) for scale in scales) for axis in range(ndim)]


def chunk_file(array: zarr.Array[Any], place: tuple[int, ...]) -> Path:
    """Name the file that holds a chunk, or a shard where there are shards; empty ones have none."""
    store = array.store
    assert isinstance(store, LocalStore)
    return store.root / array.path / array.metadata.encode_chunk_key(place)


def _files(path: Path, array: zarr.Array[Any]) -> list[Path]:
    """Metadata and up to a thousand of the files that hold chunks, evenly spaced over the array."""
    whole = array.shards or array.chunks
    counts = [-(-n // c) for n, c in zip(array.shape, whole, strict=True)]
    total = math.prod(counts)
    looked_at = min(total, _MOST_FILES)
    places = (np.unravel_index(total * i // looked_at, counts) for i in range(looked_at))
    chunks = [chunk_file(array, tuple(map(int, place))) for place in places]
    return [parent / name for parent in dict.fromkeys((path, path / array.path)) for name in _METADATA] + chunks
