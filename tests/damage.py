"""What may become of a file."""

from __future__ import annotations

import os
from pathlib import Path


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def leave_one_byte(path: Path) -> None:
    os.truncate(path, 1)


def flip(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 3] ^= 0x10
    path.write_bytes(text)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
