"""A folder of planes, or the planes that a pattern such as ``dir/*.tif`` names: TIFF and PNG."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.errors import BrokenFile, NotAVolume
from medhpc.geometry import Box
from medhpc.volume.arrays import ArraySource
from medhpc.volume.base import Header
from medhpc.volume.photo import open_png, png_size
from medhpc.volume.tiff import open_tiff

LOOKED_AT = 64  # planes whose sizes are compared when a folder is opened, evenly spread


class PlanesSource:
    """Planes in files of their own, z in the natural order of their names (``a2`` before ``a10``)."""

    def __init__(self, files: list[Path]) -> None:
        self._paths = sorted(files, key=natural_order)
        kinds = sorted({path.suffix.lower().replace(".tiff", ".tif") for path in files})
        if len(kinds) > 1:
            raise NotAVolume(f"planes of different formats ({', '.join(kinds)}); name one, as in 'folder/*{kinds[0]}'")
        first = _open_plane(self._paths[0])
        first.close()
        self._plane = first.header
        if self._plane.shape[0] > 1:
            raise NotAVolume(
                f"{self._paths[0].name} holds {self._plane.shape[0]} planes, expected one per file; give one file"
            )
        _check_alike(self._paths)
        why = self._plane.why_expensive and f"one file per plane: {self._plane.why_expensive}"
        self.header = replace(
            self._plane,
            format=f"folder of {self._plane.format} planes",
            shape=(len(files), *self._plane.shape[1:]),
            voxel_size=None,  # the distance of the planes is in none of them
            unit="",
            why_expensive=why,
        )

    def read(self, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        """Voxels as (channels, z, y, x)."""
        one = Box((0, *box.start[1:]), (1, *box.stop[1:]))
        planes = range(box.start[0], box.stop[0])
        return np.concatenate([self._read_plane(self._paths[z], channels, one) for z in planes], axis=1)

    def _read_plane(self, path: Path, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        plane = _open_plane(path)
        try:
            if (kind := _kind(plane.header)) != (usual := _kind(self._plane)):
                raise BrokenFile(f"{path}: a plane of {kind}, the others are of {usual}; take it out of the folder")
            return plane.read(channels, box)
        finally:
            plane.close()

    def files(self) -> list[Path]:
        """All planes."""
        return self._paths

    def close(self) -> None:
        """Nothing stays open."""


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key that counts numbers as numbers: ``a2`` before ``a10``."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _check_alike(paths: list[Path]) -> None:
    """Refuse pictures that have nothing to do with each other; every plane is checked again when it is read."""
    some = [paths[len(paths) * n // LOOKED_AT] for n in range(LOOKED_AT)] if len(paths) > LOOKED_AT else paths
    usual, *others = (_size(path) for path in some)
    for path, (height, width) in zip(some[1:], others, strict=True):
        if (height, width) != usual:
            raise NotAVolume(
                f"{len(paths)} pictures of different sizes, no stack of planes: {some[0].name} has "
                f"{usual[0]} x {usual[1]} pixels, {path.name} {height} x {width}; name one, or a pattern of those that "
                f"belong together, as in 'folder/z*{path.suffix}'"
            )


def _size(path: Path) -> tuple[int, int]:
    """Rows and columns of a plane."""
    if path.suffix.lower() == ".png":
        return png_size(path)
    plane = open_tiff(path, one_plane=True)
    plane.close()
    return plane.header.shape[1:]


def _kind(plane: Header) -> str:
    """Say what all planes of a folder have in common."""
    _, height, width = plane.shape
    return f"{height} x {width}, {plane.channels} channel(s), {plane.dtype}"


def _open_plane(path: Path) -> ArraySource:
    return open_png(path) if path.suffix.lower() == ".png" else open_tiff(path, one_plane=True)
