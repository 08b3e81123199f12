"""Is a TIFF file whole? Readers take a chain of pages that ends beyond the end of the file for a shorter chain."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from medhpc.errors import BrokenFile


def check_directories(path: Path) -> None:
    """Follow the chain of page directories to its end.

    Raises
    ------
    BrokenFile
        It leads beyond the end of the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        order, big, offset = _first_directory(file)
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            following = _next_directory(file, order, big, offset)
            if following is None:
                raise BrokenFile(
                    f"{path}: cut short: page {len(seen)} is said to be at byte {offset} of {size}; copy it again"
                )
            offset = following


def _first_directory(file: BinaryIO) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, and the offset of the first directory."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    offset = struct.unpack_from(order + "Q", head, 8) if big else struct.unpack_from(order + "I", head, 4)
    return order, big, int(offset[0])


def _next_directory(file: BinaryIO, order: str, big: bool, offset: int) -> int | None:
    """Offset of the directory that follows (0 at the end), None where this one is not whole."""
    count_format, entry_bytes, next_format = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    file.seek(offset)
    entries = file.read(struct.calcsize(count_format))
    if len(entries) < struct.calcsize(count_format):
        return None
    (count,) = struct.unpack(count_format, entries)
    file.seek(count * entry_bytes, 1)
    following = file.read(struct.calcsize(next_format))
    return int(struct.unpack(next_format, following)[0]) if len(following) == struct.calcsize(next_format) else None
