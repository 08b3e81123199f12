"""Every program of SLURM that medhpc calls, against a real controller."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medhpc.errors import SlurmDown, SubmissionRefused
from medhpc.jobs import slurm


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "it's a $(job).sbatch"
    path.write_text("#!/bin/bash\nsleep 60\n")
    return path


def test_what_the_cluster_gives(cluster):
    found = {partition.name: partition for partition in slurm.partitions()}
    assert found["cpu"].is_default and found["cpu"].usable_nodes == 3
    assert found["cpu"].cpus_per_node == cluster.options.cpus
    assert found["cpu"].memory_per_node == cluster.options.memory << 20
    assert found["gpu"].gpus_per_node == cluster.options.gpus
    limits = slurm.limits(partition=found["cpu"])
    assert limits.max_array_size == cluster.options.max_array_size
    assert limits.min_job_age == cluster.options.min_job_age
    assert not limits.accounting and limits.max_submit_jobs is None and not slurm.sacct_answers()


def test_an_array_from_submission_to_cancellation(new_cluster, script, monkeypatch):
    new_cluster(max_array_size=1000, gpu_nodes=0)
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    indices = sorted(random.Random(1).sample(range(1000), 150))
    comment = "medhpc run=1|2 \x1f\nstep"
    array = slurm.sbatch(script, f"--array={','.join(map(str, indices))}%3", f"--comment={comment}", "--hold")
    (job,) = slurm.my_jobs()
    assert (job.array, job.indices, job.state, job.comment) == (array, tuple(indices), "PENDING", comment)
    assert job.reason == "JobHeldUser"
    slurm.scancel([f"{array}_{indices[0]}", "99999"])
    assert slurm.my_jobs()[0].indices == tuple(indices[1:])
    slurm.scancel([array])
    assert slurm.my_jobs() == []


def test_refusals_are_told_in_slurms_words(cluster, script):
    with pytest.raises(SubmissionRefused, match="Invalid partition name"):
        slurm.sbatch(script, "--partition=nowhere")
    with pytest.raises(SubmissionRefused, match="Invalid job array"):
        slurm.sbatch(script, f"--array=1-{cluster.options.max_array_size}")
    with pytest.raises(SubmissionRefused, match="Memory specification"):
        slurm.sbatch(script, "--mem=900T")
    with pytest.raises(SubmissionRefused, match="Unable to open file"):
        slurm.sbatch(script / "nothing")


def test_no_controller_no_answer(cluster, script):
    questions = (
        slurm.my_jobs,
        slurm.partitions,
        slurm.limits,
        lambda: slurm.sbatch(script),
        lambda: slurm.scancel("1"),
    )
    with cluster.controller_stopped(), ThreadPoolExecutor(len(questions)) as pool:  # each takes nine seconds
        for answer in [pool.submit(question) for question in questions]:
            with pytest.raises(SlurmDown, match="Unable to contact slurm controller"):
                answer.result()


def test_limits_of_the_user(new_cluster):
    cluster = new_cluster(accounting=True)
    cluster.run("sacctmgr", "-i", "add", "qos", "short")
    cluster.run("sacctmgr", "-i", "modify", "qos", "short", "set", "MaxSubmitJobsPerUser=50", "MaxWall=1:00:00")
    ours = slurm.associations()[0]
    assert slurm.limits().accounting and slurm.limits().max_submit_jobs is None and slurm.sacct_answers()
    assert slurm.limits(qos="short").max_submit_jobs == 50
    assert {one.name: one.max_time_seconds for one in slurm.qualities()} == {"normal": None, "short": 3600}
    cluster.run("sacctmgr", "-i", "modify", "account", ours.account, "set", "MaxSubmitJobs=30")
    assert slurm.limits(account=ours.account).max_submit_jobs == 30
    assert slurm.limits(account=ours.account, qos="short").max_submit_jobs == 30
