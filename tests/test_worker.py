"""Tasks of a job array: they share what is missing, go on after failures, and end when they are told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import stored, write_tiff

from medhpc.errors import BadOption, MedhpcError, MissingTiles, NotARun
from medhpc.infer import infer, task, work
from medhpc.run import Run
from medhpc.run.missing import hopeless, leave_share, missing_tiles, recorded, take_share
from medhpc.run.share import share
from medhpc.tiling import tile

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")
TILES = 24
VOLUME = np.random.default_rng(0).integers(0, 1000, (12, 8, 16), dtype=np.uint16)


@pytest.fixture
def run(tmp_path):
    """A planned run of 24 tiles."""
    return planned(tmp_path, "run")


def planned(folder, name, volume="volume.tif", **options):
    source = folder / volume
    if not source.exists():
        write_tiff(source, VOLUME)
    tile(source, folder / name, network="identity", store="raw", tile=(4, 4, 4), **options)
    return folder / name


def failing(monkeypatch, run, *tiles, kind=ValueError):
    """Let these tiles fail when they are read."""
    genuine, grid = task.read_block, Run(run).plan.grid
    broken = {grid[index].read for index in tiles}

    def read(source, box, nan):
        if box in broken:
            raise kind("broken")
        return genuine(source, box, nan)

    monkeypatch.setattr(task, "read_block", read)


# --- sharing -------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), min_size=1, max_size=4), st.integers(1, 12))
def test_shares_are_all_of_it_and_equal(lists, n):
    shares = [share(lists, f"{k}/{n}") for k in range(1, n + 1)]
    for index, tiles in enumerate(lists):
        assert [tile for part in shares for tile in part[index]] == tiles
    sizes = [sum(map(len, part)) for part in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "/"])
def test_wrong_shares_are_refused(text):
    with pytest.raises(BadOption, match="K/N"):
        share([[1, 2]], text)


def test_all_tasks_share_the_first_ones_list(run):
    infer(run, tiles="0:4")
    file = run / "jobs" / "a" / "missing-0.json"
    assert missing_tiles([Run(run)], file) == [list(range(4, TILES))]
    infer(run, tiles="4:10")
    assert missing_tiles([Run(run)], file) == [list(range(4, TILES))]
    assert [path.name for path in file.parent.iterdir()] == ["missing-0.json"]
    assert missing_tiles([Run(run)], file.with_name("missing-1.json")) == [list(range(10, TILES))]


def test_a_list_of_other_runs_is_refused(run, tmp_path):
    file = tmp_path / "missing-0.json"
    missing_tiles([Run(run)], file)
    with pytest.raises(NotARun, match="other runs"):
        missing_tiles([Run(planned(tmp_path, "second"))], file)


def test_tasks_of_two_runs_do_all_of_both(run, tmp_path):
    second = planned(tmp_path, "second", region="4:,:,:")
    results = [work([run, second], task=f"{k}/3", missing=tmp_path / "missing-0.json") for k in (1, 2, 3)]
    assert [result.tiles for result in results] == [13, 13, 14]
    assert sum(result.left + result.failed for result in results) == 0
    Run(run).require_all()
    Run(second).require_all()


def test_told_to_stop_no_other_run_is_begun(run, tmp_path):
    second = planned(tmp_path, "second")
    asked = iter([False, True])
    result = work([run, second], task="1/1", missing=tmp_path / "missing-0.json", stop=lambda: next(asked, True))
    assert [one.computed for one in result.runs] == [1] and result.left == 2 * TILES - 1


def test_a_run_that_cannot_be_computed_keeps_no_other_from_it(run, tmp_path):
    second = planned(tmp_path, "second")
    broken = planned(tmp_path, "broken", volume="other.tif")
    os.truncate(tmp_path / "other.tif", 500)
    with pytest.raises(MedhpcError, match="other.tif"):
        work([broken, run, second], task="1/1", missing=tmp_path / "missing-0.json")
    Run(run).require_all()
    Run(second).require_all()


def test_what_others_did_meanwhile_is_not_done_again(run, tmp_path):
    missing_tiles([Run(run)], tmp_path / "missing-0.json")
    infer(run)
    assert work([run], task="1/1", missing=tmp_path / "missing-0.json").runs[0].computed == 0


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_is_told_once_with_its_traceback_and_the_others_go_on(run, tmp_path, monkeypatch):
    failing(monkeypatch, run, 3, 7)
    result = work([run], task="1/1", missing=tmp_path / "missing-0.json")
    assert (result.failed, result.left, result.errors) == (2, 0, ("ValueError: broken",))
    assert recorded(Run(run)).sum() == TILES - 2
    records = [record for record in Run(run).ledger.records() if "error" in record]
    assert [record["tile"] for record in records] == [3, 7]
    assert "Traceback" in records[0]["traceback"] and "traceback" not in records[1]
    assert records[0]["where"] == records[1]["where"] and records[0]["where"].startswith("test_worker.py:")


def test_stitch_says_which_tiles_are_missing_and_why(run, tmp_path, monkeypatch):
    failing(monkeypatch, run, 3, 7)
    work([run], task="1/1", missing=tmp_path / "missing-0.json")
    with pytest.raises(MissingTiles, match=r"missing or damaged: 3,7 \(2 failed, as in: ValueError: broken\)"):
        Run(run).require_all()


def test_the_same_exception_is_repeated_once_and_other_ones_again(run, tmp_path, monkeypatch):
    for number, expected in ((0, 1), (1, 1), (2, 0)):
        with monkeypatch.context() as patch:
            failing(patch, run, 3)
            result = work([run], task="1/1", missing=tmp_path / f"missing-{number}.json")
        assert result.failed == expected
    assert hopeless(Run(run), since=0) == {3}
    with monkeypatch.context() as patch:
        failing(patch, run, 3, kind=MemoryError)
        for number in (0, 1, 2):
            assert work([run], task="1/1", missing=tmp_path / f"other-{number}.json").failed == 1
    assert work([run], task="1/1", missing=tmp_path / "new-0.json").failed == 0  # mended, submitted again


def test_a_suspect_host_gets_one_tile_as_a_trial(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, run, *range(TILES))
        assert work([run], task="1/2", missing=tmp_path / "missing-0.json").failed == 12
        second = work([run], task="2/2", missing=tmp_path / "missing-0.json")
        assert (second.failed, second.left) == (1, 11)
    third = work([run], task="1/1", missing=tmp_path / "missing-1.json")  # the host is well again
    assert (third.failed, third.left) == (0, 0) and recorded(Run(run)).all()


def test_what_a_suspect_host_leaves_is_taken_over_by_another(run, tmp_path, monkeypatch):
    file = tmp_path / "missing-0.json"
    with monkeypatch.context() as patch:
        failing(patch, run, *range(TILES))
        assert work([run], task="1/3", missing=file).failed == 8  # now it is suspect
        assert work([run], task="2/3", missing=file).left == 7
    monkeypatch.setenv("SLURMD_NODENAME", "another")
    other = work([run], task="3/3", missing=file)
    assert (other.tiles, other.failed, other.left) == (16, 0, 0)
    assert np.flatnonzero(~recorded(Run(run))).tolist() == list(range(8))  # they have failed: for the next round
    assert work([run], task="3/3", missing=file).tiles == 8  # nobody takes it twice


def test_a_share_that_is_left_is_taken_once_and_in_its_round_only(tmp_path):
    first, second = tmp_path / "missing-1.json", tmp_path / "missing-2.json"
    leave_share(first, "3/16")
    leave_share(first, "12/16")
    assert take_share(second) is None
    assert {take_share(first), take_share(first)} == {"3/16", "12/16"}
    assert take_share(first) is None


def test_a_lost_tile_is_missing_for_the_ledger_until_it_is_done_again(run, tmp_path):
    infer(run)
    opened = Run(run)
    for path in opened.shards.paths(opened.plan.grid[5].write):
        path.write_bytes(b"0" * path.stat().st_size)
    with pytest.raises(MissingTiles):
        Run(run).require_all()
    assert recorded(Run(run)).sum() < TILES
    work([run], task="1/1", missing=tmp_path / "missing-0.json")
    assert recorded(Run(run)).all()
    Run(run).require_all()


# --- signals -------------------------------------------------------------------------------------

SLOW = """
import sys, time
from medhpc.cli import main
from medhpc.infer import task
genuine = task.read_block
def slowly(*arguments):
    time.sleep(0.1)
    return genuine(*arguments)
task.read_block = slowly
main(["infer", sys.argv[1], "--threads", "1", "--json"])
"""


@pytest.mark.parametrize("number, code", [(signal.SIGUSR1, 0), (signal.SIGTERM, 143)])
def test_signals_end_it_and_nothing_is_lost(run, number, code):
    process = subprocess.Popen([sys.executable, "-c", SLOW, run], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not recorded(Run(run)).any() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == code
    done = int(recorded(Run(run)).sum())
    assert 0 < done < TILES
    if number == signal.SIGUSR1:
        assert json.loads(told)["left"] == TILES - done
    infer(run)
    assert np.array_equal(stored(run)[0], VOLUME)


def test_a_task_with_nothing_to_do_imports_no_torch(run, tmp_path):
    infer(run)
    code = (
        "import sys; from medhpc.infer import work; "
        f"assert work([{str(run)!r}], task='1/1', missing={str(tmp_path / 'm-0.json')!r}).tiles == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
