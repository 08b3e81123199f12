"""The doctor's judgements: each finding says what it means and what to do. On a real cluster: tests/slurm/."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from test_jobs_site import ANSWERS

import medhpc
from medhpc.cli import main
from medhpc.errors import BadOption
from medhpc.jobs.doctor import doctor
from medhpc.jobs.doctor.cluster import check_cluster, partition_of
from medhpc.jobs.doctor.findings import Visit, judge
from medhpc.jobs.doctor.folder import file_system, judge_inodes, judge_locks, judge_name, judge_space, try_lock
from medhpc.jobs.doctor.job import options_of, probe_script, wanted_gres
from medhpc.jobs.probe import try_held_lock
from medhpc.jobs.site import Site

CPU, GPU, FUTURE = ANSWERS.partitions
LIMITS = dataclasses.replace(ANSWERS.limits, max_array_tasks=None)


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def of(checks, name):
    (check,) = [check for check in checks if check.name == name]
    return check


# --- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("free, verdict", [(16e9, "ok"), (5e9, "warn"), (1e6, "bad")])
def test_room(free, verdict):
    check = judge_space(int(free), "/here (ext4)")
    assert check.verdict == verdict and ("less than 10 GB is little" in check.mend) == (verdict != "ok")
    assert ("2,000 x 2,000 x 2,000 voxels" in check.means) == (free == 16e9)


@pytest.mark.parametrize(
    "free, total, verdict", [(10**9, 10**9, "ok"), (5000, 10**9, "warn"), (3, 10**9, "bad"), (0, 0, "ok")]
)
def test_files(free, total, verdict):
    assert judge_inodes(free, total).verdict == verdict


def test_locks(tmp_path):
    path = tmp_path / "file"
    path.touch()
    assert try_lock(str(path)) == ""
    assert judge_locks("").verdict == "ok"
    broken = judge_locks("Function not implemented")
    assert broken.verdict == "warn" and "HDF5_USE_FILE_LOCKING" in broken.mend


def test_a_lock_that_someone_holds(tmp_path):
    import fcntl

    path = tmp_path / "held"
    with path.open("w") as held:
        assert try_held_lock(path) == "not seen"
        fcntl.flock(held, fcntl.LOCK_EX)
        assert try_held_lock(path) == "seen"
    assert "No such file" in try_held_lock(tmp_path / "none")


def test_a_path_that_slurm_cannot_write_logs_in():
    assert judge_name(Path("/a b%j'")) == []
    assert judge_name(Path("/a\\b"))[0].verdict == "bad"


def test_the_type_of_a_file_system():
    assert file_system(Path("/proc/self")) == "proc"


# --- the cluster ---------------------------------------------------------------------------------


def test_a_sound_cluster():
    checks = check_cluster(LIMITS, ANSWERS.partitions, Site(), sacct=True)
    assert set(verdicts(checks).values()) == {"ok"}
    assert all(check.found and check.means and not check.mend for check in checks)


@pytest.mark.parametrize(
    "name, verdict, change",
    [
        ("SLURM", "warn", {"version": "19.05.2"}),
        ("SLURM", "ok", {"version": "24.11.0-rc1"}),
        ("MaxArraySize", "warn", {"max_array_size": 20}),
        ("MaxArraySize", "bad", {"max_array_size": 0}),
        ("MaxArraySize", "warn", {"max_array_tasks": 50}),
        ("jobs in the queue", "warn", {"max_submit_jobs": 10}),
        ("MinJobAge", "ok", {"min_job_age": 2}),
        ("requeue", "warn", {"requeue": False}),
        ("memory", "warn", {"memory_counts": False}),
        ("sacct", "warn", {"accounting": False}),
    ],
)
def test_what_a_cluster_lacks(name, verdict, change):
    check = of(check_cluster(dataclasses.replace(LIMITS, **change), ANSWERS.partitions, Site(), sacct=True), name)
    assert check.verdict == verdict
    assert bool(check.mend) == (verdict != "ok")


def test_a_database_that_does_not_answer():
    assert of(check_cluster(LIMITS, ANSWERS.partitions, Site(), sacct=False), "sacct").found == "does not answer"


def test_where_jobs_go():
    assert partition_of(ANSWERS.partitions, Site()) == CPU
    assert partition_of(ANSWERS.partitions, Site(partition="gpu,cpu")) == GPU
    assert partition_of(ANSWERS.partitions, Site(partition="none")) is None
    assert partition_of([GPU], Site()) is None


def test_each_partition_that_a_step_goes_to_is_looked_at():
    site = Site(partition="cpu", steps={"infer": {"partition": "gpu"}, "stitch": {"partition": "future"}})
    checks = [one for one in check_cluster(LIMITS, ANSWERS.partitions, site, sacct=True) if one.name == "partition"]
    assert [check.found.partition(":")[0] for check in checks] == ["cpu", "gpu", "future"]
    assert [check.verdict for check in checks] == ["ok", "ok", "warn"]


@pytest.mark.parametrize(
    "partitions, site, verdict, told",
    [
        (ANSWERS.partitions, Site(partition="none"), "bad", "no partition 'none'; there are: cpu, gpu, future"),
        ([GPU], Site(), "bad", "there is no default partition; there are: gpu"),
        ([], Site(), "bad", "none that you may see"),
        (ANSWERS.partitions, Site(partition="future"), "warn", "0 of 0 nodes usable, DOWN"),
    ],
)
def test_a_partition_without_use(partitions, site, verdict, told):
    check = of(check_cluster(LIMITS, partitions, site, sacct=True), "partition")
    assert check.verdict == verdict and told in check.found and check.mend


# --- the job -------------------------------------------------------------------------------------

WORKER = {"host": "n1", "medhpc": medhpc.__version__, "cpus": 1, "visible": "", "gpus": [], "lock": "seen"}
GOOD = Visit(
    job="7", token="t", shell="t", worker=WORKER, usr1={"time": 100.5}, term={"time": 101.0}, sent=100.0, seen=100.7
)


def changed(worker=None, **fields):
    return dataclasses.replace(GOOD, worker=WORKER | (worker or {}), **fields)


def test_a_sound_node():
    assert set(verdicts(judge(GOOD, CPU)).values()) == {"ok"}


@pytest.mark.parametrize(
    "visit, name, verdict, told",
    [
        (Visit(refused="sbatch refused x: Invalid account"), "job", "bad", "Invalid account"),
        (Visit(trouble="no answer", job="7"), "job", "bad", "no answer"),
        (Visit(job="7", waited=60.2, reason="Priority"), "job", "unknown", "still waited after 60 s (Priority)"),
        (Visit(job="7", gone=True, token="t"), "shared folder", "bad", "left nothing here, not even a log"),
        (changed(shell="other"), "shared folder", "bad", "left nothing"),
        (
            Visit(token="t", shell="t", log="a\nb\nc\nnot found\n"),
            "medhpc on a node",
            "bad",
            "start: b / c / not found",
        ),
        (changed({"medhpc": "0.0.1"}), "medhpc on a node", "warn", "version 0.0.1 starts on n1, here is"),
        (changed(usr1={}), "signals", "warn", "no SIGUSR1 reached"),
        (changed(usr1={}, term={}), "signals", "warn", "no SIGUSR1 and no SIGTERM reached"),
        (changed(usr1={}), "clock", "unknown", "did not answer"),
        (changed(usr1={"time": 40.0}), "clock", "warn", "n1 is 60 s behind"),
        (changed(usr1={"time": 160.7}), "clock", "warn", "n1 is 60 s ahead"),
        (changed({"lock": "not seen"}), "locks in a job", "warn", "does not keep a node out"),
        (changed({"lock": "No locks available"}), "locks in a job", "warn", "No locks available"),
        (changed(gres="gpu:1"), "GPUs", "warn", "CUDA_VISIBLE_DEVICES=(nothing)"),
        (changed({"visible": "0"}, gres="gpu:1"), "GPUs", "warn", "CUDA_VISIBLE_DEVICES=0, and nvidia-smi shows no"),
        (
            changed({"visible": "0", "gpus": ["GPU 0: NVIDIA H200 (UUID: GPU-1)"]}, gres="gpu:1"),
            "GPUs",
            "ok",
            "--gres=gpu:1 gives GPU 0: NVIDIA H200",
        ),
    ],
)
def test_what_a_job_shows(visit, name, verdict, told):
    check = of(judge(visit, CPU), name)
    assert check.verdict == verdict and told in check.found and check.means
    assert check.mend or verdict in ("ok", "unknown")


def test_nothing_is_said_of_what_was_not_seen():
    assert list(verdicts(judge(Visit(job="7", waited=60), CPU))) == ["job"]
    assert list(verdicts(judge(Visit(token="t", shell="t"), CPU))) == ["shared folder", "medhpc on a node"]


def test_the_script_quotes_everything():
    place = Path("/a b/$(x)'s")
    lines = probe_script(place, ["m/1 $(y)"], ["/opt/my env/medhpc"]).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert shlex.split(lines[2]) == ["module", "load", "m/1 $(y)"]
    assert shlex.split(lines[3]) == ["exec", "/opt/my env/medhpc", "doctor", "--probe", str(place)]


def test_a_small_job_asks_for_what_the_site_wants_but_sends_no_mail():
    options = options_of(Path("/50%/x"), Site(partition="p", mail_type="END", extra=("--exclusive",)), "")
    assert {"--partition=p", "--exclusive", "--mem=500M", "--output=/50%%/x/log.txt"} <= set(options)
    assert not any(option.startswith(("--mail", "--gres")) for option in options)


def test_which_gpus_are_looked_for():
    assert wanted_gres(Site(), GPU) == "gpu:1"
    assert wanted_gres(Site(), CPU) == wanted_gres(Site(), None) == ""
    assert wanted_gres(Site(gres="gpu:a100:1"), GPU) == "gpu:a100:1"


# --- without a cluster ---------------------------------------------------------------------------


@pytest.fixture
def no_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MEDHPC_SITE", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def test_a_machine_without_slurm_is_looked_at_as_far_as_it_goes(no_slurm, tmp_path):
    checks = doctor(tmp_path)
    assert list(verdicts(checks)) == ["space", "inodes", "locks", "SLURM"]
    assert checks[-1].verdict == "unknown" and "medhpc run" in checks[-1].means


def test_a_controller_that_does_not_answer(no_slurm, tmp_path):
    program = no_slurm / "scontrol"
    program.write_text("#!/bin/sh\necho 'slurm_load: Unable to contact slurm controller' >&2; exit 1\n")
    program.chmod(0o755)
    check = doctor(tmp_path)[-1]
    assert check.verdict == "bad" and "Unable to contact" in check.found


def test_nothing_is_left_in_the_folder(no_slurm, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    doctor(folder)
    assert list(folder.iterdir()) == []


def test_no_folder(no_slurm, tmp_path):
    with pytest.raises(BadOption, match="is not a folder; name the one"):
        doctor(tmp_path / "none")


def test_the_command_says_what_to_do(no_slurm, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(tmp_path), "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checks"][-1]["verdict"] == "unknown"
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path)])
    printed = capsys.readouterr()
    assert "mend: to use a cluster, run this on its login node" in printed.out and "asking SLURM" in printed.err
