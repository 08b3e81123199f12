"""Write NIfTI-1, or NIfTI-2 where an axis is too long for it or the source is NIfTI-2.

Of the header of a NIfTI file that a volume is made of, all is kept that still holds: description, transforms with their
codes, units, the step of a series, the window to show it in; also the order in which slices were taken, where these are
the same. Voxels are physical values: slope and intercept, with which integers of the source may have been multiplied,
are not used again, as they would round what is no multiple of the slope.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medhpc.volume.nifti import SECONDS
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
    source = specification.nifti_header
    is_long = max(channels, z, y, x) > _LONGEST_NIFTI1 or len(source) == nibabel.Nifti2Header.sizeof_hdr
    header = _started(nibabel.Nifti2Header if is_long else nibabel.Nifti1Header, source)
    if header.get_data_shape()[:3] != (x, y, z):
        _forget_slices(header)
    header.set_data_dtype(specification.dtype)
    header.set_data_shape((x, y, z, channels) if specification.channels else (x, y, z))
    affine = specification.affine
    if specification.voxel_size is not None:
        size_z, size_y, size_x = specification.voxel_size
        affine = np.diag([size_x, size_y, size_z, 1.0]) if affine is None else affine
        header.set_xyzt_units({"um": "micron", "mm": "mm"}[specification.unit], header.get_xyzt_units()[1])
    if specification.channels and specification.time_step is not None:
        _set_step(header, specification.time_step)
    if affine is not None:
        _place(header, affine)
    header.set_data_offset(header.single_vox_offset)
    return header


def _started(kind: Any, source: bytes) -> Any:
    """A header of that kind with what the source's says, if it is of that kind."""
    if len(source) != kind.sizeof_hdr:
        return kind(endianness="<")
    header = kind(source, endianness="<", check=False)
    header["magic"] = header.single_magic
    header.set_slope_inter(1, 0)
    if header["dim"][0] > 4:  # the meaning of its fifth axis
        header.set_intent("none")
    return header


def _forget_slices(header: Any) -> None:
    """Their numbers are those of other slices."""
    for name in ("slice_start", "slice_end", "slice_code", "slice_duration"):
        header[name] = 0


def _set_step(header: Any, seconds: float) -> None:
    """Seconds between the volumes of a series, in the unit that the header has."""
    space, unit = header.get_xyzt_units()
    unit = unit if unit in SECONDS else "sec"
    header["pixdim"][4] = seconds / SECONDS[unit]
    header.set_xyzt_units(space, unit)


def _place(header: Any, affine: np.ndarray[Any, Any]) -> None:
    """Move the header's transforms to where `affine` is instead of its own; both get it if it had none."""
    if not (header["qform_code"] or header["sform_code"]):
        header.set_qform(affine, code="scanner")
        header.set_sform(affine, code="scanner")
        return
    step = np.linalg.inv(header.get_best_affine()) @ affine
    if np.allclose(step, np.eye(4), atol=1e-6):
        return
    (qform, q_code), (sform, s_code) = header.get_qform(coded=True), header.get_sform(coded=True)
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    if q_code:
        header.set_qform(qform @ step, code=int(q_code))
    if s_code:
        header.set_sform(sform @ step, code=int(s_code))
