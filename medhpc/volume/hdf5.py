"""HDF5: ``file.h5:/dataset``; the voxel size is in the attribute ``element_size_um`` (z, y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from medhpc.errors import NotAVolume, VolumeNotFound
from medhpc.volume.arrays import ArraySource, why_expensive
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout
from medhpc.volume.units import voxel_size_in

IMAGES = ("raw", "image", "img", "volume", "data", "intensity")
ANNOTATIONS = ("label", "mask", "seg", "truth", "annotation", "instance", "prob")


def open_hdf5(path: Path, name: str) -> ArraySource:
    """Open a dataset; with one dataset in the file its name may be empty.

    The file is opened without a lock, which parallel file systems often cannot give.
    """
    with ExitStack() as files:
        file = files.enter_context(h5py.File(path, "r", locking=False))
        dataset = _dataset(file, path, name)
        layout = _layout_of(dataset)
        voxel_size, unit = voxel_size_in(_element_size(dataset), ["um"] * 3)
        header = Header(
            format="HDF5",
            shape=layout.shape,
            channels=layout.channels,
            dtype=dataset.dtype,
            voxel_size=voxel_size,
            unit=unit,
            chunks=dataset.chunks and layout.spatial(dataset.chunks, missing=1),
            why_expensive=why_expensive(dataset.chunks, dataset.dtype.itemsize),
        )
        return ArraySource(header, layout, dataset, [path], files.pop_all().close)


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    names = _image_names(file)
    if name:
        found = file.get(name)
        if isinstance(found, h5py.Dataset):
            return found
        raise VolumeNotFound(f"no dataset '{name}', it has {_list(names)}")
    if not names:
        raise NotAVolume("no dataset of two or more axes in it")
    if len(names) > 1:
        likely = min(names, key=_is_annotation)
        raise NotAVolume(f"{len(names)} datasets, name one as in '{path}:{likely}': {_list(names)}")
    return file[names[0]]


def _image_names(file: h5py.File) -> list[str]:
    """Datasets that could be images."""
    names: list[str] = []

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "uifbc":
            names.append(f"/{name}")

    file.visititems(collect)
    return names


def _is_annotation(name: str) -> int:
    """Below 0 for names that images have, above 0 for those of annotations and results."""
    last = name.rpartition("/")[2].lower()
    return any(word in last for word in ANNOTATIONS) - any(word in last for word in IMAGES)


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _layout_of(dataset: h5py.Dataset) -> Layout:
    """By the labels of the dimensions where they say it all, else by the shape."""
    labels = [dimension.label.upper() for dimension in dataset.dims]
    if all(len(label) == 1 for label in labels) and {"Y", "X"} <= set(labels) <= set("TCZYXS"):
        return Layout.named("".join(labels), dataset.shape)
    return Layout.unnamed(dataset.shape)


def _element_size(dataset: h5py.Dataset) -> Sequence[float]:
    sizes = np.atleast_1d(np.asarray(dataset.attrs.get("element_size_um", ()), dtype=np.float64))
    if sizes.size == 2 and dataset.ndim == 2:
        sizes = np.array([sizes[0], *sizes])  # a plane is as thick as its pixels are high
    return [float(size) for size in sizes[-3:]] if sizes.size >= 3 else [float("nan")] * 3
