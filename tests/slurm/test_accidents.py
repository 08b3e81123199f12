"""What happens to jobs and nodes costs a round of repair at most."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from scenario import TILES, Scenario

from medhpc.jobs import submit


@pytest.fixture
def running(scenario):
    """A scenario whose three tasks are in the middle of their tiles, until it is finished."""
    scenario.hold()
    scenario.submit()
    scenario.until_done(21)
    return scenario


def test_a_task_is_killed_and_another_cancelled(running):
    array = running.array("infer-0")
    running.cluster.run("scancel", f"{array}_1")
    running.cluster.wait(lambda: len(running.workers()) == 2, 20, "it has ended")
    os.kill(min(running.workers()), signal.SIGKILL)
    running.finish()
    assert sorted(running.ends("infer-0")) == ["CANCELLED", "COMPLETED", "FAILED"]


def test_nodes_go_down(running):
    """Tasks start again elsewhere; what still runs on a node that was set down may write the same tiles meanwhile."""
    first, second, *_ = sorted(set(running.workers().values()))
    running.cluster.set_down(first)
    running.cluster.kill_node(second)
    running.cluster.set_down(second)
    running.finish()
    assert running.ends("infer-0").count("NODE_FAIL") == 3


def test_a_node_is_drained(scenario):
    """What runs there ends, and nothing more begins."""
    scenario.hold()
    scenario.submit(tiles_per_task=7)
    scenario.cluster.wait(lambda: len(scenario.workers()) == 6, 180, "all nodes are at work")
    scenario.cluster.drain("n1")
    scenario.finish()
    assert scenario.ends("infer-0") == ["COMPLETED"] * 9
    assert [end["NodeList"] for end in scenario.over("infer-0")].count("n1") == 2


def test_the_array_is_cancelled(running):
    running.cluster.run("scancel", running.array("infer-0"))
    running.finish()
    assert running.ends("infer-0") == ["CANCELLED"] * 3


def test_the_run_is_cancelled(scenario):
    """By hand, as a user does it."""
    scenario.hold()
    submit = ["submit", scenario.run, "--out", scenario.out, "--as", "probability", "--retries", "1", "--yes"]
    assert "live jobs" not in scenario.medhpc(*submit)
    scenario.until_done(7)
    assert "has live jobs" in scenario.medhpc(*submit, code=2)
    assert "ended" in scenario.medhpc("cancel", scenario.run)
    scenario.end_unfinished()
    scenario.medhpc(*submit)
    scenario.finish()


def test_a_tile_that_needs_more_memory(scenario):
    scenario.accident("""
import time
def before_tile(index):
    if index == 13:
        hog = bytearray(1000 * 2**20)
        time.sleep(3)  # SLURM looks once a second
""")
    scenario.submit(memory=1200 * 2**20)
    scenario.finish()
    assert sorted(scenario.ends("infer-0")) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert "exceeded memory limit" in scenario.log("infer-0")


def test_a_full_disk_on_one_node(scenario):
    scenario.accident(f"""
import errno, os
write, place = os.write, {str(scenario.run)!r}
def refusing(file, content):
    if os.readlink(f"/proc/self/fd/{{file}}").startswith(place):
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(file, content)
def before_tile(index):
    if os.environ["SLURMD_NODENAME"] == "n2":
        os.write = refusing
""")
    scenario.submit(tiles_per_task=10)
    scenario.finish()
    assert "no room left" in scenario.log("infer-0")


def test_no_controller_during_submission_and_during_the_run(scenario):
    scenario.hold()
    prepared = scenario.prepare()
    scenario.cluster.stop_controller()
    started = threading.Timer(20, scenario.cluster.start_controller)
    started.start()
    submission = submit(prepared)
    started.join()
    scenario.until_done(21)
    with scenario.cluster.controller_stopped():
        scenario.release()  # they end while nobody listens
        time.sleep(20)
    scenario.finish()
    assert scenario.ends("infer-0") == ["COMPLETED"] * 3
    assert [end["JobId"] for end in scenario.over("stitch")] == [submission.jobs["stitch"]]


def test_an_answer_of_sbatch_is_lost(scenario, monkeypatch):
    """The job is there, and is not submitted again."""
    real = scenario.cluster.run("bash", "-c", "command -v sbatch")
    fake = scenario.folder / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(f"""#!/bin/bash
"{real}" "$@" || exit
[ -e "{fake}.lost" ] && exit
touch "{fake}.lost"
echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2
exit 1
""")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    scenario.submit()
    assert (scenario.folder / "bin/sbatch.lost").exists()
    scenario.finish()
    assert len(scenario.ends("infer-0")) == 3


def test_preemption(new_cluster, planned, tmp_path):
    cluster = new_cluster(nodes=1, gpu_nodes=0, preemption=True)
    scenario = Scenario(cluster, planned, tmp_path)
    scenario.hold()
    scenario.submit()
    scenario.until_done(14)  # two tasks at a time
    cluster.submit("true", "--partition=high", "--cpus-per-task=2")
    cluster.wait(lambda: "PREEMPTED" in scenario.ends("infer-0"), 60, "tasks make room")
    scenario.finish()


def test_jobs_are_forgotten(new_cluster, planned, tmp_path):
    """A task fails, and SLURM has forgotten it by the time stitch starts: the ledger has not."""
    cluster = new_cluster(gpu_nodes=0, min_job_age=2)
    scenario = Scenario(cluster, planned, tmp_path)
    scenario.accident(f"""
import os, time
def before_tile(index):
    if index == {TILES // 2}: os.kill(os.getpid(), 9)  # of the second task: the third keeps the array known
    while index == 0 and (folder / "hold").exists(): time.sleep(0.1)
""")
    (tmp_path / "hold").touch()
    scenario.submit(rounds=0)
    cluster.wait(lambda: "FAILED" in scenario.ends("infer-0"), 180, "a task fails")
    cluster.wait(lambda: "JobState=FAILED" not in cluster.run("scontrol", "show", "job"), 120, "it is forgotten")
    (tmp_path / "hold").unlink()
    scenario.end_unfinished()
    assert "medhpc infer" in scenario.log("stitch")
    (tmp_path / "accident.py").unlink()
    scenario.submit()
    scenario.finish()


def test_with_accounting(new_cluster, planned, tmp_path):
    cluster = new_cluster(gpu_nodes=0, accounting=True)
    scenario = Scenario(cluster, planned, tmp_path)
    submission = scenario.submit()
    scenario.finish()

    def accounted() -> bool:
        lines = cluster.run("sacct", "-nPX", "-o", "State,Comment").splitlines()
        return lines.count("COMPLETED|" + submission.comment(submission.steps[0])) == 3

    cluster.wait(accounted, 30, "sacct knows the jobs by their comment")


def test_out_of_memory_in_a_control_group(new_cluster, planned, tmp_path):
    if not os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK):
        pytest.skip("no control groups of version 1 that may be written")
    scenario = Scenario(new_cluster(nodes=1, gpu_nodes=0, cgroups=True), planned, tmp_path)
    scenario.accident("def before_tile(index):\n    if index == 13: bytearray(1000 * 2**20)")
    scenario.submit()
    scenario.finish()
    assert "OUT_OF_MEMORY" in scenario.ends("infer-0")


def test_a_node_that_fails_every_tile(scenario):
    """Tasks that start there later try one tile and leave the rest to the next round, and to other nodes."""
    scenario.accident("""
import os
def before_tile(index):
    if os.environ["SLURMD_NODENAME"] == "n1": raise RuntimeError("this node is broken")
""")
    scenario.submit(concurrent=1, rounds=0, site=replace(scenario.site, nodelist="n1"))
    scenario.end_unfinished()
    failures = Counter(record["job"] for record in scenario.records() if "error" in record)
    assert sorted(failures.values()) == [1, 1, 21]
    scenario.submit(site=replace(scenario.site, exclude="n1"))
    scenario.finish()


def test_a_broken_node_is_left_out_of_the_next_submission(scenario):
    scenario.accident("""
import os, time
def before_tile(index):
    here, broken = os.environ["SLURMD_NODENAME"], folder / "broken"
    if first("begun"): broken.write_text(here)  # the first node that begins
    while not broken.exists() or not broken.read_text(): time.sleep(0.05)
    if broken.read_text() == here: raise OSError("its disk is broken")
""")
    scenario.submit(rounds=0)
    scenario.end_unfinished()
    broken = (scenario.folder / "broken").read_text()
    prepared = scenario.prepare()
    assert any(f"no job runs on {broken}: " in note for note in prepared.notes)
    before = len(scenario.over("infer-0"))
    submit(prepared)
    scenario.finish()
    assert broken not in {end["NodeList"] for end in scenario.over("infer-0")[before:]}
