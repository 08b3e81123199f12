"""The private cluster is a real one: what the tests beside rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster
from configuration import Options
from processes import marked

HERE = Path(__file__).parent


def test_nodes_and_partitions(cluster):
    assert cluster.node_states() == dict.fromkeys(["n1", "n2", "n3", "g1"], "idle")
    assert cluster.run("sinfo", "-h", "-o", "%P %N %G").splitlines() == ["cpu* n[1-3] (null)", "gpu g1 gpu:2"]
    assert "MaxArraySize            = 20" in cluster.run("scontrol", "show", "config")


def test_an_array_runs_a_few_tasks_at_a_time(cluster):
    job = cluster.submit('echo "$(date +%s.%N) $SLURM_ARRAY_TASK_ID"; sleep 0.5; date +%s.%N', "--array=0-7%2")
    cluster.wait_for_jobs(60)
    logs = [(cluster.folder / f"log/job-{job}_{index}.log").read_text().split() for index in range(8)]
    assert [index for _, index, _ in logs] == list("01234567")
    at_once = [sum(float(a) < float(began) < float(b) for a, _, b in logs) for began, _, _ in logs]
    assert max(at_once) < 2  # others, when one began


def test_the_highest_index_is_below_max_array_size(cluster):
    found = subprocess.run(["sbatch", "--wrap=true", "--array=1-20"], capture_output=True, text=True)
    assert "Invalid job array specification" in found.stderr


def test_gpus_are_given_to_one_job_each(cluster):
    job = cluster.submit("echo $CUDA_VISIBLE_DEVICES; sleep 1", "--array=0-1", "--partition=gpu", "--gres=gpu:1")
    cluster.wait_for_jobs(60)
    assert {(cluster.folder / f"log/job-{job}_{index}.log").read_text() for index in range(2)} == {"0\n", "1\n"}


def test_a_job_on_a_node_that_goes_down_runs_again(cluster):
    job = cluster.submit("echo $SLURM_RESTART_COUNT $SLURMD_NODENAME; sleep $((3 - 3 * SLURM_RESTART_COUNT))")
    cluster.wait(lambda: bool(cluster.processes_on("n1")), 20, "the job runs")
    cluster.kill_node("n1")
    assert not cluster.processes_on("n1")
    cluster.set_down("n1")
    cluster.wait_for_jobs(60)
    assert (cluster.folder / f"log/job-{job}_4294967294.log").read_text() == "1 n2\n"
    assert [end["JobState"] for end in cluster.finished() if end["JobId"] == job] == ["NODE_FAIL", "COMPLETED"]


def test_jobs_outlive_the_controller(cluster):
    job = cluster.submit("sleep 2; echo done", "--array=0-1")
    cluster.wait(lambda: bool(cluster.processes_on("n1")), 20, "the job runs")
    with cluster.controller_stopped():
        time.sleep(2)
    cluster.wait_for_jobs(60)
    assert [(cluster.folder / f"log/job-{job}_{index}.log").read_text() for index in range(2)] == ["done\n"] * 2


def test_a_job_over_its_memory_is_killed(cluster):
    job = cluster.submit(f"exec {sys.executable} -c 'a = bytearray(2**28); import time; time.sleep(30)'")
    cluster.wait_for_jobs(60)
    [end] = [end for end in cluster.finished() if end["JobId"] == job]
    assert (end["JobState"], end["ExitCode"]) == ("FAILED", "0:9")


DOOMED = """
import os, signal, sys
from cluster import Cluster
cluster = Cluster()
cluster.start()
cluster.submit("sleep 600")
cluster.wait(lambda: bool(cluster.processes_on("n1")), 60, "the job runs")
print(cluster.environment["SLURM_CONF"], flush=True)
os.kill(cluster._reaper.pid, int(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_tests_are_killed(slurm, by):
    """Who waits for it passes over a friendly signal; where it is killed, too, the next cluster cleans up."""
    found = subprocess.run([sys.executable, "-c", DOOMED, str(int(by))], cwd=HERE, capture_output=True, text=True)
    configuration = found.stdout.strip()
    assert configuration, found.stderr
    if by == signal.SIGKILL:
        assert marked(f"SLURM_CONF={configuration}")
        with Cluster(Options(nodes=1, gpu_nodes=0)):
            pass
    end = time.monotonic() + 60
    while (left := marked(f"SLURM_CONF={configuration}") or os.path.exists(configuration)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left
