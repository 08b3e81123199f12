"""medhpc doctor on a real cluster: what it finds is what is there, and nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medhpc.jobs import slurm
from medhpc.jobs.doctor import Check, doctor, job
from medhpc.jobs.site import Site

MEDHPC = str(Path(sys.executable).with_name("medhpc"))


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """Here files are seen at once, and nobody else asks the controller."""
    for name, seconds in {"ASK": 1.0, "CACHE": 1.0, "DELIVERY": 3.0}.items():
        monkeypatch.setattr(job, name, seconds)


def found(folder: Path, site: Site | None = None, wait: float = 120) -> dict[str, Check]:
    """The checks by name; nothing is left in the folder, nor in the queue."""
    checks = {check.name: check for check in doctor(folder, site=site or Site(), wait=wait)}
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 120
    while slurm.my_jobs() and time.monotonic() < deadline:  # it ends when it has told that it was asked to
        time.sleep(0.2)
    return checks


def test_a_sound_site(cluster, tmp_path):
    checks = found(tmp_path)
    assert {name for name, check in checks.items() if check.verdict != "ok"} <= {
        "space",
        "inodes",
        "sacct",
        "MaxArraySize",
    }
    assert checks["MaxArraySize"].found == str(cluster.options.max_array_size)
    assert checks["MinJobAge"].found == f"{cluster.options.min_job_age} s"
    assert checks["sacct"].found == "there is no database"
    assert "SIGUSR1 and SIGTERM reach the worker" in checks["signals"].found
    assert checks["GPUs"].found == "there is none in partition cpu"


def test_the_command_ends_well(cluster, tmp_path):
    command = [MEDHPC, "doctor", str(tmp_path), "--partition", "gpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    cluster.wait_for_jobs(120)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["shared folder"]["verdict"] == checks["medhpc on a node"]["verdict"] == "ok"
    # The GPUs of the nodes here are devices of another kind: SLURM gives one, the driver does not know it.
    assert "--gres=gpu:1 sets CUDA_VISIBLE_DEVICES=0" in checks["GPUs"]["found"]


def test_odd_folders_are_folders(cluster, tmp_path):
    folder = tmp_path / "it's 100 %j $(touch here)\n;"
    folder.mkdir()
    assert found(folder)["shared folder"].verdict == "ok"
    assert sorted(tmp_path.iterdir()) == [folder]


def test_medhpc_that_a_node_does_not_have(cluster, tmp_path):
    checks = found(tmp_path, Site(medhpc="/nowhere/medhpc"))
    assert checks["shared folder"].verdict == "ok"
    assert checks["medhpc on a node"].verdict == "bad"
    assert "No such file" in checks["medhpc on a node"].found
    assert "signals" not in checks


def test_a_command_that_keeps_signals_to_itself(cluster, tmp_path):
    wrapper = tmp_path / "medhpc.sh"
    wrapper.write_text(f'#!/bin/bash\n"{MEDHPC}" "$@"\necho ended\n')
    wrapper.chmod(0o755)
    folder = tmp_path / "runs"
    folder.mkdir()
    signals = found(folder, Site(medhpc=str(wrapper)))["signals"]
    assert signals.verdict == "warn" and "no SIGUSR1" in signals.found


def test_what_slurm_refuses(cluster, tmp_path):
    checks = found(tmp_path, Site(partition="nowhere"))
    assert checks["partition"].verdict == "bad" and "there are: cpu, gpu" in checks["partition"].found
    assert checks["job"].verdict == "bad" and "invalid partition" in checks["job"].found


def test_a_job_that_waits_is_taken_back(cluster, tmp_path):
    for name in cluster.options.cpu_names:
        cluster.drain(name)
    checks = found(tmp_path, wait=3)
    assert checks["partition"].verdict == "warn" and "0 of 3 nodes usable" in checks["partition"].found
    assert checks["job"].verdict == "unknown" and "still waited after 3 s" in checks["job"].found
    assert slurm.my_jobs() == []


def test_a_doctor_that_is_interrupted_takes_its_job_back(cluster, tmp_path):
    for name in cluster.options.cpu_names:
        cluster.drain(name)
    command = [MEDHPC, "doctor", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cluster.wait(lambda: len(slurm.my_jobs()) == 1, 120, "the doctor's job waits")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert slurm.my_jobs() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs to mount")
def test_a_folder_that_nodes_do_not_see(new_cluster, tmp_path):
    cluster = new_cluster(nodes=1, gpu_nodes=0)
    alone = f"mount -t tmpfs none '{tmp_path}' && exec slurmd -D -N n1 -f '{cluster.environment['SLURM_CONF']}'"
    cluster.kill_node("n1")
    try:
        cluster.spawn("slurmd-n1", "unshare", "--mount", "bash", "-c", alone)
    except OSError:
        pytest.skip("may not mount here")
    time.sleep(1)
    checks = found(tmp_path)
    assert checks["shared folder"].verdict == "bad"
    assert "left nothing here" in checks["shared folder"].found
