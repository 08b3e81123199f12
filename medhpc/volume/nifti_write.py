"""Write NIfTI-1, or NIfTI-2 where an axis is too long for it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medhpc.volume.writer import Specification

_LONGEST_NIFTI1 = 32767  # its axes are 16 bit numbers
_SLAB_BYTES = 2**26
_COPY_BYTES = 2**22


class NiftiTarget:
    """x is fastest on disk and channels slowest, which is (c, z, y, x) as numpy counts."""

    def __init__(self, path: Path, specification: Specification) -> None:
        self._path = path
        self._compressed = path.name.lower().endswith(".gz")
        self._plain = path.with_name(path.name + ".plain") if self._compressed else path
        self._shape = specification.blocks
        self._dtype = specification.dtype
        self.slab = max(1, _SLAB_BYTES // specification.plane_bytes)
        header = _header(specification)
        self._offset = int(header.get_data_offset())
        self._file = open(self._plain, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        header.write_to(self._file)

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Write planes from `z0` on, those of each channel where they belong."""
        _, planes, height, width = self._shape
        plane_bytes = height * width * self._dtype.itemsize
        for channel, voxels in enumerate(block):
            self._file.seek(self._offset + (channel * planes + z0) * plane_bytes)
            left = voxels.astype(self._dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data
            while left:
                left = left[self._file.write(left) :]

    def finish(self) -> None:
        """Compress the file now: channels came interleaved, and gzip grows at one end only."""
        if self._compressed:
            with open(self._plain, "rb") as plain, gzip.open(self._path, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(plain, packed, _COPY_BYTES)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _header(specification: Specification) -> Any:
    channels, z, y, x = specification.blocks
    kind: Any = nibabel.Nifti2Header if max(channels, z, y, x) > _LONGEST_NIFTI1 else nibabel.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(specification.dtype)
    header.set_data_shape((x, y, z, channels) if specification.channels else (x, y, z))
    affine = specification.affine
    if specification.voxel_size is not None:
        size_z, size_y, size_x = specification.voxel_size
        affine = np.diag([size_x, size_y, size_z, 1.0]) if affine is None else affine
        header.set_xyzt_units({"um": "micron", "mm": "mm"}[specification.unit])
    if specification.channels and specification.time_step is not None:
        header["pixdim"][4] = specification.time_step
        header.set_xyzt_units(header.get_xyzt_units()[0], "sec")
    if affine is not None:
        header.set_qform(affine, code="scanner")
        header.set_sform(affine, code="scanner")
    header.set_data_offset(header.single_vox_offset)
    return header
