"""The ledger: what is done is known after any accident, and known quickly."""

import json
import os
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run import fill, new_run, plan_of

from medhpc.errors import MissingTiles, NotARun
from medhpc.run import status
from medhpc.run.folder import claimed, create_run
from medhpc.run.ledger import Ledger, Record, parse_lines, this_job

PLAN = "0123456789abcdef"
records = st.builds(
    Record,
    tile=st.integers(0, 10**9),
    plan=st.just(PLAN),
    digest=st.text("0123456789abcdef", max_size=64),
    stored=st.integers(0, 2**60),
    seconds=st.floats(0, 1e9),
    host=st.text(max_size=20),
    error=st.text(max_size=50),
)


def write_lines(folder: Path, *lines: bytes, name: str = "a.jsonl") -> Ledger:
    (folder / name).write_bytes(b"".join(lines))
    return Ledger(folder, PLAN)


def tiles_of(ledger: Ledger) -> list[int]:
    return [record["tile"] for record in ledger.records()]


def record(tile: int, plan: str = PLAN) -> Record:
    return Record(tile=tile, plan=plan, digest="d")


# --- lines ---------------------------------------------------------------------------------------


@given(records)
def test_a_record_survives_its_line(record):
    assert record.line.count(b"\n") == 1
    assert [Record(**fields) for fields in parse_lines([record.line])] == [record]


@given(st.lists(records), st.integers(0, 3))
def test_failures_are_the_records_with_an_error(tmp_path_factory, found, torn):
    lines = [record.line for record in found]
    ledger = write_lines(tmp_path_factory.mktemp("ledger"), *lines, *(line[:-torn] for line in lines[:1] if torn))
    assert list(ledger.failures()) == [record for record in ledger.records() if "error" in record]


@settings(max_examples=300)
@given(records, st.data())
def test_a_damaged_line_is_no_record(record, data):
    line = bytearray(record.line)
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] ^= data.draw(st.integers(1, 255))
    assert parse_lines([bytes(line)]) == []


@given(records, st.data())
def test_a_torn_line_is_no_record(record, data):
    length = data.draw(st.integers(0, len(record.line) - 2))
    assert parse_lines([record.line[:length]]) == []


@given(st.binary(max_size=60))
def test_noise_is_no_record(line):
    assert parse_lines([line]) == []


# --- files ---------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.integers(0, 99), max_size=20))
def test_what_is_appended_is_read_in_order(tmp_path_factory, tiles):
    ledger = Ledger(tmp_path_factory.mktemp("ledger"), PLAN)
    for tile in tiles:
        ledger.append(record(tile))
    ledger.close()
    assert tiles_of(ledger) == tiles


@given(st.data())
def test_damage_costs_the_lines_that_it_meets_and_no_other(tmp_path_factory, data):
    lines = [record(tile).line for tile in range(5)]
    content = bytearray(b"".join(lines))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    found = tiles_of(write_lines(tmp_path_factory.mktemp("ledger"), bytes(content)))
    hit = place // len(lines[0])
    lost = {hit, hit + 1} if content[place] != 10 and (place + 1) % len(lines[0]) == 0 else {hit}
    assert found == [tile for tile in range(5) if tile not in lost]


@given(st.integers(0, 200))
def test_a_file_that_was_cut_keeps_what_is_whole(tmp_path_factory, length):
    lines = [record(tile).line for tile in range(3)]
    content = b"".join(lines)[:length]
    whole = sum(len(content) >= (n + 1) * len(lines[0]) - 1 for n in range(3))  # the last line end may be missing
    assert tiles_of(write_lines(tmp_path_factory.mktemp("ledger"), content)) == list(range(whole))


def test_records_of_another_plan_are_passed_over(tmp_path):
    ledger = write_lines(tmp_path, record(0).line, record(1, plan="f" * 16).line, record(2).line)
    assert tiles_of(ledger) == [0, 2]


def test_a_half_written_line_does_not_spoil_the_next(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path, PLAN)
    ledger.append(record(0))
    with monkeypatch.context() as patch:
        whole = os.write
        calls = iter([lambda file, line: whole(file, line[:20]), _no_room])
        patch.setattr(os, "write", lambda file, line: next(calls)(file, line))
        with pytest.raises(Exception, match="no room"):
            ledger.append(record(1))
    ledger.append(record(2))
    ledger.append(record(3))
    assert tiles_of(ledger) == [0, 2, 3]


def _no_room(*_):
    raise OSError(28, os.strerror(28))


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    (tmp_path / ".nfs0001").write_bytes(record(7).line)
    (tmp_path / "README").write_bytes(record(8).line)
    assert tiles_of(write_lines(tmp_path, record(1).line)) == [1]


def append_many(folder: Path, first: int) -> None:
    ledger = Ledger(folder, PLAN)
    for tile in range(first, first + 50):
        ledger.append(record(tile))


def test_many_processes_append_at_once(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("forkserver")) as processes:
        list(processes.map(append_many, [tmp_path] * 8, range(0, 400, 50)))
    assert sorted(tiles_of(Ledger(tmp_path, PLAN))) == list(range(400))


def test_a_closed_ledger_opens_again(tmp_path):
    ledger = Ledger(tmp_path, PLAN)
    for tile in range(3):
        ledger.append(record(tile))
        ledger.close()
    assert sorted(tiles_of(ledger)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
    ],
)
def test_the_slurm_job_is_known(monkeypatch, variables, job):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert this_job() == job


# --- status --------------------------------------------------------------------------------------


def test_status_counts_done_missing_failed_and_damaged(tmp_path):
    run = new_run(tmp_path / "run")  # 2 x 2 x 2 tiles
    grid = run.plan.grid
    assert status(run.folder).missing_tiles == "0-7"
    values = {tile.index: run.shards.array[(slice(None), *tile.write.slices)] for tile in grid}
    for number in (0, 1, 2, 5):
        run.commit(grid[number], values[number], time.monotonic())
    run.fail(grid[1], ValueError("before it was done"))
    run.fail(grid[4], ValueError("bad luck"))
    found = status(run.folder)
    assert (found.total, found.done, found.missing, found.failed, found.damaged) == (8, 4, 4, 1, 0)
    assert found.missing_tiles == "3-4,6-7"
    assert found.errors == ("ValueError: bad luck",)
    assert not found.complete and not found.verified
    assert found.stored_bytes == sum(
        path.stat().st_size for n in (0, 1, 2, 5) for path in run.shards.paths(grid[n].write)
    )
    assert found.eta_seconds == pytest.approx(4 / found.tiles_per_second)

    run.shards.paths(grid[2].write)[0].unlink()
    assert status(run.folder).done == 4  # the records alone do not tell
    seen = []
    verified = status(run.folder, verify=True, progress=lambda *counts: seen.append(counts))
    assert (verified.done, verified.damaged_tiles, verified.missing_tiles) == (3, "2", "3-4,6-7")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(MissingTiles, match=rf"5 of 8 tiles .* 2-4,6-7.*medhpc infer {run.folder}$"):
        run.require_all()


def test_a_tile_done_twice_is_done_once(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run)
    fill(run)
    assert status(run.folder, verify=True).done == 8


def test_either_of_two_digests_proves_a_tile(tmp_path):
    """Two tasks, on different machines, may round differently; whichever shard is in place is good."""
    run = new_run(tmp_path / "run")
    fill(run, 1)
    fill(run, 2)
    fill(run, 1)
    assert status(run.folder, verify=True).complete


def test_a_task_holds_the_claims_of_its_tiles_only(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run)
    everything = run.digests()
    assert run.digests({2, 5}) == {index: everything[index] for index in (2, 5)}


def test_the_ledger_of_an_earlier_plan_proves_nothing(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run)
    (run.folder / "plan.json").unlink()
    with claimed(run.folder):
        create_run(run.folder, plan_of(tile=(20, 15, 20)))
    assert status(run.folder).done == 0


def test_status_of_no_run(tmp_path):
    with pytest.raises(NotARun):
        status(tmp_path)


def test_status_of_a_million_tiles(tmp_path):
    shape, total = (12800, 12800, 12800), 10**6
    run = new_run(tmp_path / "run", shape=shape, tile=(128, 128, 128))
    missing = {5, 6, 7, 999_999}
    digest, plan = "0" * 64, run.plan.digest
    for part in range(4):  # as many tasks
        with (run.folder / "ledger" / f"node-{part}.jsonl").open("wb") as file:
            for tile in range(part * total // 4, (part + 1) * total // 4):
                if tile not in missing:
                    text = (
                        b'{"tile":%d,"plan":"%s","digest":"%s","stored":1000,"voxels":2097152,"seconds":2.5,'
                        b'"peak_memory":2000000000,"host":"node017","job":"4711_3","time":%d}'
                        % (tile, plan.encode(), digest.encode(), 1_700_000_000 + tile % (total // 4))
                    )
                    file.write(b"%08x %s\n" % (zlib.crc32(text), text))
    began = time.process_time()  # a core's own, whatever else the machine does
    found = status(run.folder)
    took = time.process_time() - began
    assert (found.total, found.done, found.missing_tiles) == (total, total - 4, "5-7,999999")
    assert found.stored_bytes == (total - 4) * 1000
    assert found.tiles_per_second == pytest.approx(4, rel=0.1)
    assert took < 5


def test_status_imports_no_torch(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run)
    code = (
        "import sys, json; from medhpc.run import status; r = status(sys.argv[1], verify=True); "
        "print(json.dumps([r.as_dict(), sorted(sys.modules)]))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True, check=True)
    found, modules = json.loads(out.stdout)
    assert found["complete"]
    assert {"torch", "dask", "scipy", "skimage", "matplotlib", "tifffile"} & set(modules) == set()
