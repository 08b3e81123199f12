"""``medhpc submit`` and ``script`` on the command line, without a cluster."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from samples import write_tiff

from medhpc.cli import main
from medhpc.jobs.packing import Ceiling
from medhpc.jobs.site import STEPS
from medhpc.jobs.slurm import Job
from medhpc.tiling import tile

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A planned run of 24 tiles, called ``a run``, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_tiff(tmp_path / "v.tif", np.random.default_rng(0).integers(0, 1000, (12, 8, 16), dtype=np.uint16))
    tile("v.tif", "a run", network="identity", store="raw", tile=(4, 4, 4))
    return tmp_path / "a run"


def called(capsys, *arguments):
    """Exit code, what was printed, and what was complained of."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_the_whole_chain_in_this_process(run, capsys):
    code, out, _ = called(capsys, "submit", "a run", "--out", "out.tif", "--as", "raw", "--cluster", "debug")
    assert code == 0 and (run.parent / "out.tif").exists()
    assert "24 of 24 are to be computed" in out and "stitch ended" in out


def test_volumes_are_planned_computed_and_stitched(run, capsys):
    words = ("v.tif", "--network", "identity", "--out-dir", "res", "--store", "raw", "--as", "raw", "--suffix", ".tif")
    code, out, _ = called(capsys, "submit", *words, "--cluster", "debug", "--json")
    assert code == 0 and (run.parent / "res" / "v.tif").exists()
    assert json.loads(out[out.rindex('{\n  "submission"') :])["runs"] == [str(run.parent / "res" / "v.run")]


def test_planned_volumes_tell_their_tiles_and_what_the_stitch_would_refuse(run, capsys):
    tile("v.tif", "res/v.run", network="identity", store="raw", tile=(4, 4, 4))
    words = ("submit", "v.tif", "--network", "identity", "--out-dir", "res", "--cluster", "local", "--dry-run")
    code, out, _ = called(capsys, *words, "--as", "raw")
    assert code == 0 and "24 of 24 are to be computed" in out and "a tile" in out
    code, _, told = called(capsys, *words, "--as", "mask")
    assert code == 2 and "--threshold" in told


def test_to_submit_imports_nothing_heavy(run):
    words = ["submit", str(run), "--out", "o.tif", "--as", "raw", "--cluster", "local", "--dry-run"]
    code = (
        f"import sys; from medhpc.cli.main import run_here; assert run_here({words!r}) == 0\n"
        "print('imported', {'torch', 'scipy', 'skimage', 'dask', 'distributed'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported set()\n")


def test_a_dry_run_prints_the_scripts_and_writes_nothing(run, capsys):
    code, out, _ = called(capsys, "submit", "a run", "--out", "o.tif", "--as", "raw", "--cluster", "local", "--dry-run")
    assert code == 0 and "----- infer-0.sbatch -----" in out and "----- submit.sh -----" in out
    assert not (run / "jobs").exists() and not (run.parent / "o.tif").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["a run"], "--out OUT"),
        (["v.tif", "--out", "o.tif"], "is a file, not a run"),
        (["v.tif", "--network", "identity", "--out", "o.tif"], "--out-dir"),
        (["a run", "--out", "o.tif", "--as", "labels"], "--threshold"),
        (["a run", "--out", "o.xyz", "--as", "raw"], "xyz"),
        (["a run", "--out", "v.tif", "--as", "raw"], "input"),
        (["a run", "--out", "o.tif", "--as", "raw", "--target-time", "soon"], "30m"),
    ],
)
def test_mistakes_are_one_line(run, capsys, words, message):
    code, _, told = called(capsys, "submit", *words, "--cluster", "debug", "--yes")
    assert code == 2 and message in told and len(told.strip().splitlines()) == 1


def test_a_result_that_is_there_is_named_before_it_is_replaced(run, capsys):
    (run.parent / "out.tif").write_bytes(b"")
    _, out, _ = called(capsys, "submit", "a run", "--out", "out.tif", "--as", "raw", "--cluster", "local", "--dry-run")
    assert "out.tif is there and will be replaced" in out


def test_a_result_that_is_there_is_left_alone(run, capsys):
    words = ("submit", "a run", "--out", "out.tif", "--as", "raw", "--cluster", "debug", "--yes")
    assert called(capsys, *words)[0] == 0
    before = (run.parent / "out.tif").stat().st_ino
    code, out, _ = called(capsys, *words)
    assert code == 0 and out.startswith("nothing submitted: ") and out.count("\n") == 1
    code, out, _ = called(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["submission"] is None
    assert (run.parent / "out.tif").stat().st_ino == before


def test_a_folder_of_volumes_alone_goes_on(run, capsys):
    words = ("--network", "identity", "--store", "raw", "--as", "raw", "--suffix", ".tif", "--cluster", "debug")
    assert called(capsys, "submit", "v.tif", "--out-dir", "res", *words)[0] == 0
    (run.parent / "res" / "v.tif").unlink()
    assert called(capsys, "submit", "res", "--cluster", "debug")[0] == 0
    assert (run.parent / "res" / "v.tif").exists()
    code, _, told = called(capsys, "submit", "res", "--cluster", "debug", "--as", "raw")
    assert code == 2 and "leave out --as" in told


@pytest.fixture
def slurm(monkeypatch):
    """A cluster without limits; nothing may be submitted to it."""
    monkeypatch.setattr("medhpc.jobs.prepare.ceilings_of", lambda *_: dict.fromkeys(STEPS, Ceiling()))
    monkeypatch.setattr("medhpc.jobs.dispatch.live_jobs", lambda *_: [])
    monkeypatch.setattr("medhpc.jobs.submit", pytest.fail)


class Terminal(io.StringIO):
    """Somebody who has typed ahead."""

    def isatty(self) -> bool:
        return True


def test_no_is_no_error(run, capsys, monkeypatch, slurm):
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, told = called(capsys, "submit", "a run", "--out", "out.tif", "--as", "raw")
    assert (code, told) == (1, "") and out.endswith("nothing submitted\n")


def test_live_jobs_are_looked_for_before_anything_is_printed(run, capsys, monkeypatch, slurm):
    job = Job(id="7", array="7", indices=(), state="", hosts="", reason="", partition="", name="", comment="")
    monkeypatch.setattr("medhpc.jobs.dispatch.live_jobs", lambda *_: [job])
    code, out, told = called(capsys, "submit", "a run", "--out", "out.tif", "--as", "raw")
    assert (code, out) == (2, "") and "has live jobs (7)" in told


def test_without_slurm_script_says_so(run, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, told = called(capsys, "script", "a run", "--out", "o.tif", "--as", "raw", "--to", "scripts")
    assert code == 2 and "no SLURM here" in told and not (run.parent / "scripts").exists()


def test_cancel_says_whose_jobs_ended(run, capsys, monkeypatch):
    words = ("v.tif", "--network", "identity", "--out-dir", "res", "--store", "raw", "--as", "raw", "--suffix", ".tif")
    shutil.copy("v.tif", "w.tif")
    assert called(capsys, "submit", "w.tif", *words, "--cluster", "debug")[0] == 0
    monkeypatch.setattr("medhpc.jobs.cancel", lambda run: ["7", "8"])
    assert "the jobs of 2 runs" in called(capsys, "cancel", "res/v.run")[1]
