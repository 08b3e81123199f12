"""Arrays as PNG, inside a page."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Some colours of matplotlib's maps (CC0), between which is interpolated.
VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
MAGMA = ("000004", "180f3d", "440f76", "721f81", "9e2f7f", "cd4071", "f1605d", "fd9668", "feca8d", "fcfdbf")
OBJECTS = ("4cc9f0", "f9c74f", "f94144", "90be6d", "f3722c", "b388eb", "43aa8b", "ff8fab", "f8961e", "80ed99")


def data_uri(pixels: Pixels) -> str:
    """A PNG of grey (y, x) or red, green, blue (y, x, 3) as a ``data:`` address."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    raw = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()  # each row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    parts = (_part(b"IHDR", header), _part(b"IDAT", zlib.compress(raw, 9)), _part(b"IEND", b""))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def _part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def ramp(colours: tuple[str, ...]) -> Pixels:
    """256 colours, (256, 3), from the first to the last."""
    known = np.array([list(bytes.fromhex(colour)) for colour in colours], float)
    places = np.linspace(0, len(known) - 1, 256)
    mixed = [np.interp(places, np.arange(len(known)), known[:, channel]) for channel in range(3)]
    return np.stack(mixed, axis=1).round().astype(np.uint8)


def in_ramp(values: NDArray[Any], low: float, high: float, colours: tuple[str, ...]) -> Pixels:
    """Colours of `values` between `low` and `high`; grey for NaN."""
    steps = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    pixels = ramp(colours)[steps]
    pixels[np.isnan(values)] = 128
    return pixels


def in_grey(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Grey of `values`, black at `low`, white at `high`."""
    return np.clip((values.astype(float) - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)


def of_objects(labels: NDArray[Any]) -> Pixels:
    """A colour for each label, black for 0; neighbouring numbers differ."""
    known = np.array([list(bytes.fromhex(colour)) for colour in OBJECTS], np.uint8)
    pixels = known[labels.astype(np.int64) % len(known)]
    pixels[labels == 0] = 0
    return pixels
