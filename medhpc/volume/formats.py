"""Which format a path is, by its content where it exists and by its suffix where it does not."""

from __future__ import annotations

import re
from pathlib import Path

from medhpc.errors import BrokenFile

PLANE_SUFFIXES = (".tif", ".tiff", ".png")
TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
JPEG_SUFFIXES = (".jpg", ".jpeg")
VOLUME_SUFFIXES = (*PLANE_SUFFIXES, *JPEG_SUFFIXES, ".svs", *HDF5_SUFFIXES, *NIFTI_SUFFIXES, ".zarr", ".dcm")

_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_NIFTI_MAGIC = {344: b"n+1\0", 4: b"n+2\0"}


def split_dataset(path: str) -> tuple[Path, str]:
    """Split ``file.h5:/dataset`` into file and dataset (empty where none is named)."""
    suffixes = "|".join(re.escape(suffix) for suffix in HDF5_SUFFIXES)
    match = re.fullmatch(rf"(.*?(?:{suffixes})):(.*)", path, re.IGNORECASE)
    return (Path(match[1]), match[2]) if match else (Path(path), "")


def is_pattern(path: str) -> bool:
    """Whether the path is a pattern of plane files, not the name of something that exists."""
    return any(c in path for c in "*?[") and not Path(path).exists()


def is_zarr(folder: Path) -> bool:
    """Whether the folder is a Zarr array or group, of version 2 or 3."""
    return any((folder / name).is_file() for name in _ZARR_METADATA)


def planes_in(folder: Path) -> list[Path]:
    """Files in a folder that can be planes, hidden ones left out."""
    return [p for p in folder.iterdir() if p.suffix.lower() in PLANE_SUFFIXES and not p.name.startswith(".")]


def dicom_files(folder: Path) -> list[Path]:
    """DICOM files in a folder, whatever their names.

    Raises
    ------
    BrokenFile
        Beside them there is a file that is named like a slice, but ends before it could be one.
    """
    slices, stumps = [], []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        begin = _begin(file)
        if begin[128:132] == b"DICM":
            slices.append(file)
        elif len(begin) < 132 and re.fullmatch(r"(\.dcm|\.ima|\.\d+|)", file.suffix.lower()):
            stumps.append(file)
    if slices and stumps:
        raise BrokenFile(f"{stumps[0]}: empty or cut short, beside DICOM slices; copy it again or remove it")
    return slices


def suffix_of(path: Path) -> str:
    """Give the suffix in lower case; ``.nii.gz`` is one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def format_of_file(file: Path) -> str:
    """One of ``tiff``, ``hdf5``, ``png``, ``jpeg``, ``nifti``, ``dicom``; empty when it is none of them."""
    begin = _begin(file)
    if begin[:4] in _TIFF_MAGIC:
        return "tiff"
    if begin.startswith(_HDF5_MAGIC):
        return "hdf5"
    if begin.startswith(_PNG_MAGIC):
        return "png"
    if begin.startswith(_JPEG_MAGIC):
        return "jpeg"
    if suffix_of(file) == ".nii.gz" or any(begin[at : at + 4] == magic for at, magic in _NIFTI_MAGIC.items()):
        return "nifti"
    return "dicom" if begin[128:132] == b"DICM" else ""


def _begin(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(512)
