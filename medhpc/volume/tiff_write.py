"""Write TIFF: uncompressed, page after page, so that every box stays cheap and Fiji opens it as a virtual stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from medhpc.errors import BadOption
from medhpc.volume.tiff_metadata import resolution
from medhpc.volume.writer import Specification

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_OME_DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
_CLASSIC_BYTES = 2**32 - 2**25  # offsets have 32 bits; the rest is room for the directories
_SLAB_BYTES = 2**26


class TiffTarget:
    """An empty file with its directories first, then planes where they belong: z outermost, channels within z.

    Colours lie beside each other within a pixel.

    ImageJ's metadata where its dtypes and 4 GB suffice; else OME-XML; else (64 bit integers) tifffile's own.
    """

    def __init__(self, path: Path, specification: Specification) -> None:
        self._axes = (1, 2, 3, 0) if specification.are_colours else (1, 0, 2, 3)  # of what is stored, in a block
        self._plane_bytes = specification.plane_bytes
        self.slab = max(1, _SLAB_BYTES // self._plane_bytes)
        self._offset = _create(path, specification)
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 (closed by close)

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Write planes from `z0` on."""
        planes = np.ascontiguousarray(block.transpose(self._axes), dtype=block.dtype.newbyteorder("<"))
        self._file.seek(self._offset + z0 * self._plane_bytes)
        left = planes.reshape(-1).view(np.uint8).data
        while left:
            left = left[self._file.write(left) :]

    def finish(self) -> None:
        """Nothing is missing."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_tiff(specification: Specification) -> None:
    """Refuse what tifffile would read as something else.

    Raises
    ------
    BadOption
    """
    if specification.shape[2] == 1:  # tifffile would take y for x
        raise BadOption("TIFF for a volume one voxel wide; choose .nii.gz, .h5 or .ome.zarr")


def _create(path: Path, specification: Specification) -> int:
    """Write a file of zeros (no bytes of the disk are used yet) and return where its voxels begin."""
    bytes_needed = specification.plane_bytes * specification.shape[0]
    big = bytes_needed > _CLASSIC_BYTES
    name = specification.dtype.name
    imagej = name in (("uint8",) if specification.are_colours else _IMAGEJ_DTYPES) and not big
    ome = name in _OME_DTYPES and not imagej
    with tifffile.TiffWriter(path, bigtiff=big, byteorder="<", imagej=imagej, ome=ome) as tif:
        place = tif.write(
            dtype=specification.dtype,
            returnoffset=True,
            **_pixels(specification),
            **_metadata(specification, ome=ome),
        )
    assert place is not None
    return place[0]


def _pixels(specification: Specification) -> dict[str, Any]:
    """How voxels lie in the pages; a fourth colour is opacity."""
    channels, z, y, x = specification.blocks
    if not specification.are_colours:
        return {"shape": (z, channels, y, x) if specification.channels else (z, y, x), "photometric": "minisblack"}
    opacity = ["unassalpha"] * (channels - 3)
    return {
        "shape": (z, y, x, channels),
        "photometric": "rgb",
        "planarconfig": "contig",
        "extrasamples": opacity or None,
    }


def _metadata(specification: Specification, *, ome: bool) -> dict[str, Any]:
    """Axes and voxel size in the words of each kind of TIFF."""
    axes = "ZYXS" if specification.are_colours else "ZCYX" if specification.channels else "ZYX"
    metadata: dict[str, Any] = {"axes": axes}
    if specification.voxel_size is None:
        return {"metadata": metadata}
    unit = specification.unit
    if ome:
        for axis, size in zip("ZYX", specification.voxel_size, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "\u00b5m" if unit == "um" else unit}
    else:
        metadata |= {"spacing": specification.voxel_size[0], "unit": unit}
    pixels_per_unit = resolution(specification.voxel_size)
    return {"metadata": metadata, "resolution": pixels_per_unit, "resolutionunit": "NONE"}
