"""PNG and JPEG: one plane, grey or in colour."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from medhpc.errors import BadOption, BrokenFile
from medhpc.volume.arrays import ArraySource
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout
from medhpc.volume.writer import Specification

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Markers of JPEG, which its coded pixels cannot hold (ITU-T T.81, B.1.1)."""


def png_size(path: Path) -> tuple[int, int]:
    """Rows and columns, by the header alone (PNG specification, IHDR)."""
    with open(path, "rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return height, width


def open_png(path: Path) -> ArraySource:
    """Decode a PNG file; its rows hang together, so that none can be read by itself."""
    return _source(path, "PNG", imagecodecs.png_decode(path.read_bytes()), colours=(3, 4))


def open_jpeg(path: Path) -> ArraySource:
    """Decode a JPEG file, as its pixels are stored: no orientation that a camera may have noted is applied."""
    content = path.read_bytes()
    if content.rfind(_END) < content.rfind(_SCAN):  # the decoder would fill the rest with grey
        raise BrokenFile(f"cut short: {len(content)} bytes without an end; copy it again")
    return _source(path, "JPEG", imagecodecs.jpeg8_decode(content), colours=(3,))  # four are inks


def _source(path: Path, name: str, pixels: np.ndarray[Any, Any], colours: tuple[int, ...]) -> ArraySource:
    layout = Layout.named("YXS"[: pixels.ndim], pixels.shape)
    header = Header(
        format=name,
        shape=layout.shape,
        channels=layout.channels,
        are_colours=layout.channels in colours,
        dtype=pixels.dtype,
        chunks=layout.shape,
        why_expensive=f"{name}, decoded whole",
    )
    return ArraySource(header, layout, pixels, [path], lambda: None)


def check_png(specification: Specification) -> None:
    """Refuse what PNG cannot hold.

    Raises
    ------
    BadOption
    """
    channels, planes, _, _ = specification.blocks
    kind = f"{channels} channels" if channels > 1 and not specification.are_colours else specification.dtype.name
    if planes > 1 or kind not in ("uint8", "uint16"):
        got = f"{planes} planes" if planes > 1 else kind
        raise BadOption(f"PNG for {got}, expected one plane of uint8 or uint16, grey or in colour; choose .tif")


class PngTarget:
    """One plane, lossless; PNG knows no voxel size."""

    slab = 1

    def __init__(self, path: Path, specification: Specification) -> None:
        self._path = path
        self._are_colours = specification.are_colours

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Write the plane."""
        pixels = block[:, 0].transpose(1, 2, 0) if self._are_colours else block[0, 0]
        self._path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))

    def finish(self) -> None:
        """Nothing is missing."""

    def close(self) -> None:
        """Nothing stays open."""
