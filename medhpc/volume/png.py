"""PNG: one plane, grey or in colour."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs

from medhpc.volume.arrays import ArraySource
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout


def png_size(path: Path) -> tuple[int, int]:
    """Rows and columns, by the header alone (PNG specification, IHDR)."""
    with open(path, "rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return height, width


def open_png(path: Path) -> ArraySource:
    """Decode a PNG file; its rows hang together, so that none can be read by itself."""
    pixels = imagecodecs.png_decode(path.read_bytes())
    layout = Layout.named("YXS"[: pixels.ndim], pixels.shape)
    header = Header(
        format="PNG",
        shape=layout.shape,
        channels=layout.channels,
        dtype=pixels.dtype,
        chunks=layout.shape,
        why_expensive="PNG, decoded whole",
    )
    return ArraySource(header, layout, pixels, [path], lambda: None)
