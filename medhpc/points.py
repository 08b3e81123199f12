"""Centres of cells, read from tables, from Cell Counter files, and from volumes that mark them.

Positions are z, y, x. In voxels, the centre of the first voxel of the volume is (0, 0, 0); in micrometres, a position
is that number of voxels times the voxel size.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import blocks
from medhpc.errors import BadTruth
from medhpc.geometry import Box

if TYPE_CHECKING:
    from medhpc.volume import Volume

VOXEL_COLUMNS = ("z", "y", "x")
MICROMETRE_COLUMNS = ("z_um", "y_um", "x_um")
NAPARI_COLUMNS = ("axis-0", "axis-1", "axis-2")


@dataclass(frozen=True, kw_only=True)
class Points:
    """Centres of objects.

    Attributes
    ----------
    positions : ndarray of float64, shape (n, 3)
        z, y, x of each centre.
    unit : {"voxel", "um"}
        What `positions` are counted in.
    positions_um : ndarray of float64, shape (n, 3), optional
        The same centres in micrometres, where they are known in both.
    """

    positions: NDArray[np.float64]
    unit: Literal["voxel", "um"] = "voxel"
    positions_um: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x) that the two units imply; None where they do not tell it along every axis."""
        if self.positions_um is None or not self.positions.any(axis=0).all():
            return None
        z, y, x = (self.positions_um * self.positions).sum(axis=0) / (self.positions**2).sum(axis=0)
        return float(z), float(y), float(x)

    def in_voxels(self, voxel_size_um: Sequence[float] | None) -> NDArray[np.float64]:
        """Positions in voxels; the voxel size (z, y, x) may be None where they are known in voxels."""
        return self.positions if self.unit == "voxel" else self.positions / _known(voxel_size_um)

    def in_um(self, voxel_size_um: Sequence[float] | None) -> NDArray[np.float64]:
        """Positions in micrometres; the voxel size (z, y, x) may be None where they are known in micrometres."""
        if self.unit == "um":
            return self.positions
        return self.positions_um if self.positions_um is not None else self.positions * _known(voxel_size_um)


def is_points_path(path: str | Path) -> bool:
    """Whether the name is that of a table (.csv) or a Cell Counter file (.xml, or .xml:TYPE) of points."""
    return _split_marker_type(path)[0].suffix.lower() in (".csv", ".xml")


def read_points(path: str | Path) -> Points:
    """Read the centres of objects from a file.

    Parameters
    ----------
    path : str or Path
        A CSV file whose header names z, y, x (voxels), z_um, y_um, x_um (micrometres) or axis-0, axis-1, axis-2
        (voxels, as napari saves them), among any other columns; without z, the points lie in plane 0. A table may have
        both units, as the one written by ``medhpc stitch --objects``. Without a header, the three columns are z, y, x
        in voxels. Or a Cell Counter file (XML; MarkerZ counts from 0, as cellfinder writes
        it); where it holds markers of several types, name one, as in ``cells.xml:2``.

    Raises
    ------
    BadTruth
        The file is missing, is neither of the two, or holds something that is not a finite number.
    """
    file, marker_type = _split_marker_type(path)
    try:
        if file.suffix.lower() == ".xml":
            return _read_cell_counter(file, marker_type)
        return _read_csv(file)
    except OSError as error:
        raise BadTruth(f"cannot read the points in {file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadTruth(f"{file} is not a text table: expected CSV with the columns z,y,x or z_um,y_um,x_um") from error


def points_in_volume(
    volume: Volume, region: Box | None = None, progress: Callable[[int, int], None] | None = None
) -> Points:
    """Read the centres from a volume in which each voxel that is not zero marks one; streamed.

    Parameters
    ----------
    volume : Volume
        One channel.
    region : Box, optional
        Look only here; the positions are voxels of the whole volume all the same.
    progress : callable, optional
        Called with (voxels done, voxels in all).
    """
    region = region or Box.whole(volume.shape)
    found, done = [np.empty((0, 3), np.int64)], 0
    for box in blocks(region, volume.chunks):
        found.append(np.argwhere(volume.read(box)[0]) + np.array(box.start))
        done += box.size
        if progress:
            progress(done, region.size)
    marks = np.concatenate(found)
    return Points(positions=marks[np.lexsort(marks.T[::-1])].astype(np.float64))


def _known(voxel_size_um: Sequence[float] | None) -> NDArray[np.float64]:
    if voxel_size_um is None:
        raise BadTruth(
            "voxels and micrometres cannot be compared, as no voxel size is known: give the volume one with "
            "medhpc convert --voxel-size Z,Y,X --unit um, or the points in the other unit"
        )
    return np.asarray(voxel_size_um, dtype=np.float64)


# --- tables --------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Points:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = file.read().splitlines()
    rows = csv.reader(lines, delimiter=_delimiter(lines))
    numbered = [(line, row) for line, row in enumerate(rows, 1) if any(map(str.strip, row))]
    if not numbered:
        raise BadTruth(f"{path} is empty: expected a table with the columns z,y,x or z_um,y_um,x_um")
    header = [name.strip().lower() for name in numbered[0][1]]
    if _are_numbers(header):
        if len(header) != 3:
            raise BadTruth(f"{path} has {len(header)} columns and no header: expected z,y,x in voxels, or a header")
        return Points(positions=_numbers(path, numbered, [0, 1, 2]))
    unit, columns = _position_columns(path, header)
    positions_um = None
    if unit == "voxel" and set(MICROMETRE_COLUMNS) <= set(header):
        places = [header.index(name) for name in MICROMETRE_COLUMNS]
        if any("".join(row[places[0] : places[-1] + 1]).strip() for _, row in numbered[1:]):  # else: unknown throughout
            positions_um = _numbers(path, numbered[1:], places)
    return Points(positions=_numbers(path, numbered[1:], columns), unit=unit, positions_um=positions_um)


def _delimiter(lines: list[str]) -> str:
    """Find the separator of the first line: comma, unless only a semicolon or a tab is there."""
    first = next((line for line in lines if line.strip()), "")
    return next((mark for mark in ",;\t" if mark in first), ",")


def _are_numbers(fields: list[str]) -> bool:
    try:
        return [float(field) for field in fields] != []
    except ValueError:
        return False


def _position_columns(path: Path, header: list[str]) -> tuple[Literal["voxel", "um"], list[int]]:
    """Find the unit, and the places of z, y, x in the header; -1 for a z that is not there."""
    units: list[tuple[Literal["voxel", "um"], tuple[str, str, str]]] = [
        ("voxel", VOXEL_COLUMNS),
        ("um", MICROMETRE_COLUMNS),
        ("voxel", NAPARI_COLUMNS),
    ]
    for unit, (z, y, x) in units:
        if {z, y, x} <= set(header):
            return unit, [header.index(name) for name in (z, y, x)]
    for unit, (z, y, x) in units[:2]:
        if {y, x} <= set(header) and z not in header:
            return unit, [-1, header.index(y), header.index(x)]
    raise BadTruth(f"{path} has the columns {','.join(header)}: expected z,y,x (voxels) or z_um,y_um,x_um among them")


def _numbers(path: Path, numbered: list[tuple[int, list[str]]], columns: list[int]) -> NDArray[np.float64]:
    positions = np.empty((len(numbered), 3))
    for i, (line, row) in enumerate(numbered):
        try:
            positions[i] = [float(row[column]) if column >= 0 else 0.0 for column in columns]
        except (ValueError, IndexError) as error:
            raise BadTruth(f"{path}, line {line}: '{','.join(row)}' has no number for each of z, y and x") from error
    _check_finite(path, positions)
    return positions


def _check_finite(path: Path, positions: NDArray[np.float64]) -> None:
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise BadTruth(f"{path}: point {bad[0] + 1} is {positions[bad[0]].tolist()}, not three finite numbers")


# --- Cell Counter --------------------------------------------------------------------------------


def _split_marker_type(path: str | Path) -> tuple[Path, str | None]:
    """``cells.xml:2`` is the markers of type 2 in cells.xml."""
    match = re.fullmatch(r"(.+\.xml):(\d+)", str(path), re.IGNORECASE)
    return (Path(match[1]), match[2]) if match else (Path(path), None)


def _read_cell_counter(path: Path, marker_type: str | None) -> Points:
    """Markers of a CellCounter_Marker_File, the format of the ImageJ plugin Cell Counter."""
    try:
        root = ElementTree.parse(path).getroot()
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
    ) as error:  # the latter two: encodings that it does not know
        raise BadTruth(f"{path} is damaged or not XML ({error}): expected a Cell Counter file") from error
    if root.tag != "CellCounter_Marker_File":
        raise BadTruth(f"{path} holds <{root.tag}>: expected a Cell Counter file, <CellCounter_Marker_File>")
    types = {(kind.findtext("Type") or "").strip(): kind.findall("Marker") for kind in root.iter("Marker_Type")}
    markers = _markers_of_one_type(path, {name: found for name, found in types.items() if found}, marker_type)
    positions = np.array([_position(path, marker) for marker in markers], dtype=np.float64).reshape(-1, 3)
    _check_finite(path, positions)
    return Points(positions=positions)


def _markers_of_one_type(
    path: Path, types: dict[str, list[ElementTree.Element]], wanted: str | None
) -> list[ElementTree.Element]:
    counted = ", ".join(f"{name}: {len(found)}" for name, found in types.items()) or "none"
    if wanted is not None and wanted not in types:
        raise BadTruth(f"{path} has no markers of type {wanted}: it holds (type: number) {counted}")
    if wanted is None and len(types) > 1:
        raise BadTruth(f"{path} holds markers of types {counted}: choose one, as in {path}:{next(iter(types))}")
    return types[wanted] if wanted is not None else sum(types.values(), [])


def _position(path: Path, marker: ElementTree.Element) -> list[float]:
    texts = [marker.findtext(f"Marker{axis}") for axis in "ZYX"]
    try:
        return [float(text or "") for text in texts]
    except ValueError as error:
        raise BadTruth(f"{path}: a marker at (z, y, x) = {texts} has no number for each axis") from error
