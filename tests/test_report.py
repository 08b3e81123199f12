"""The report: true pictures, no other file, and nothing a user named can become a part of the page."""

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medhpc.cli import main
from medhpc.errors import BadOption, NotARun
from medhpc.infer import infer
from medhpc.jobs.chain import Step, Target
from medhpc.jobs.packing import Resources
from medhpc.jobs.submission import Submission
from medhpc.report import report
from medhpc.report.drawings import nice, seams
from medhpc.report.facts import _name, gather
from medhpc.report.html import VOID, Html, element, table
from medhpc.report.page import page
from medhpc.report.png import data_uri, in_ramp, of_objects
from medhpc.report.projections import PIXELS, project, shrunk
from medhpc.run import Run, clean
from medhpc.run.ledger import Record
from medhpc.stitch import stitch
from medhpc.tiling import tile
from medhpc.volume import create_volume, open_volume

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")

SHAPE = (20, 30, 40)
NASTY = '<script>alert(1)<!-- & "it\'s".tif'  # a slash cannot stand in a file's name


def voxels(shape=SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def finished(folder: Path, name: str = "volume.tif") -> Run:
    tifffile.imwrite(
        folder / name, voxels(), imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    )
    run = folder / "a.run"
    tile(folder / name, run, network="identity", store="raw", tile=(10, 15, 20), region="0:20,0:30,0:40")
    infer(run, threads=1)
    stitch(run, folder / "mask.tif", threshold=200.0)
    return Run(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_measure, quick_disk) -> Run:
    return finished(tmp_path_factory.mktemp("report"), NASTY)


# --- projections ---------------------------------------------------------------------------------


def stored(path: Path, array: np.ndarray, **options) -> Path:
    """The array as a volume on disk."""
    with create_volume(path, array.shape[-3:], array.dtype, **options) as writer:
        writer.write(0, array)
    return path


@given(arrays.arrays(np.int16, st.tuples(*[st.integers(1, 9)] * 3)), st.integers(0, 2), st.integers(1, 10))
def test_shrinking_keeps_the_largest_of_each_block(block, axis, by):
    starts = range(0, block.shape[axis], by)
    assert np.array_equal(shrunk(block, axis, by), np.maximum.reduceat(block, starts, axis=axis))


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr", ".h5", ".nii.gz"])
def test_a_small_volume_is_projected_from_every_voxel(tmp_path, suffix):
    volume = voxels()
    path = stored(tmp_path / f"a{suffix}", volume)
    found = project(lambda level: open_volume(path, level=level))
    assert found.sampled == "every voxel"
    for axis, plane in enumerate((found.z, found.y, found.x)):
        assert np.array_equal(plane, volume.max(axis=axis))


def test_a_wide_volume_is_made_smaller_by_the_largest(tmp_path):
    volume = np.zeros((3, 4, 3 * PIXELS), np.uint8)
    volume[1, 2, 1000] = 7
    path = stored(tmp_path / "a.tif", volume)
    found = project(lambda level: open_volume(path))
    assert found.z.shape == (4, PIXELS) and found.z[2, 1000 // 3] == found.y[1, 1000 // 3] == 7
    assert found.x.shape == (3, 4) and np.count_nonzero(found.z) == 1


def test_nan_and_infinity_are_not_the_largest(tmp_path):
    volume = np.ones((2, 3, 4), np.float32)
    volume[0, 1, 2], volume[1, 1, 2], volume[:, 0, 0] = np.nan, 5, np.inf
    path = stored(tmp_path / "a.tif", volume)
    found = project(lambda level: open_volume(path))
    assert found.z[1, 2] == 5 and found.z[0, 1] == 1


def test_the_brightest_channel_is_shown(tmp_path):
    volume = np.stack([voxels(seed=1), voxels(seed=2)])
    path = stored(tmp_path / "a.ome.zarr", volume, channels=2)
    found = project(lambda level: open_volume(path, level=level))
    assert np.array_equal(found.z, volume.max(axis=(0, 1)))


def test_of_a_large_volume_planes_are_looked_at(tmp_path):
    volume = np.arange(1, 41, dtype=np.uint8)[:, None, None] * np.ones((40, 5, 6), np.uint8)
    path = stored(tmp_path / "a.tif", volume)
    found = project(lambda level: open_volume(path), budget=5 * 6 * 9)
    assert found.sampled == "9 of 40 planes (40 × 5 × 6 voxels)"
    assert found.z.max() == 40 and set(found.y[:, 0]) <= set(range(1, 41))
    assert len(set(found.y[:, 0])) == 9 and (np.diff(found.y[:, 0].astype(int)) >= 0).all()


def test_of_a_large_pyramid_a_level_is_looked_at(tmp_path):
    path = stored(tmp_path / "a.ome.zarr", voxels((64, 64, 64)), levels=3)
    found = project(lambda level: open_volume(path, level=level), budget=64**3 // 8)
    assert re.fullmatch(r"all slabs of \d+ planes of level 1 of its pyramid \(32 × 32 × 32 voxels\)", found.sampled)
    assert found.z.shape == (32, 32)


# --- pieces of a page ----------------------------------------------------------------------------


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_a_png_holds_its_pixels(pixels):
    pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    head, content = data_uri(pixels).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(imagecodecs.png_decode(base64.b64decode(content)), pixels)


def test_colours_grow_lighter_and_objects_differ_from_the_background():
    ramp = in_ramp(np.linspace(0, 1, 50), 0, 1, ("000000", "ff8800", "ffffff")).astype(int).sum(axis=1)
    assert (np.diff(ramp) >= 0).all()
    colours = of_objects(np.arange(10**6, 10**6 + 5).astype(np.uint32))
    assert len({tuple(colour) for colour in colours.tolist()}) == 5
    assert of_objects(np.zeros((2, 2), np.uint8)).max() == 0


@given(st.text())
def test_text_cannot_become_markup(text):
    drawn = element("p", text, title=text)
    parsed = Page(drawn)
    assert parsed.tags == ["p"]
    if not set(text) & {"\0", "\r"}:  # which no HTML can hold
        assert "".join(parsed.texts) == text
    assert Html(drawn) in table(["a"], [[drawn]])


@given(st.floats(1e-3, 1e6))
def test_a_scale_bar_is_a_round_number(length):
    assert length / 2.6 <= nice(length) <= length
    assert f"{nice(length):.1e}"[0] in "125"


@pytest.mark.parametrize(
    ("path", "name"), [("/data/b.tif", "b.tif"), ("/data/b.h5:/t0/raw", "b.h5:/t0/raw"), ("/data/planes", "planes")]
)
def test_the_name_of_a_volume_tells_file_and_dataset(path, name):
    assert _name(path) == name


class Page(HTMLParser):
    """Reads a page; fails where tags do not pair up, and keeps addresses, texts and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


# --- the page ------------------------------------------------------------------------------------


def test_a_report_is_well_formed_and_needs_no_other_file(run, tmp_path):
    text = report(run.folder, tmp_path / "report.html").read_text()
    parsed = Page(text)
    assert len(parsed.addresses) >= 8
    assert {address.split(",")[0] for address in parsed.addresses} == {"data:image/png;base64"}
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_names_of_users_are_text(run):
    text = page(gather(run.folder))
    assert "<script" not in text and "<!-- &" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert NASTY in Page(text).texts


def test_a_report_says_all_that_it_should(run, tmp_path):
    (tmp_path / "scores.json").write_text(
        json.dumps({"dice": 0.91234, "f1": None, "classes": [{"name": "<b>", "dice": 0.5}], "seams": {"near": 0.25}})
    )
    text = page(gather(run.folder, measures=tmp_path / "scores.json"))
    said = " ".join(Page(text).texts)
    plan = run.plan
    for part in (
        *("complete", "20 × 30 × 40", "voxels of 2 × 0.5 × 0.5 µm", "every voxel", "0.912", "Dice", "0.25", "<b>"),
        *(
            "Maximum projections",
            "Time of each tile",
            "Memory of each tile",
            "Hosts",
            "Halo",
            "Provenance",
            "not by submit",
        ),
        *(plan.digest, plan.network.digest, plan.source.fingerprint["digest"], "torch", "10 × 15 × 20 voxels"),
    ):
        assert part in said, part
    assert text.count('class="seam"') == 2 * 2 * 3  # 2 x 2 x 2 tiles: two lines in each view, of two volumes


def test_a_drawing_has_many_units_however_small_the_volume(run):
    """Letters of less than a unit are drawn as blobs."""
    text = page(gather(run.folder))
    (width, height) = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)" class="views', text).groups())
    bar = re.search(r'<line class="scale" x1="(\S+)" x2="(\S+)"', text).groups()
    name, size = re.search(r'font-size="(\S+)" class="scale">(\S+) µm<', text).group(2, 1)
    assert 1000 <= width <= 1050 and float(size) >= 30
    of_view = (float(bar[1]) - float(bar[0])) / (width - 0.02 * 1000) * (20 * 2.0 + 40 * 0.5)  # z and x, in µm
    assert of_view == pytest.approx(float(name), rel=1e-3)


def test_the_same_facts_make_the_same_page(run):
    facts = gather(run.folder)
    assert page(facts) == page(facts)


def test_seams_are_where_tiles_meet(run):
    assert [seams(run.plan.grid, axis) for axis in range(3)] == [[10], [15], [20]]


def test_what_is_gone_is_said_to_be_gone(tmp_path):
    run = finished(tmp_path)
    (tmp_path / "volume.tif").unlink()
    clean(run.folder)
    (tmp_path / "mask.tif").unlink()
    said = " ".join(Page(page(gather(run.folder))).texts)
    assert "volume.tif" in said and said.count("Not shown") == 2


def test_an_unfinished_run_has_a_report(tmp_path):
    tifffile.imwrite(tmp_path / "volume.tif", voxels())
    tile(tmp_path / "volume.tif", tmp_path / "a.run", network="identity", store="raw", tile=(10, 15, 20))
    assert "8 of 8 tiles missing" in page(gather(tmp_path / "a.run"))
    infer(tmp_path / "a.run", tiles="0:3", threads=1)
    opened = Run(tmp_path / "a.run")
    opened.fail(opened.plan.grid[4], ValueError("<i>bad</i>"))
    text = page(gather(tmp_path / "a.run"))
    assert "5 of 8 tiles missing" in text and "&lt;i&gt;bad" in text and "3-7" in text
    Page(text)


def test_what_is_said_at_the_top(tmp_path):
    """An exact halo is no measure, and an empty result is told."""
    run = finished(tmp_path)
    said = Page(page(gather(run.folder))).texts
    assert "exact" in said and not any("largest seam error" in text for text in said)
    assert not any("try a lower" in text for text in said)
    found = stitch(run.folder, tmp_path / "mask.tif", threshold=1e6)
    assert f"mask.tif: {found.note}" in Page(page(gather(run.folder))).texts
    assert "below the threshold 1e+06" in found.note


def test_the_run_over_time_has_its_axes(run):
    said = Page(page(gather(run.folder))).texts
    start = said.index("The run over time")
    assert said[start + 1 : start + 6] == ["8", "tiles done", "0", "0", "time since the first tile was done"]


def test_a_plane_and_a_blended_run_have_one(tmp_path):
    tifffile.imwrite(tmp_path / "plane.tif", voxels((40, 50)))
    options = {"network": "identity", "store": "raw", "tile": (1, 20, 25)}
    tile(tmp_path / "plane.tif", tmp_path / "a.run", blend="gaussian", window=(1, 10, 10), **options)
    infer(tmp_path / "a.run", threads=1)
    stitch(tmp_path / "a.run", tmp_path / "raw.tif", kind="raw")
    facts = gather(tmp_path / "a.run")
    assert not facts.pictures[1].objects  # raw numbers are no objects
    text = page(facts)
    assert "Blending" in text and "µm" not in text
    Page(text)


# --- measures and submissions --------------------------------------------------------------------


def test_measures_beside_the_result_are_found(tmp_path):
    run = finished(tmp_path)
    assert gather(run.folder).measures is None
    (tmp_path / "mask.tif.json").write_text('{"dice": 0.5}')
    assert gather(run.folder).measures == {"dice": 0.5}


@pytest.mark.parametrize("content", [None, "not json", "[1]"])
def test_bad_measures_are_refused(run, tmp_path, content):
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(BadOption, match=r"m\.json.*evaluate --json"):
        report(run.folder, tmp_path / "report.html", measures=tmp_path / "m.json")
    assert not (tmp_path / "report.html").exists()


def test_use_is_told_round_by_round(tmp_path):
    run = finished(tmp_path)
    folder = run.folder / "jobs" / "20261121T165501-abcd"
    folder.mkdir(parents=True)
    target = (Target(run=str(run.folder.resolve()), out="mask.tif"),)
    steps = [
        Step(
            name=name,
            kind=name.split("-")[0],
            resources=Resources(cpus=4, memory=memory * 2**30, seconds=600),
            targets=target,
            tasks=tasks,
            of=5,
        )
        for name, memory, tasks in (("infer-0", 2, 3), ("infer-1", 2, 2), ("repair-1", 3, 1), ("repair-2", 5, 1))
    ]
    jobs = {"infer-0": "100", "infer-1": "101", "repair-1": "102", "repair-2": "103"}
    Submission(folder=folder, cluster="slurm", steps=tuple(steps), jobs=jobs).saved()
    for number, job in enumerate(("100_0", "100_0", "101_1", "102_0")):
        ended = 2e9 + 10 * number
        record = Record(tile=number, plan=run.ledger.plan, digest="d", time=ended, interval=10.0, cpu=25.0, job=job)
        run.ledger.append(record)
    first, repair, idle, others = gather(run.folder).uses
    assert (first.name, first.jobs, first.tasks, first.tasks_asked, first.tiles) == ("infer", ("100", "101"), 2, 5, 3)
    assert (first.seconds, first.seconds_asked, first.cores, first.cores_asked) == (20.0, 600, 2.5, 4)
    assert (repair.name, repair.tiles, repair.memory_asked) == ("repair 1", 1, 3 * 2**30)
    assert (others.name, others.tiles, others.memory_asked) == ("not by submit", 4, None)
    said = " ".join(Page(page(gather(run.folder))).texts)
    assert (idle.tasks, idle.tiles) == (0, 0) and "5 GiB asked for" in said and "– of" not in said
    assert "2.5 of 4" in said and "20 s of 10 min" in said and "100, 101" in said


# --- files and the command -----------------------------------------------------------------------


def test_a_report_that_cannot_be_written_leaves_the_old_one(run, tmp_path, monkeypatch):
    out = report(run.folder, tmp_path / "report.html")
    before = out.read_text()

    def killed(*_):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        report(run.folder, out)
    assert out.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("name", "message"), [("volume.tif", "end in .html"), ("none/a.html", "folder does not exist")]
)
def test_what_is_no_report_is_not_replaced_by_one(run, tmp_path, name, message):
    (tmp_path / "volume.tif").write_text("precious")
    with pytest.raises(BadOption, match=message):
        report(run.folder, tmp_path / name)
    assert (tmp_path / "volume.tif").read_text() == "precious"


def test_no_run_has_no_report(tmp_path):
    with pytest.raises(NotARun):
        report(tmp_path, tmp_path / "other.html")


def test_the_command(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["report", str(run.folder), str(tmp_path / "report.html")])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith("report ") and err == ""


def test_a_browser_draws_it(run, tmp_path):
    """In headless Chromium: no error, and a page that is neither empty nor one colour."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    report(run.folder, tmp_path / "report.html")
    picture = tmp_path / "report.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    size = ["--window-size=1100,2400", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run([browser, *flags, *size, address], capture_output=True, text=True, timeout=120)
    assert picture.exists(), done.stderr
    assert "CONSOLE" not in done.stderr
    pixels = imagecodecs.png_decode(picture.read_bytes())
    assert pixels.shape[:2] == (2400, 1100)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 200
