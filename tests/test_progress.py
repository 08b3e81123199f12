"""How far a run is: the ledger first, then its jobs; what is not known is neither done nor failed."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_run import new_run

from medhpc.cli import main
from medhpc.jobs import watch as watching
from medhpc.jobs.live import Live, LiveJob, Queue
from medhpc.jobs.progress import TileState, tile_states
from medhpc.jobs.watch import Watch, look
from medhpc.run import Run, status
from medhpc.run.ledger import Record
from medhpc.run.tally import Tally

TILES = 8  # of new_run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "a.run")


def commit(run: Run, *tiles: int) -> None:
    for tile in tiles:
        write = run.plan.grid[tile].write
        run.commit(run.plan.grid[tile], np.full((1, *write.shape), tile + 1, np.uint8), time.monotonic())


def append(run: Run, *records: Record) -> None:
    for record in records:
        run.ledger.append(record)


def record(run: Run, tile: int, **fields) -> Record:
    return Record(tile=tile, plan=run.ledger.plan, **fields)


def jobs(running=(), waiting=(), known: bool = True, note: str = "") -> Live:
    masks = np.zeros((2, TILES), bool)
    masks[0, list(running)] = masks[1, list(waiting)] = True
    rows = [("7_0", "infer-0", "RUNNING", "node1", "")] * bool(running)
    rows += [("7_[1-3]", "infer-0", "PENDING", "", "Resources")] * bool(waiting)
    found = [
        LiveJob(id=id, step=step, state=state, hosts=hosts, reason=reason, log="")
        for id, step, state, hosts, reason in rows
    ]
    return Live(
        known=known, note=note, jobs=tuple(found), running_tiles=masks[0], waiting_tiles=masks[1], asked_at=time.time()
    )


@pytest.fixture
def slurm(monkeypatch):
    """Let SLURM answer what the test says; counts the questions."""
    asked = []

    def ask(place, chains) -> Queue:
        asked.append(place)
        return Queue(known=True, note="", jobs=(), asked_at=time.time())

    def answer(*answers: Live) -> list[Path]:
        monkeypatch.setattr(watching, "ask", ask)
        monkeypatch.setattr(watching, "live_of", lambda *_: answers[min(len(asked), len(answers)) - 1])
        return asked

    return answer


# --- the tally -----------------------------------------------------------------------------------


def state_of(tally: Tally) -> dict:
    arrays = {name: value.tolist() for name, value in vars(tally).items() if isinstance(value, np.ndarray)}
    return arrays | {"failures": tally.failures, "hosts": tally.hosts, "jobs": tally.jobs}


happenings = st.fixed_dictionaries(
    {"tile": st.integers(0, TILES - 1), "file": st.integers(0, 2), "kind": st.sampled_from(["done", "failed", "lost"])}
)


@given(st.lists(happenings, max_size=30), st.lists(st.integers(0, 4000), max_size=4))
def test_reading_on_is_as_good_as_reading_all(tmp_path_factory, happenings, cuts):
    """However the files grow between two looks, also in the middle of a line."""
    run = new_run(tmp_path_factory.mktemp("tally") / "run")
    files = [b""] * 3
    for number, what in enumerate(happenings):
        fields = {
            "done": {"digest": "d", "stored": number, "host": f"n{number % 3}"},
            "failed": {"error": f"E: {number}", "where": f"a.py:{number % 2}", "traceback": "t" * (number % 2)},
            "lost": {"lost": True},
        }[what["kind"]]
        files[what["file"]] += record(run, what["tile"], time=1000.0 + number, **fields).line
    growing = Tally(run)
    for cut in [*sorted(cuts), None]:
        for name, content in zip("abc", files, strict=True):
            (run.ledger.folder / f"{name}.jsonl").write_bytes(content[:cut])
        growing.update()
    fresh = Tally(run).update()
    for name in ("committed", "failed", "lost", "stored", "done", "has_failed"):
        assert np.array_equal(getattr(growing, name), getattr(fresh, name)), name
    last = {what["tile"]: what["kind"] for what in happenings if what["kind"] != "failed"}
    assert set(np.flatnonzero(fresh.done)) == {tile for tile, kind in last.items() if kind == "done"}


def test_a_lost_tile_is_missing_until_it_is_stored_again(run):
    append(run, record(run, 3, digest="d", time=10.0), record(run, 3, lost=True, time=11.0))
    assert status(run.folder).done == 0
    append(run, record(run, 3, digest="d", time=12.0))
    assert status(run.folder).done == 1


def test_what_is_found_damaged_stays_missing_while_watched(run):
    commit(run, *range(TILES))
    watch = Watch(run.folder)
    assert watch.look().status.done == TILES
    run.shards.paths(run.plan.grid[5].write)[0].unlink()
    assert watch.look().status.done == TILES
    assert watch.look(verify=True).status.damaged_tiles == "5"
    assert watch.look().status.missing_tiles == "5"
    commit(run, 5)
    assert watch.look().status.done == TILES


def test_the_rate_is_that_of_the_last_commits(run):
    append(run, *(record(run, tile, digest="d", time=1e9 + 2 * tile, interval=2.0) for tile in range(6)))
    assert status(run.folder).tiles_per_second == pytest.approx(0.5)


def test_a_night_without_tasks_does_not_slow_the_rate(run):
    append(run, *(record(run, n, digest="d", time=1e9 + 2 * n + 50_000 * (n > 3), interval=2.0) for n in range(6)))
    assert status(run.folder).tiles_per_second == pytest.approx(0.5, rel=0.2)


# --- hosts and failures --------------------------------------------------------------------------


def test_the_slowest_host_comes_first(run):
    seconds = {"quick": (1.0, 2.0, 9.0), "slow": (5.0, 5.0, 5.0)}
    records = [(host, each) for host, all_seconds in seconds.items() for each in all_seconds]
    for tile, (host, each) in enumerate(records):
        append(run, record(run, tile, digest="d", time=1e9, host=host, interval=each, seconds=99.0, peak_memory=tile))
    found = status(run.folder).hosts
    assert [(host.host, host.tiles, host.seconds, host.peak_memory) for host in found] == [
        ("slow", 3, 5.0, 5),
        ("quick", 3, 2.0, 2),
    ]


def test_failures_are_grouped_by_where_they_were_raised(run):
    log = run.folder / "jobs" / "20261121T165501-abcd" / "log" / "infer-0-12_3.log"
    log.parent.mkdir(parents=True)
    log.write_text("")
    common = {"where": "predict.py:93", "host": "node1", "job": "12_3"}
    append(
        run,
        record(run, 0, error="ValueError: tile 0", traceback="Traceback ... tile 0", time=1.0, **common),
        record(run, 1, error="ValueError: tile 1", time=2.0, **common),
        record(run, 2, error="MemoryError: ", where="blocks.py:7", traceback="Traceback", time=3.0, job="99"),
        record(run, 3, error="ValueError: tile 3", time=4.0, **common),
        record(run, 3, digest="d", time=5.0),
    )
    first, second = status(run.folder).failures
    assert (first.kind, first.count, first.tiles) == ("ValueError at predict.py:93", 2, "0-1")
    assert (first.error, first.traceback, first.log) == ("ValueError: tile 0", "Traceback ... tile 0", str(log))
    assert (second.kind, second.tiles, second.log) == ("MemoryError at blocks.py:7", "2", "")
    assert status(run.folder).failed == 3


def test_a_real_failure_is_told_with_its_traceback(run):
    try:
        raise ValueError("too bright")
    except ValueError as error:
        run.fail(run.plan.grid[4], error)
    (failure,) = status(run.folder).failures
    assert re.fullmatch(r"ValueError at test_progress\.py:\d+", failure.kind)
    assert "raise ValueError" in failure.traceback and failure.tiles == "4"


# --- the ledger and the jobs ---------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=20))
def test_a_tile_is_done_only_where_the_ledger_says_so(tiles):
    done, failed, running, waiting = np.array(tiles, bool).T
    found = Live(known=True, note="", jobs=(), running_tiles=running, waiting_tiles=waiting, asked_at=0.0)
    states = tile_states(done, failed & ~done, found)
    assert np.array_equal(states == TileState.DONE, done)
    assert np.array_equal(states == TileState.RUNNING, running & ~done)
    assert np.array_equal(states == TileState.FAILED, failed & ~done & ~running)


def test_what_is_not_known_is_neither_done_nor_failed(run, slurm):
    slurm(jobs(known=False, note="squeue does not answer"))
    commit(run, 0, 1)
    found = look(run.folder)
    assert (found.count(TileState.DONE), found.count(TileState.MISSING)) == (2, 6)
    assert found.as_dict()["live"]["note"] == "squeue does not answer"


def test_jobs_fill_in_what_the_ledger_does_not_know(run, slurm):
    slurm(jobs(running=(1, 2), waiting=(3, 4, 5)))
    commit(run, 0, 1)
    found = look(run.folder)
    assert found.states.shape == (2, 2, 2)
    assert "".join("#>.-x"[state] for state in found.states.ravel()) == "##>...--"
    assert found.as_dict()["waiting_tiles"] == "3-5"


def test_the_ledger_is_read_on_and_slurm_is_left_in_peace(run, slurm, monkeypatch):
    asked = slurm(jobs(running=(0,)), jobs())
    watch = Watch(run.folder)
    for tile in range(4):
        commit(run, tile)
        assert watch.look().status.done == tile + 1
    assert len(asked) == 1
    monkeypatch.setattr(watching, "PATIENCE", 0.0)
    assert watch.look().live.jobs == () and len(asked) == 2


# --- the command ---------------------------------------------------------------------------------


def typed(capsys, *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == code
    return capsys.readouterr().out


def test_the_command_shows_the_map_the_jobs_and_the_failures(run, slurm, capsys):
    slurm(jobs(running=(1,), waiting=(2, 3)))
    commit(run, 0)
    append(run, record(run, 7, error="ValueError: bad", where="a.py:1", traceback="Tr\nValueError: bad", time=9e9))
    out = typed(capsys, "status", str(run.folder))
    assert "  z 0  #> ..\n  z 1  -- -x\n" in out
    assert re.search(r"^running +1: 1$", out, re.MULTILINE) and re.search(r"^waiting +2: 2-3$", out, re.MULTILINE)
    assert "1 x ValueError at a.py:1 (tiles 7)" in out and "ValueError: bad" in out
    assert re.search(r"7_0 +infer-0 +RUNNING +node1", out) and re.search(r"PENDING +Resources", out)
    assert "--watch" in out.splitlines()[-1]


def test_unknown_jobs_are_said_to_be_unknown(run, slurm, capsys):
    slurm(jobs(known=False, note="squeue does not answer"))
    out = typed(capsys, "status", str(run.folder))
    assert "unknown: squeue does not answer" in out and f"medhpc infer {run.folder}" in out


def test_watching_without_a_terminal_is_a_line_a_change(run, slurm, capsys, monkeypatch):
    monkeypatch.setattr("medhpc.cli.watch.EVERY", 0.02)
    slurm(jobs())
    commit(run, *range(6))

    def finish() -> None:
        time.sleep(0.3)
        commit(run, 6, 7)

    worker = threading.Thread(target=finish)
    worker.start()
    lines = typed(capsys, "status", "--watch", str(run.folder)).splitlines()
    worker.join()
    assert lines[0].endswith("6 of 8 tiles done") and lines[-2].endswith("8 of 8 tiles done; all tiles done")
    assert lines[-1] == f"all tiles done; next: medhpc stitch {run.folder} OUT"
    assert len(lines) <= 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_ends_the_watching_and_the_cursor_is_back(run, number, code):
    watching, inside = on_a_terminal(run)
    seen = read_until(inside, b"Ctrl-C")
    assert seen.count(b"\x1b[?25l") == 1  # hides it
    watching.send_signal(number)
    seen += read_to_the_end(inside)
    assert watching.wait(120) == code and seen.rstrip().endswith(b"\x1b[?25h")


def test_what_a_process_of_this_machine_did_before_it_ended_is_no_sign_of_life(run):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    newest = record(run, 1, digest="d", time=time.time(), interval=2.0, host="here").line
    (run.ledger.folder / f"{socket.gethostname()}-{gone.pid}-1-abcdef.jsonl").write_bytes(newest)
    found = look(run.folder)
    assert not found.at_work and found.phase == "stopped" and found.eta_seconds is None
    assert found.status.recorded_at > 0 == found.status.seen_at
    (run.ledger.folder / f"not-{socket.gethostname()}-{gone.pid}-1-abcdef.jsonl").write_bytes(newest)
    assert look(run.folder).phase == "running"  # on another machine, of which nothing is known
    assert look(run.folder).status.seen_at == found.status.recorded_at


@pytest.mark.parametrize("other", ["--json", "--verify"])
def test_watching_goes_with_no_other_option(run, other, capsys):
    with pytest.raises(SystemExit) as end:
        main(["status", str(run.folder), "--watch", other])
    assert end.value.code == 2 and "--watch" in capsys.readouterr().err


def test_on_a_terminal_it_redraws_until_the_run_is_complete(run):
    commit(run, *range(7))
    watching, inside = on_a_terminal(run)
    seen = read_until(inside, b"Ctrl-C")
    commit(run, 7)
    seen += read_to_the_end(inside)
    assert watching.wait(120) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "7 (88 %)" in text and "8 (100 %)" in text
    assert "\x1b[32m" in seen.decode()


def on_a_terminal(run: Run) -> tuple[subprocess.Popen, int]:
    """A watch in a process with a terminal of its own, and where to read what it shows."""
    inside, outside = pty.openpty()
    code = "from medhpc.cli import main, watch; watch.EVERY = 0.05; main()"
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}
    watching = subprocess.Popen(
        [sys.executable, "-c", code, "status", "--watch", str(run.folder)],
        stdin=outside,
        stdout=outside,
        stderr=outside,
        env=environment,
    )
    os.close(outside)
    return watching, inside


def read_until(inside: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(inside, 4096)
    return seen


def read_to_the_end(inside: int) -> bytes:
    seen = b""
    try:
        while part := os.read(inside, 4096):
            seen += part
    except OSError:  # how a terminal says that nobody is left
        pass
    os.close(inside)
    return seen


def test_status_needs_no_torch(run):
    code = "import sys; from medhpc.jobs.watch import look; look(sys.argv[1]); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True, check=True)
    assert {"torch", "dask", "scipy", "skimage", "matplotlib", "tifffile", "rich"} & set(found.stdout.split()) == set()
