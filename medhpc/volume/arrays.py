"""Sources that hold one array, sliced as numpy would; see :class:`medhpc.volume.base.Source`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medhpc.geometry import Box
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout

_LARGE_CHUNK = 2**26  # bytes


def why_expensive(chunks: tuple[int, ...] | None, itemsize: int) -> str:
    """Say why boxes of a chunked array cost too much; empty where they do not."""
    large = chunks is not None and math.prod(chunks) * itemsize > _LARGE_CHUNK
    return f"chunks of {' x '.join(map(str, chunks or ()))}, each decoded whole" if large else ""


class Sliceable(Protocol):
    """An array on disk; a slice reads its voxels."""

    def __getitem__(self, index: tuple[slice, ...], /) -> Any: ...


class ArraySource:
    """A header, a sliceable array, and how the axes of the one lie in the other."""

    def __init__(
        self, header: Header, layout: Layout, array: Sliceable, files: list[Path], close: Callable[[], None]
    ) -> None:
        self.header = header
        self._layout = layout
        self._array = array
        self._files = files
        self._close = close

    def read(self, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        """Voxels as (channels, z, y, x)."""
        return self._layout.arrange(np.asarray(self._array[self._layout.index(channels, box)]))

    def files(self) -> list[Path]:
        """Name the files behind the array."""
        return self._files

    def close(self) -> None:
        """Close what is open."""
        self._close()
