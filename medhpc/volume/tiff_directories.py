"""Whether a TIFF file is whole: readers take a chain of pages that leaves the file for a shorter chain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medhpc.errors import BrokenFile

_NEEDED = (270, 273, 279, 324, 325)
"""Tags without which a page would be read wrongly: description, places and sizes of strips and tiles."""

_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8] + [0] * 237)
"""Bytes of a value of each type (TIFF 6.0, section 2; BigTIFF)."""


@dataclass(frozen=True)
class _Structure:
    """How numbers are stored: byte order, and classic (32 bit offsets) or BigTIFF (64 bit)."""

    order: str
    big: bool

    @property
    def offset(self) -> np.dtype[Any]:
        return np.dtype(self.order + ("u8" if self.big else "u4"))

    @property
    def count(self) -> np.dtype[Any]:
        """Of the number of entries of a directory."""
        return np.dtype(self.order + ("u8" if self.big else "u2"))

    @property
    def entry(self) -> np.dtype[Any]:
        short = self.order + "u2"
        return np.dtype([("tag", short), ("type", short), ("count", self.offset), ("value", self.offset)])


def check_directories(path: Path) -> None:
    """Follow the chain of page directories to its end.

    Raises
    ------
    BrokenFile
        It leads beyond the end of the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        structure = _Structure("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))
        file.seek(8 if structure.big else 4)
        offset = _number(file, structure.offset)
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            offset = _next_directory(file, structure, offset, size) if offset < size else None
        if offset is None:
            raise BrokenFile(f"cut short: {size} bytes, page {max(1, len(seen))} lies beyond them; copy it again")


def _next_directory(file: BinaryIO, structure: _Structure, offset: int, size: int) -> int | None:
    """Offset of the directory that follows (0 at the end), None where this one is not whole."""
    file.seek(offset)
    count = _number(file, structure.count)
    if count is None or offset + count * structure.entry.itemsize > size:
        return None
    entries = np.frombuffer(file.read(count * structure.entry.itemsize), structure.entry)
    needed = entries[np.isin(entries["tag"], _NEEDED)]
    lengths = _TYPE_BYTES[np.minimum(needed["type"], 255)] * needed["count"].astype(np.int64)
    elsewhere = lengths > structure.offset.itemsize  # shorter values lie in the entry itself
    if np.any(needed["value"][elsewhere].astype(np.int64) + lengths[elsewhere] > size):
        return None
    return _number(file, structure.offset)


def _number(file: BinaryIO, dtype: np.dtype[Any]) -> int | None:
    content = file.read(dtype.itemsize)
    return int(np.frombuffer(content, dtype)[0]) if len(content) == dtype.itemsize else None
