"""``medhpc status``: what a person at a login node is told, and when a watch ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import write_tiff
from test_progress import commit, jobs, record, typed
from test_run import new_run

from medhpc.cli import status_run, watch
from medhpc.cli.main import run_here
from medhpc.errors import NotARun, SlurmDown
from medhpc.jobs import cancel, cancellation, dispatch, live, local, progress, why
from medhpc.jobs import watch as looking
from medhpc.jobs.chain import Step, Target
from medhpc.jobs.packing import Resources
from medhpc.jobs.progress import Phase, Progress, TileState, tile_states
from medhpc.jobs.slurm import Job
from medhpc.jobs.submission import Submission
from medhpc.jobs.watch import Watch, look
from medhpc.run import Run, status
from medhpc.run.folder import ranges
from medhpc.tiling import tile

ARRAYS = {"plan": "10", "infer-0": "11", "repair-1": "12", "stitch": "13"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder called ``my results``."""
    (tmp_path / "my results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "EVERY", 0.01)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no SLURM but what a test says
    return tmp_path / "my results"


@pytest.fixture
def queue(monkeypatch):
    """Let SLURM have the jobs that a test says; each call replaces those before, and is asked anew."""

    def hold(*found: Job | Exception) -> None:
        def my_jobs() -> list[Job]:
            if isinstance(found[0] if found else None, Exception):
                raise found[0]
            return list(found)

        monkeypatch.setattr(live, "my_jobs", my_jobs)
        monkeypatch.setattr(live, "FRESH", 0.0)
        monkeypatch.setattr(looking, "PATIENCE", 0.0)
        monkeypatch.setattr(live, "slurm_is_here", lambda: True)

    return hold


def submitted(place: Path, *names: str) -> Submission:
    """The submission of these volumes to a folder, or (no names) of the run at `place`."""
    targets = tuple(
        Target(run=str(place / f"{name}.run"), out=str(place / f"{name}.tif"), volume=str(place / f"{name}.vol"))
        for name in names
    ) or (Target(run=str(place), out=str(place.with_suffix(".tif"))),)
    place = place / "jobs" / "20261121T165501-abcd"
    (place / "log").mkdir(parents=True)
    asked = Resources(cpus=1, memory=2**30, seconds=600)
    steps = tuple(
        Step(
            name=name,
            kind=name.partition("-")[0],
            resources=asked,
            targets=targets,
            tasks=len(targets) if name in ("plan", "stitch") else 2,
            of=2 if name in ("infer-0", "repair-1") else 0,
            missing=str(place / f"missing-{name[-1]}.json") if name in ("infer-0", "repair-1") else "",
        )
        for name in ARRAYS
        if names or name != "plan"
    )
    ids = {step.name: ARRAYS[step.name] for step in steps}
    return Submission(folder=place, cluster="slurm", steps=steps, jobs=ids).saved()


def job(chain: Submission, name: str, state: str = "PENDING", *, indices: tuple[int, ...] = (), **fields) -> Job:
    """A job of a step of a chain."""
    array = ARRAYS[name]
    known = {
        "id": f"{array}_{indices[0]}" if indices else array,
        "hosts": "n1" if state == "RUNNING" else "",
        "reason": "Dependency" if state == "PENDING" else "None",
        "comment": chain.comment(next(step for step in chain.steps if step.name == name)),
    }
    return Job(array=array, indices=indices, state=state, partition="cpu", name="medhpc", **{**known, **fields})


def by_hand(run: Run, step: str = "infer-0", state: str = "RUNNING") -> Job:
    comment = f"medhpc run={run.id} submission=my folder step={step}"
    return Job(
        id="40_0",
        array="40",
        indices=(0,),
        state=state,
        hosts="n2",
        reason="None",
        partition="cpu",
        name="x",
        comment=comment,
    )


# --- folders of several volumes, and runs before their plan --------------------------------------


def test_a_folder_of_several_volumes_has_a_row_for_each(folder, queue, capsys):
    chain = submitted(folder, "a", "b", "c")
    run = new_run(folder / "a.run")
    commit(run, *range(8))
    (folder / "a.tif").touch()
    run.add_result(folder / "a.tif", "every voxel is 0")
    commit(new_run(folder / "b.run"), 0, 1)
    queue(job(chain, "infer-0", "RUNNING", indices=(0,)), job(chain, "stitch", indices=(0, 1, 2)))
    out = typed(capsys, "status", str(folder))
    assert "tiles   10 of 16 done\n" in out
    assert re.search(r"^ +a\.run +8 +8 +0 +to be stitched +a\.tif \(empty\)$", out, re.MULTILINE)
    assert re.search(r"^ +b\.run +8 +2 +0 +running +-$", out, re.MULTILINE)
    assert re.search(r"^ +c\.run +- +- +- +not planned +-$", out, re.MULTILINE)
    assert "1 running, 1 waiting" in out and out.endswith("medhpc status 'my results' --watch\n")
    told = json.loads(typed(capsys, "status", str(folder), "--json"))
    assert [row["phase"] for row in told["runs"]] == ["to be stitched", "running", "not planned"]
    assert told["runs"][1]["done"] == 2 and len(told["live"]["jobs"]) == 2


def test_what_is_still_to_be_planned_says_so(folder, queue, capsys):
    chain = submitted(folder, "a", "b")
    queue(job(chain, "plan", indices=(0, 1), reason="Resources"), job(chain, "stitch", indices=(0, 1)))
    assert "state  to be planned: plan (job 10_0) waits (Resources)\n" in typed(capsys, "status", str(folder / "a.run"))
    out = typed(capsys, "status", str(folder))
    assert "2 to be planned" in out and out.count("to be planned") == 3
    queue(job(chain, "plan", "RUNNING", indices=(1,)), job(chain, "stitch", indices=(0, 1)))
    assert look(folder / "a.run").phase == Phase.NO_PLAN and look(folder / "b.run").phase == Phase.PLANNING
    told = json.loads(typed(capsys, "status", str(folder / "b.run"), "--json"))
    assert told["planned"] is False and told["phase"] == "being planned"


def test_a_plan_that_failed_names_its_log(folder, queue, capsys):
    chain = submitted(folder, "a", "b")
    chain.log("plan", "10_1").write_text("strange\n")
    queue()
    out = typed(capsys, "status", str(folder / "b.run"))
    assert "state  planning failed\n" in out and "log/plan-10_1.log, then" in out
    assert "log/plan-10_1.log, then the same medhpc submit" in typed(capsys, "status", str(folder))


def test_each_volume_that_cannot_be_planned_says_why(folder, queue, capsys, monkeypatch):
    chain = submitted(folder, "a", "b", "c")
    for index, name in ((0, "a"), (2, "c")):
        chain.log("plan", f"10_{index}").write_text(f"medhpc: note: hm\nmedhpc: error: {name}.vol: cut short\n")
    commit(new_run(folder / "b.run"), 0)
    monkeypatch.setattr(progress, "LATELY", 0.0)  # who watches would wait for a minute after the commit
    queue(job(chain, "infer-0", "RUNNING", indices=(0,)), job(chain, "stitch", indices=(0, 1, 2)))
    out = typed(capsys, "status", str(folder))
    assert "1 running" in out and "2 planning failed" in out
    assert "a.run: planning failed: a.vol: cut short\n" in out and "c.run: planning failed: c.vol: cut short\n" in out
    queue()
    *told, last = watched(capsys, folder, code=1)
    assert "c.run: planning failed: c.vol: cut short" in told and "; next: mend what failed, then the same" in last
    assert "why    a.vol: cut short\n       log my results/jobs" in typed(capsys, "status", str(folder / "a.run"))
    told = json.loads(typed(capsys, "status", str(folder), "--json"))
    assert [row["why"] and row["why"]["error"] for row in told["runs"]] == [
        "a.vol: cut short",
        None,
        "c.vol: cut short",
    ]


def test_tasks_that_end_before_their_first_tile_say_why(folder, queue, capsys):
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    chain.log("infer-0", "11_0").write_text("medhpc: error: old\n")
    chain.log("repair-1", "12_1").write_text("x" * 10**5 + "\nmedhpc: error: brain.tif: cut short; copy it again\n")
    chain.log("stitch", "13").write_text("medhpc: error: 8 of 8 tiles are missing\n")
    os.utime(chain.log("infer-0", "11_0"), (1e9, 1e9))
    queue(job(chain, "stitch"))
    assert look(run.folder).why is None  # not over yet
    queue()
    out, log = (
        typed(capsys, "status", str(run.folder)),
        "my results/a.run/jobs/20261121T165501-abcd/log/repair-1-12_1.log",
    )
    assert f"why      brain.tif: cut short; copy it again\n         log {log}\n" in out
    assert re.search(r"next +mend that, then:\n +medhpc submit ", out)
    assert f"; brain.tif: cut short; copy it again (log {log}); next: mend" in watched(capsys, run.folder, code=1)[-1]
    assert json.loads(typed(capsys, "status", str(run.folder), "--json"))["why"]["error"].startswith("brain.tif")
    commit(run, *range(8))
    assert look(run.folder).why is None  # all is done since then
    os.utime(chain.log("stitch", "13"), (time.time() + 1, time.time() + 1))
    assert "why     8 of 8" in typed(capsys, "status", str(run.folder))  # it is stitch that failed


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event\n", "slurmstepd: error: Detected 1 oom_kill event"),
        ("a\nmedhpc: error: x\nslurmstepd: error: y\n", "x"),
        ("Traceback (most recent call last):\n  File\nImportError: no torch\n", "ImportError: no torch"),
        ("line 9: medhpc: command not found\n", "line 9: medhpc: command not found"),
        ("3 of 3 tiles computed\n", ""),
        ("", ""),
    ],
)
def test_the_error_in_a_log(tmp_path, text, error):
    (tmp_path / "log").write_text(text)
    assert why._error_in(str(tmp_path / "log")) == error


def test_an_error_that_names_another_volume_is_not_ours(folder, queue):
    chain = submitted(folder, "a", "b")
    new_run(folder / "a.run"), new_run(folder / "b.run")
    chain.log("infer-0", "11_0").write_text(f"medhpc: error: {folder / 'b.vol'}: cut short\n")
    queue()
    assert look(folder / "a.run").why is None and look(folder / "b.run").why.error.endswith("cut short")


def test_of_thousands_of_logs_few_are_read(folder, queue, monkeypatch):
    run, read = new_run(folder / "a.run"), []
    chain = submitted(run.folder)
    for index in range(200):
        chain.log("infer-0", f"11_{index}").touch()
    monkeypatch.setattr(why, "_error_in", lambda log: read.append(log) or "")
    queue()
    assert look(run.folder).why is None and len(read) == why.MOST_LOGS


def test_after_cancel_nobody_waits(folder, queue, capsys):
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    run.ledger.append(record(run, 3, digest="d", time=time.time() + 1, job="11_0"))
    queue(job(chain, "infer-0", "COMPLETING", indices=(0,)))
    assert look(run.folder).phase == Phase.RUNNING
    replace(chain, cancelled="2026-11-21T17:00:00Z").saved()
    out = typed(capsys, "status", str(run.folder))
    assert "state    cancelled: no job is left\n" in out and "\nnext  medhpc submit" in out


def test_a_folder_says_which_runs_are_in_it(folder, capsys):
    new_run(folder / "a.run"), new_run(folder / "b.run")
    with pytest.raises(NotARun, match=r"is no run, it holds 2: a\.run, b\.run; name one of them"):
        Run(folder)
    submitted(folder, "c")
    with pytest.raises(NotARun, match=r"was submitted, but its planning failed .* medhpc status '.*/c\.run'"):
        Run(folder / "c.run")


def test_what_is_neither_run_nor_folder_of_runs_is_refused(folder, queue):
    with pytest.raises(NotARun, match="holds no plan"):
        look(folder)


def test_a_watch_goes_on_when_the_plan_is_there(folder, queue):
    chain = submitted(folder, "a")
    queue(job(chain, "plan", "RUNNING"))
    watching = Watch(folder / "a.run")
    assert watching.look().phase == Phase.PLANNING
    run = new_run(folder / "a.run")
    run.ledger.append(record(run, 3, digest="d", time=time.time(), job="11_0"))
    queue(job(chain, "infer-0", indices=(0, 1)))
    found = watching.look()
    assert found.status.done == 1 and found.phase == Phase.WAITING


# --- chains that were submitted by hand ----------------------------------------------------------


def test_jobs_submitted_by_hand_are_found_by_the_run_that_they_name(folder, queue, capsys, monkeypatch):
    run, other = new_run(folder / "a.run"), new_run(folder / "b.run")
    queue(by_hand(run))
    out = typed(capsys, "status", str(run.folder))
    assert re.search(r"40_0 +infer-0 +RUNNING +n2", out) and "submitted by hand" in out
    assert "running  " not in out.replace("state    running", "") and "missing  8: 0-7" in out
    assert look(other.folder).live.jobs == ()
    ended = []
    monkeypatch.setattr(cancellation, "scancel", ended.extend)
    monkeypatch.setattr("medhpc.jobs.dispatch.my_jobs", lambda: [by_hand(run)])
    monkeypatch.setattr(cancellation, "slurm_is_here", lambda: True)
    assert cancel(other.folder) == [] and cancel(run.folder) == ["40"] and ended == ["40"]


def test_cancel_takes_a_folder_of_several_volumes(folder, queue, monkeypatch):
    chain = submitted(folder, "a", "b")
    monkeypatch.setattr("medhpc.jobs.dispatch.my_jobs", lambda: [job(chain, "plan"), job(chain, "stitch")])
    monkeypatch.setattr(cancellation, "scancel", lambda ids: None)
    assert cancel(folder) == ["10", "13"]
    assert Submission.read(chain.folder).cancelled


def test_no_slurm_is_no_matter_where_nothing_was_submitted(folder, queue, capsys):
    run = new_run(folder / "a.run")
    queue(SlurmDown("squeue: no answer"))
    assert "squeue" not in typed(capsys, "status", str(run.folder))
    submitted(run.folder)
    assert "unknown: squeue: no answer" in typed(capsys, "status", str(run.folder))


# --- phases and words ----------------------------------------------------------------------------


def test_after_the_last_tile_it_says_what_is_waited_for(folder, queue, capsys):
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    commit(run, *range(8))
    queue(job(chain, "stitch"), job(chain, "repair-1", indices=(0, 1)))
    assert "all tiles done; stitch (job 13) waits for repair-1\n" in typed(capsys, "status", str(run.folder))
    queue(job(chain, "stitch", reason="Priority"))
    assert "stitch (job 13) waits (Priority)\n" in typed(capsys, "status", str(run.folder))
    queue(job(chain, "stitch", "RUNNING"))
    assert "stitch (job 13) runs on n1\n" in typed(capsys, "status", str(run.folder))


def test_there_is_an_end_in_sight_only_while_somebody_computes(folder, queue, capsys):
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    for number in range(3):
        run.ledger.append(record(run, number, digest="d", interval=2.0, time=time.time() - 5, job="11_0"))
    queue(job(chain, "infer-0", "RUNNING", indices=(0,)))
    assert "ready in" in typed(capsys, "status", str(run.folder))
    queue(job(chain, "infer-0", indices=(0,)))
    assert "ready in" not in typed(capsys, "status", str(run.folder))
    queue()
    found = look(run.folder)
    assert found.phase == Phase.STOPPED and found.eta_seconds is None  # its job has ended, lately
    run.ledger.append(record(run, 4, digest="d", interval=2.0, time=time.time(), job="99"))
    assert look(run.folder).phase == Phase.RUNNING  # in a job of salloc
    run.ledger.append(record(run, 3, digest="d", interval=2.0, time=time.time()))
    found = look(run.folder)
    assert found.phase == Phase.RUNNING and found.eta_seconds  # somebody goes on by hand


def test_commands_can_be_copied(folder, capsys):
    run = new_run(folder / "a.run")
    assert typed(capsys, "status", str(run.folder)).endswith("\nnext  medhpc infer 'my results/a.run'\n")


def test_where_jobs_can_be_submitted_that_is_offered_first(folder, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "sbatch" else None)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    run = new_run(folder / "a.run")
    *_, first, words, second = typed(capsys, "status", str(run.folder)).splitlines()
    assert first.endswith("medhpc submit 'my results/a.run' --out OUT")
    assert "or on this machine" in words and second.endswith("medhpc infer 'my results/a.run'")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert "submit" not in typed(capsys, "status", str(run.folder))


def test_an_empty_result_is_still_known_to_be_empty(folder, capsys):
    run = new_run(folder / "a.run")
    commit(run, *range(8))
    (folder / "out.tif").touch()
    run.add_result(folder / "out.tif", "nothing found: try a lower --threshold")
    assert status(run.folder).note == "nothing found: try a lower --threshold"
    out = typed(capsys, "status", str(run.folder))
    assert re.search(r"^result +my results/out.tif\nnote +nothing found: try a lower --threshold$", out, re.MULTILINE)
    run.add_result(folder / "out.tif")
    assert "note" not in typed(capsys, "status", str(run.folder))


def test_the_cluster_local_tells_of_an_empty_result(folder, capsys, monkeypatch, quick_measure):
    """Its processes print into logs; here they are calls."""
    monkeypatch.setattr(dispatch, "run_processes", lambda one, command, tell: local.run_here(one, run_here, tell))
    write_tiff(folder / "v.tif", np.zeros((4, 8, 8), np.uint16))
    tile(folder / "v.tif", folder / "v.run", network="identity", store="raw", tile=(4, 4, 4))
    out = folder / "mask.tif"
    words = ("--out", str(out), "--as", "mask", "--threshold", "7", "--retries", "0", "--cluster", "local")
    told = typed(capsys, "submit", str(folder / "v.run"), *words)
    note = status(folder / "v.run").note
    assert note.startswith("nothing found: ") and told.endswith(f"my results/mask.tif: {note}\n")


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_short_and_whole(numbers):
    parts = [part.split("-") for part in ranges(sorted(numbers), most=100).split(",") if part]
    assert [n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)] == sorted(numbers)
    assert all(int(b[0]) - int(a[-1]) > 1 for a, b in zip(parts, parts[1:], strict=False))


# --- watching ------------------------------------------------------------------------------------


def seen(run: Run, *, running: int = 0, kinds: int = 0, hosts: int = 1, rows: int = 4) -> Progress:
    """Of a run of 8 tiles, with as much to tell as is asked for."""
    for kind in range(kinds):
        long = "\n".join(f'  File "somewhere.py", line {line}' for line in range(30))
        fields = {"error": f"Error{kind}: no", "where": f"a.py:{kind}", "traceback": long, "time": 1e9 + kind}
        run.ledger.append(record(run, kind % 4, **fields))
    for host in range(hosts):
        run.ledger.append(record(run, 4 + host % 4, digest="d", host=f"n{host}", time=1e9 + host, seconds=1.0))
    found = look(run.folder)
    told = jobs(running=range(4)) if running else found.live
    told = live.Live(**{**vars(told), "jobs": told.jobs * max(1, running)})
    states = tile_states(np.arange(rows) < 1, np.zeros(rows, bool), _none(rows)).reshape(-1, 1, 1)
    return Progress(**{**vars(found), "live": told, "states": states})


def _none(tiles: int) -> live.Live:
    none = np.zeros(tiles, bool)
    return live.Live(known=True, note="", jobs=(), running_tiles=none, waiting_tiles=none, asked_at=0.0)


@settings(max_examples=30)
@given(
    running=st.integers(0, 40),
    kinds=st.integers(0, 8),
    hosts=st.integers(1, 4),
    rows=st.integers(2, 60),
    height=st.integers(24, 60),
)
def test_the_map_is_always_seen(tmp_path_factory, running, kinds, hosts, rows, height):
    found = seen(new_run(tmp_path_factory.mktemp("seen") / "run"), running=running, kinds=kinds, hosts=hosts, rows=rows)
    lines = watch.screen(found, 80, height)
    assert len(lines) < height
    assert sum(line.startswith("  z ") for line in lines) >= min(4, rows)
    assert "- missing" in "\n".join(lines)
    assert not any("--watch" in line for line in lines)


def test_a_page_tells_all_that_a_screen_leaves_out(folder):
    found = seen(new_run(folder / "a.run"), running=8, kinds=4, hosts=4)
    text = "\n".join(status_run.page(found, 80, 24))
    assert text.count(" x Error") == 4 and "hosts" in text and "memory" in text


def watched(capsys, place: Path, code: int = 0) -> list[str]:
    return typed(capsys, "status", str(place), "--watch", code=code).splitlines()


def test_a_watch_ends_with_the_result(folder, queue, capsys):
    run = new_run(folder / "a.run")
    submitted(run.folder)
    queue()
    commit(run, *range(8))
    (folder / "a.tif").touch()
    run.add_result(folder / "a.tif")
    assert watched(capsys, run.folder)[-1] == "complete: the result is my results/a.tif"


def test_a_watch_ends_where_no_job_is_left(folder, queue, capsys):
    run = new_run(folder / "a.run")
    submitted(run.folder)
    queue()
    for number in range(5):
        run.ledger.append(record(run, number, digest="d", time=time.time(), job="11_0"))
    assert watched(capsys, run.folder, code=1)[-1] == (
        "stopped: no job is left; 3 tiles missing; next: medhpc submit 'my results/a.run' --out 'my results/a.tif'"
    )


def test_a_watch_of_what_nobody_works_at_ends_after_a_while(folder, capsys, monkeypatch):
    monkeypatch.setattr(watch, "QUIET", 0.1)
    run = new_run(folder / "a.run")
    lines = watched(capsys, run.folder)
    assert len(lines) == 2 and "0 of 8 tiles done; not begun" in lines[0]
    assert lines[1].startswith("not begun: no job, and no tile so far; 8 tiles missing; next: medhpc infer")


def test_a_watch_says_what_is_stitched_and_repaired(folder, queue, capsys):
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    commit(run, *range(8))
    queue(job(chain, "stitch"), job(chain, "repair-1", "RUNNING", indices=(0,)))
    found = look(run.folder)
    assert watch._summary(found).endswith("; all tiles done; stitch (job 13) waits for repair-1")
    assert found.at_work


def test_while_slurm_does_not_answer_nothing_is_over(folder, queue):
    run = new_run(folder / "a.run")
    submitted(run.folder)
    queue(SlurmDown("squeue: no answer"))
    found = look(run.folder)
    assert found.phase == Phase.UNKNOWN and not watch.is_over(found)


def test_a_folder_is_watched_until_all_of_it_is_ready(folder, queue, capsys):
    submitted(folder, "a", "b")
    queue()
    for name in "ab":
        run = new_run(folder / f"{name}.run")
        commit(run, *range(8))
        (folder / f"{name}.tif").touch()
        run.add_result(folder / f"{name}.tif")
    lines = watched(capsys, folder)
    assert lines[0].endswith("2 volumes: 2 ready; 16 tiles done") and lines[1:] == ["complete: 2 results in my results"]
    shutil.rmtree(folder / "b.run" / "ledger")
    (folder / "b.run" / "ledger").mkdir()
    last = watched(capsys, folder, code=1)[-1]
    assert last.startswith("ended: 2 volumes: 1 ready, 1 stopped; next: the same medhpc submit")


def test_when_something_was_stitched_slurm_is_asked_anew(folder, queue, monkeypatch):
    """Its job has ended, or is about to: a kept answer would call it live for half a minute."""
    run = new_run(folder / "a.run")
    chain = submitted(run.folder)
    commit(run, *range(8))
    queue(job(chain, "stitch", "RUNNING"))
    monkeypatch.setattr(live, "FRESH", 30.0)
    monkeypatch.setattr(looking, "PATIENCE", 30.0)
    watching = Watch(run.folder)
    assert watching.look().phase == Phase.STITCHING
    monkeypatch.setattr(live, "my_jobs", lambda: [])
    assert watching.look().phase == Phase.STITCHING
    time.sleep(0.02)
    (folder / "a.tif").touch()
    run.add_result(folder / "a.tif")
    assert watching.look().phase == Phase.READY


def test_clean_takes_a_folder_of_several_volumes(folder, capsys):
    submitted(folder, "a", "b", "c")
    for name in "ab":
        commit(new_run(folder / f"{name}.run"), *range(8))
    (folder / "a.tif").touch()
    Run(folder / "a.run").add_result(folder / "a.tif")
    lines = typed(capsys, "clean", str(folder)).splitlines()
    assert lines[0].endswith("freed in my results/a.run") and not lines[0].startswith("0 ")
    assert lines[1:] == [
        "my results/b.run is left as it is: it has no result yet",
        "my results/c.run is left as it is: it has no plan",
    ]
    assert status(folder / "a.run").cleaned and not status(folder / "b.run").cleaned


def test_a_plan_and_the_last_tile_are_news_too(folder, queue, monkeypatch, capsys):
    chain = submitted(folder, "a")
    queue(job(chain, "plan", "RUNNING"))
    monkeypatch.setattr(live, "FRESH", 30.0)
    monkeypatch.setattr(looking, "PATIENCE", 30.0)
    asked = []
    monkeypatch.setattr(live, "my_jobs", lambda: asked.append(1) or [job(chain, "plan", "RUNNING")])
    watching = Watch(folder / "a.run")
    assert watching.look() and watching.look().phase == Phase.PLANNING and len(asked) == 1
    time.sleep(0.02)
    run = new_run(folder / "a.run")
    watching.look(), watching.look()
    assert len(asked) == 2
    time.sleep(0.02)
    commit(run, *range(8))
    assert "all tiles done" in typed(capsys, "status", str(run.folder))  # another process, which finds the kept answer
    assert len(asked) == 3
    assert watching.look().status.complete and len(asked) == 3


def test_states_are_drawn_for_every_tile(folder):
    assert look(new_run(folder / "a.run").folder).count(TileState.MISSING) == 8
