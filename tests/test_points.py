"""Points: what is written is read back, whatever the file; what cannot be read is said in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medhpc.errors import BadTruth
from medhpc.geometry import Box
from medhpc.points import Points, is_points_path, points_in_volume, read_points

coordinates = st.floats(-1e4, 1e4, allow_nan=False)
positions = hnp.arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3)), elements=coordinates)


def marker_file(path: Path, *types: tuple[int, list[tuple[int, int, int]]]) -> Path:
    markers = "".join(
        f"<Marker_Type><Type>{number}</Type>"
        + "".join(
            f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>" for z, y, x in marks
        )
        + "</Marker_Type>"
        for number, marks in types
    )
    path.write_text(f"<CellCounter_Marker_File><Marker_Data>{markers}</Marker_Data></CellCounter_Marker_File>")
    return path


WHOLE_FILE = b"""<?xml version="1.0" encoding="UTF-8"?><CellCounter_Marker_File><Marker_Data><Marker_Type><Type>2</Type>
<Marker><MarkerX>1</MarkerX><MarkerY>2</MarkerY><MarkerZ>3</MarkerZ></Marker></Marker_Type></Marker_Data>
</CellCounter_Marker_File>"""


def volume_of(array: np.ndarray, chunks: tuple[int, int, int] | None = None) -> SimpleNamespace:
    return SimpleNamespace(shape=array.shape, chunks=chunks, read=lambda box: array[box.slices][np.newaxis])


@given(points=positions, unit=st.sampled_from(["voxel", "um"]), delimiter=st.sampled_from([",", ";", "\t"]))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, points, unit, delimiter):
    path = tmp_path_factory.mktemp("csv") / "cells.csv"
    header = ["id", "X", "Y", "Z"] if unit == "voxel" else ["id", "x_um", "y_um", "z_um"]
    rows = [[i, *map(repr, map(float, row[::-1]))] for i, row in enumerate(points)]
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in [header, *rows]) + "\n", encoding="utf-8-sig")
    read = read_points(path)
    assert read.unit == unit
    np.testing.assert_array_equal(read.positions, points)


@given(points=positions, size=st.tuples(*[st.floats(0.1, 10)] * 3))
def test_voxels_and_micrometres_are_inverse(points, size):
    in_um = Points(positions=Points(positions=points).in_um(size), unit="um")
    np.testing.assert_allclose(in_um.in_voxels(size), points, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(in_um.in_um(None), in_um.positions)


def test_our_objects_table_is_read_in_both_units(tmp_path):
    path = tmp_path / "objects.csv"
    path.write_text("id,z,y,x,z_um,y_um,x_um,volume_voxels\n1,3.5,4,5,17.5,8,10,33\n")
    points = read_points(path)
    np.testing.assert_array_equal(points.in_voxels(None), [[3.5, 4, 5]])
    np.testing.assert_array_equal(points.in_um(None), [[17.5, 8, 10]])
    assert points.voxel_size_um == pytest.approx((5, 2, 2))


def test_one_unit_tells_no_voxel_size():
    points = Points(positions=np.ones((2, 3)))
    assert points.voxel_size_um is None
    with pytest.raises(BadTruth, match="no voxel size"):
        points.in_um(None)
    flat = Points(positions=np.array([[0, 1.0, 1]]), positions_um=np.array([[0, 2.0, 2]]))
    assert flat.voxel_size_um is None  # nothing is known along z


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1,2,3\n4,5,6\n", [[1, 2, 3], [4, 5, 6]]),
        ("y,x\n2,3\n", [[0, 2, 3]]),
        ("index,axis-0,axis-1,axis-2\n0,1,2,3\n", [[1, 2, 3]]),
        ("z,y,x\n", np.empty((0, 3))),
        ("z,y,x\n\n1,2,3\n\n", [[1, 2, 3]]),
    ],
)
def test_tables_of_other_shapes(tmp_path, text, expected):
    path = tmp_path / "p.csv"
    path.write_text(text)
    np.testing.assert_array_equal(read_points(path).positions, expected)


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"1,2\n", "2 columns and no header"),
        ("a.csv", b"id,volume\n1,2\n", "columns id,volume"),
        ("a.csv", b"z,y,x\n1,2,3\n1,2,three\n", "line 3"),
        ("a.csv", b"z,y,x\n1,2\n", "line 2"),
        ("a.csv", b"z,y,x\n1,2,nan\n", "finite"),
        ("a.csv", b"\xff\xfe\x00\x81", "not a text table"),
        ("a.xml", b"<CellCounter_Marker_File><Mark", "damaged"),
        ("a.xml", b"<Other/>", "<Other>"),
    ],
)
def test_what_is_not_a_file_of_points_is_said_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadTruth, match=reason) as error:
        read_points(tmp_path / name)
    assert "\n" not in str(error.value)


@given(
    content=st.binary(max_size=200)
    | st.text('zyx_um,;\t\n\r"0123.-e', max_size=60).map(str.encode)
    | st.integers(0, 400).map(lambda n: WHOLE_FILE[:n]),
    name=st.sampled_from(["a.csv", "a.xml"]),
)
def test_no_content_whatever_is_worse_than_bad_truth(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    try:
        assert read_points(path).positions.shape[1] == 3
    except BadTruth as error:
        assert "\n" not in str(error)


def test_a_missing_file_is_bad_truth(tmp_path):
    with pytest.raises(BadTruth, match="No such file"):
        read_points(tmp_path / "none.csv")


def test_cell_counter_markers_are_z_y_x(tmp_path):
    path = marker_file(tmp_path / "cells.xml", (1, []), (2, [(1, 2, 3), (4, 5, 6)]))
    np.testing.assert_array_equal(read_points(path).positions, [[1, 2, 3], [4, 5, 6]])


def test_one_of_several_marker_types_is_chosen(tmp_path):
    path = marker_file(tmp_path / "cells.xml", (1, [(0, 0, 0)]), (2, [(1, 2, 3)]))
    with pytest.raises(BadTruth, match="markers of types"):
        read_points(path)
    assert is_points_path(f"{path}:2")
    np.testing.assert_array_equal(read_points(f"{path}:2").positions, [[1, 2, 3]])
    with pytest.raises(BadTruth, match="no markers of type 7"):
        read_points(f"{path}:7")


@given(
    marks=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 2)),
    chunks=st.none() | st.tuples(*[st.integers(1, 4)] * 3),
    data=st.data(),
)
def test_marked_voxels_are_points_in_raster_order(marks, chunks, data):
    start = [data.draw(st.integers(0, n - 1)) for n in marks.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, marks.shape, strict=True)]
    region = Box(tuple(start), tuple(stop))
    inside = np.zeros_like(marks)
    inside[region.slices] = marks[region.slices]
    np.testing.assert_array_equal(points_in_volume(volume_of(marks, chunks), region).positions, np.argwhere(inside))


@pytest.mark.shared
def test_the_real_cell_counter_file(shared_data):
    points = read_points(shared_data / "cells3d" / "cell_classification.xml")
    assert len(points) == 56
    assert (points.positions[:, 2] < 330).sum() == 53
    assert set(points.positions[:, 0]) <= set(range(10, 20))


def test_a_table_whose_micrometres_are_unknown_is_in_voxels(tmp_path):
    (tmp_path / "cells.csv").write_text("id,z,y,x,z_um,y_um,x_um\n1,3.5,4,5,,,\n2,6,7,8,,,\n")
    points = read_points(tmp_path / "cells.csv")
    assert points.unit == "voxel" and points.positions.tolist() == [[3.5, 4, 5], [6, 7, 8]]
    assert points.positions_um is None
