"""A folder of DICOM slices: one series, ordered and spaced by the positions that the slices state."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from medhpc.errors import BrokenFile, NotAVolume, SeveralSeries
from medhpc.geometry import Box
from medhpc.volume.base import Header, reading
from medhpc.volume.rescale import Rescale
from medhpc.volume.units import voxel_size_in

# Files in use break the standard in ways that do not matter here; they need no warning each.
config.settings.reading_validation_mode = config.IGNORE
warnings.filterwarnings("ignore", module="pydicom")

_TAGS = [
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
]
_UNEVEN = 0.02  # of the distance between slices; positions are often rounded to 0.01 mm


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What one file says of its slice.

    Attributes
    ----------
    position : float
        Along the normal of the slices, millimetres.
    spacing : (y, x)
        Millimetres.
    dtype, bits
        Of the stored numbers, and how many of its bits they use.
    """

    path: Path
    tags: Dataset
    position: float
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    bits: int
    rescale: Rescale


class DicomSource:
    """One series of monochrome slices."""

    def __init__(self, files: list[Path]) -> None:
        slices = [_slice_of(path, tags) for path, tags in _one_series(files)]
        self._slices = sorted(slices, key=lambda one: one.position)
        _check_alike(self._slices)
        step = _step(self._slices)
        first = self._slices[0]
        spacing = (step or first.spacing[0], *first.spacing)
        voxel_size, unit = voxel_size_in(spacing, ["mm"] * 3)
        self.header = Header(
            format="DICOM series",
            shape=(len(slices), *first.shape),
            dtype=_common_dtype(self._slices),
            voxel_size=voxel_size,
            unit=unit,
            affine=_affine(first, spacing),
            chunks=(1, *first.shape),
            why_expensive="DICOM slices, each decoded whole",
        )

    def read(self, channels: slice, box: Box) -> np.ndarray[Any, Any]:
        """Physical values (slope and intercept applied) as (1, z, y, x)."""
        _, rows, columns = box.slices
        out: np.ndarray[Any, Any] = np.empty(box.shape, self.header.dtype)
        for plane, one in zip(out, self._slices[box.slices[0]], strict=True):
            plane[...] = one.rescale.apply(_stored_pixels(one)[rows, columns], self.header.dtype)
        return out[np.newaxis]

    def files(self) -> list[Path]:
        """Name the slices in their order."""
        return [one.path for one in self._slices]

    def close(self) -> None:
        """Nothing stays open."""


def _stored_pixels(one: Slice) -> np.ndarray[Any, Any]:
    """Pixels as stored; of unsigned ones the unused high bits, in which old files keep overlays, are cleared."""
    with reading(one.path):
        stored = pixel_array(one.path, raw=True)
    if stored.shape != one.shape:
        raise BrokenFile(f"{one.path}: pixels of {stored.shape}, expected {one.shape}")
    return stored & (2**one.bits - 1) if one.dtype.kind == "u" else stored


def _one_series(files: list[Path]) -> list[tuple[Path, Dataset]]:
    """Headers of the slices; files of another kind (DICOMDIR, reports) are left out."""
    read = [(path, _tags_of(path)) for path in files]
    images = [(path, tags) for path, tags in read if "Rows" in tags]
    if not images:
        raise NotAVolume(f"{files[0].parent}: DICOM files without an image")
    kinds = {_storage_class(tags) for _, tags in images}
    for path, tags in read:
        kind = _storage_class(tags)
        if "Rows" not in tags and (kind in kinds or kind.type != "SOP Class"):
            raise BrokenFile(f"{path}: a DICOM image cut short in its header; copy it again")
    series = defaultdict(list)
    for path, tags in images:
        series[str(tags.get("SeriesInstanceUID", ""))].append((path, tags))
    if len(series) > 1:
        raise SeveralSeries(
            f"{files[0].parent}: {len(series)} DICOM series, expected one; move each to a folder of its own: "
            + "; ".join(_describe(found) for found in series.values())
        )
    return next(iter(series.values()))


def _tags_of(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except InvalidDicomError as error:
        raise BrokenFile(f"{path}: truncated or no DICOM file") from error


def _storage_class(tags: Dataset) -> UID:
    """Name the kind of object that the file says it is: a SOP class, or no known one where the file is cut."""
    return UID(tags.file_meta.get("MediaStorageSOPClassUID", ""))


def _describe(series: list[tuple[Path, Dataset]]) -> str:
    path, tags = series[0]
    name = str(tags.get("SeriesDescription", "")) or "without a description"
    return f"number {tags.get('SeriesNumber', '?')} ({name}, {len(series)} slices, such as {path.name})"


def _slice_of(path: Path, tags: Dataset) -> Slice:
    if int(tags.get("SamplesPerPixel", 1)) != 1 or int(tags.get("NumberOfFrames", 1) or 1) != 1:
        raise NotAVolume(f"{path}: a DICOM image in colour or of several frames, expected single grey slices")
    sign = "i" if int(tags.get("PixelRepresentation", 0)) else "u"
    orientation = tuple(float(n) for n in tags.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0))
    spacing = [float(n) for n in tags.get("PixelSpacing") or (float("nan"), float("nan"))]
    corner = np.array([float(n) for n in tags.get("ImagePositionPatient") or (0, 0, 0)])
    return Slice(
        path=path,
        tags=tags,
        position=float(corner @ _normal(orientation)),
        orientation=orientation,
        spacing=(spacing[0], spacing[1]),
        shape=(int(tags.Rows), int(tags.Columns)),
        dtype=np.dtype(f"{sign}{int(tags.BitsAllocated) // 8}"),
        bits=int(tags.get("BitsStored", tags.BitsAllocated)),
        rescale=Rescale(float(tags.get("RescaleSlope", 1) or 1), float(tags.get("RescaleIntercept", 0) or 0)),
    )


def _normal(orientation: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """Give the unit vector across the slices, from the directions of rows and columns."""
    return np.cross(orientation[:3], orientation[3:])


def _check_alike(slices: list[Slice]) -> None:
    """Slices of one stack agree in all but their position."""
    first = slices[0]
    for one in slices[1:]:
        close = np.allclose(
            (*one.orientation, *one.spacing), (*first.orientation, *first.spacing), atol=1e-3, equal_nan=True
        )
        if one.shape != first.shape or not close:
            raise SeveralSeries(
                f"{one.path.parent}: slices {first.path.name} and {one.path.name} differ in size, spacing or "
                "orientation; move each stack to a folder of its own"
            )


def _step(slices: list[Slice]) -> float:
    """Distance between slices in millimetres; zero where there is one only.

    Raises
    ------
    SeveralSeries
        Slices are missing, or several lie at the same place.
    """
    if len(slices) == 1:
        return 0.0
    positions = np.array([one.position for one in slices])
    steps = np.diff(positions)
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > max(_UNEVEN * usual, 1e-4))
    if usual <= 0 or odd.size:
        at = int(odd[0]) if odd.size else 0
        places = ", ".join(f"{steps[i]:.4g} mm after {slices[i].path.name}" for i in odd[:4])
        raise SeveralSeries(
            f"{slices[0].path.parent}: slices are not evenly spaced ({usual:.4g} mm, but "
            f"{places or 'several at one place'}); slices are missing or doubled near {positions[at]:.4g} mm"
        )
    return float(f"{(positions[-1] - positions[0]) / (len(slices) - 1):.7g}")


def _common_dtype(slices: list[Slice]) -> np.dtype[Any]:
    """Choose what holds the physical values of all slices: slope and intercept may change from slice to slice (PET)."""
    return np.result_type(*{one.rescale.dtype(one.dtype, one.bits) for one in slices})


def _affine(first: Slice, spacing: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """From voxel (x, y, z) to RAS millimetres; DICOM positions are LPS (DICOM PS3.3, C.7.6.2.1.1)."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * spacing[2]
    affine[:3, 1] = np.array(first.orientation[3:]) * spacing[1]
    affine[:3, 2] = _normal(first.orientation) * spacing[0]
    affine[:3, 3] = [float(n) for n in first.tags.get("ImagePositionPatient") or (0, 0, 0)]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
