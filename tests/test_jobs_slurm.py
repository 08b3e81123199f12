"""What SLURM prints becomes values, and what it does not say stays unknown. The programs themselves: tests/slurm/."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhpc.errors import NoSlurm, SlurmDown, SubmissionRefused
from medhpc.jobs import slurm
from medhpc.jobs.slurm_limits import limits_of, most_submitted, parse_associations, parse_config, parse_qos
from medhpc.jobs.slurm_nodes import count_gpus, parse_partitions
from medhpc.jobs.slurm_queue import BEGIN, SEPARATOR, parse_indices, parse_squeue
from medhpc.jobs.slurm_times import as_time, seconds_of

# --- times ---------------------------------------------------------------------------------------


@given(st.integers(0, 10**9))
def test_a_time_survives_its_text(seconds):
    assert seconds_of(as_time(seconds)) == seconds


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("30", 1800),
        ("00:10:00", 600),
        ("10:00", 600),
        ("1-02:03:04", 93784),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("UNLIMITED", None),
        ("infinite", None),
        ("NONE", None),
        ("", None),
    ],
)
def test_times_of_slurm(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "-5", "1-"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is not a time"):
        seconds_of(text)


def test_times_round_up_and_may_have_no_end():
    assert as_time(59.2) == "00:01:00"
    assert as_time(None) == "UNLIMITED"


# --- squeue --------------------------------------------------------------------------------------

SQUEUE = (  # of 22.05, with line breaks in a name and a comment
    "\x1e1_[42-595:7]\x1f1\x1f42-595:7\x1fPENDING\x1f\x1fResources\x1fcpu\x1fx\ny\x1fa\nb\tc\n"
    "\x1e2_[0-50:2%3]\x1f2\x1f0-50:2%3\x1fPENDING\x1f\x1fJobHeldUser\x1fcpu\x1fs.sh\x1f(null)\n"
    "\x1e1_7\x1f1\x1f7\x1fRUNNING\x1fn1\x1fNone\x1fcpu\x1fx\ny\x1fa\nb\tc\n"
    '\x1e3\x1f3\x1fN/A\x1fRUNNING\x1fg1\x1fNone\x1fgpu\x1fodd|name\x1fa|b \\x1f "c" $(x)\n'
)


def test_jobs_of_squeue():
    waiting, held, running, alone = parse_squeue(SQUEUE)
    assert waiting.indices == tuple(range(42, 596, 7)) and waiting.array == "1"
    assert (waiting.name, waiting.comment, waiting.reason, waiting.hosts) == ("x\ny", "a\nb\tc", "Resources", "")
    assert held.indices == tuple(range(0, 51, 2)) and held.comment == ""
    assert (running.id, running.array, running.indices, running.hosts) == ("1_7", "1", (7,), "n1")
    assert (alone.id, alone.array, alone.indices, alone.state) == ("3", "3", (), "RUNNING")
    assert (alone.name, alone.comment) == ("odd|name", 'a|b \\x1f "c" $(x)')


def test_an_empty_queue():
    assert parse_squeue("") == []


@given(
    st.text(st.characters(exclude_characters=BEGIN + SEPARATOR, exclude_categories=["Cs"])),
    st.text(st.characters(exclude_characters=BEGIN, exclude_categories=["Cs"])).filter(lambda text: text != "(null)"),
)
def test_any_name_and_comment_survive(name, comment):
    fields = ("1", "1", "N/A", "RUNNING", "n1", "None", "cpu", name, comment)
    (job,) = parse_squeue(BEGIN + SEPARATOR.join(fields) + "\n")
    assert (job.name, job.comment) == (name, comment)


@pytest.mark.parametrize(
    "text", ["slurm is being upgraded", SQUEUE[:-40], SQUEUE[:-2], BEGIN, SQUEUE.replace("595:7", "595:7,...")]
)
def test_half_an_answer_is_none(text):
    with pytest.raises(ValueError):
        parse_squeue(text)


@given(st.sets(st.integers(0, 5000), min_size=1, max_size=50))
def test_tasks_of_an_array(indices):
    assert set(parse_indices(",".join(map(str, indices)) + "%4")) == indices


def test_abbreviated_tasks():
    assert parse_indices("0-3,8,10-20:5%2") == (0, 1, 2, 3, 8, 10, 15, 20)


# --- partitions ----------------------------------------------------------------------------------

PARTITIONS = (  # of 22.05
    "PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=00:10:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-3] PriorityJobFactor=1 PriorityTier=1 "
    "RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=6 TotalNodes=3 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerCPU=100 MaxMemPerNode=UNLIMITED "
    "TRES=cpu=6,mem=4500M,node=3,billing=6\n"
    "PartitionName=gpu AllowGroups=ALL Default=NO QoS=gpuqos DefaultTime=NONE MaxNodes=2 MaxTime=UNLIMITED "
    "MaxCPUsPerNode=16 MaxCPUsPerSocket=UNLIMITED Nodes=g[1-2] PreemptMode=REQUEUE State=UP TotalNodes=2 "
    "MaxMemPerNode=100000 TRES=cpu=2,mem=1500M,node=1,billing=2\n"
    "PartitionName=future Default=NO QoS=N/A DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes= State=DOWN "
    "TotalNodes=0 MaxMemPerCPU=4000\n"
)
NODES = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=2 CPUEfctv=62 CPUTot=64 CPULoad=2.94 Gres=(null) "
    "OS=Linux 6.1 #1 SMP State=WRONG RealMemory=1500 MemSpecLimit=500 State=ALLOCATED Partitions=cpu  "
    "CfgTRES=cpu=2,mem=1500M,billing=2\n"
    "NodeName=n2 CPUTot=32 Gres=(null) RealMemory=3000 State=DOWN* Partitions=cpu Reason=State=IDLE [root@now]\n"
    "NodeName=n3 CPUTot=32 Gres=(null) RealMemory=3000 State=IDLE+CLOUD+POWERED_DOWN Partitions=cpu,all\n"
    "NodeName=g1 CPUTot=128 Gres=gpu:a100:4(S:0-1) RealMemory=500000 State=MIXED+PLANNED Partitions=gpu\n"
    "NodeName=g2 CPUTot=128 Gres=gpu:a100:4(S:0-1) RealMemory=500000 State=IDLE+DRAIN Partitions=gpu\n"
)


def test_partitions_with_their_nodes():
    cpu, gpu, future = parse_partitions(PARTITIONS, NODES.replace("State=WRONG ", ""))
    assert (cpu.name, cpu.is_default, cpu.state, cpu.qos) == ("cpu", True, "UP", "")
    assert (cpu.max_time_seconds, cpu.default_time_seconds) == (86400, 600)
    assert (cpu.nodes, cpu.usable_nodes) == (3, 2)
    assert [(kind.count, kind.cpus, kind.memory) for kind in cpu.kinds] == [(2, 32, 3000 << 20), (1, 62, 1000 << 20)]
    assert (cpu.cpus_per_node, cpu.memory_per_node, cpu.gpus_per_node) == (62, 3000 << 20, 0)
    assert (gpu.is_default, gpu.qos, gpu.preempt_mode) == (False, "gpuqos", "REQUEUE")
    assert (gpu.max_time_seconds, gpu.default_time_seconds, gpu.max_nodes) == (None, None, 2)
    assert (gpu.cpus_per_node, gpu.memory_per_node) == (16, 100000 << 20)
    assert (gpu.gres, gpu.gpus_per_node, gpu.usable_nodes) == ("gpu:a100:4", 4, 1)
    assert (future.nodes, future.cpus_per_node, future.max_memory_per_cpu) == (0, 0, 4000 << 20)


@pytest.mark.parametrize(
    "gres, gpus",
    [
        ("", 0),
        ("gpu:2", 2),
        ("gpu:a100:4", 4),
        ("gpu:a100:2,gpu:v100:2", 4),
        ("shard:8", 0),
        ("tmp:100G,gpu:nvidia_a100_3g.20gb:7,shard:gpu:5", 7),
    ],
)
def test_gpus_of_a_node(gres, gpus):
    assert count_gpus(gres) == gpus


# --- limits --------------------------------------------------------------------------------------

CONFIG = """Configuration data as of 2026-11-21T17:00:52
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = mini
JobRequeue              = 1
KillWait                = 30 sec
MaxArraySize            = 1001
MaxJobCount             = 5000
MinJobAge               = 300 sec
SchedulerParameters     = bf_interval=1,max_array_tasks=500,sched_interval=2
SelectTypeParameters    = CR_CORE_MEMORY
SLURM_VERSION           = 23.11.4

Slurmctld(primary) at vm is UP
"""


def test_limits_of_the_cluster():
    limits = limits_of(parse_config(CONFIG))
    assert (limits.cluster, limits.version, limits.max_array_size, limits.max_array_tasks) == (
        "mini",
        "23.11.4",
        1001,
        500,
    )
    assert (limits.max_job_count, limits.max_submit_jobs, limits.min_job_age, limits.kill_wait) == (5000, None, 300, 30)
    assert (limits.requeue, limits.memory_counts, limits.accounting) == (True, True, True)


def test_limits_that_are_not_told():
    limits = limits_of({"AccountingStorageType": "accounting_storage/none", "SelectTypeParameters": "CR_CPU"})
    assert (limits.max_array_size, limits.min_job_age, limits.max_submit_jobs) == (1001, None, None)
    assert (limits.requeue, limits.memory_counts, limits.accounting) == (False, False, False)


ASSOCIATIONS = "lab||normal||200\nother||normal,short|short|70\nother|gpu|normal,short|normal|5\n"
QUALITIES = "normal||||\nshort|50||400|01:00:00\ngpuqos||30||\n"


@pytest.mark.parametrize(
    "account, partition, qos, most",
    [
        ("", "cpu", (), 200),  # the first is the default
        ("other", "cpu", (), 50),  # by its default quality of service
        ("other", "cpu", ("normal",), 70),
        ("lab", "gpu", ("", "gpuqos"), 30),  # of the partition
        ("nobody", "cpu", (), None),
    ],
)
def test_how_many_jobs_one_may_submit(account, partition, qos, most):
    associations, qualities = parse_associations(ASSOCIATIONS), parse_qos(QUALITIES)
    found = most_submitted(associations, qualities, account=account, partition=partition, qos=qos)
    assert found == most


def test_limits_of_qualities_of_service():
    assert parse_qos("short|50||400|01:00:00\n")[0].max_time_seconds == 3600
    assert parse_qos("You are not running a supported accounting_storage plugin\n") == []


# --- the programs, played by scripts -------------------------------------------------------------


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Put a program on PATH that acts as told; nothing else is on it but the shell's own tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.mark.parametrize("answer", ["123", "123;cluster", "Welcome to the cluster\\nYou have 5 credits\\n123"])
def test_the_id_of_a_submitted_job(play, answer):
    play("sbatch", f"printf '{answer}\\n'")
    assert slurm.sbatch(Path("a.sbatch")) == "123"


def test_arguments_and_folder_reach_sbatch_as_they_are(play, tmp_path):
    play("sbatch", f'printf "%s\\0" "$@" "$PWD" > "{tmp_path}/seen"; echo 1')
    slurm.sbatch(Path("a b'$(x).sbatch"), "--comment=c d\n$(touch x)", cwd=tmp_path)
    seen = (tmp_path / "seen").read_text().split("\0")
    assert seen == ["--parsable", "--comment=c d\n$(touch x)", "a b'$(x).sbatch", str(tmp_path), ""]


def test_a_refusal_keeps_its_words(play):
    play("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; exit 1")
    with pytest.raises(SubmissionRefused, match=r"refused a.sbatch: Batch job .*: Invalid qos specification; change"):
        slurm.sbatch(Path("a.sbatch"))


@pytest.mark.parametrize(
    "script",
    [
        "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1",
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
        "echo 'sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received' >&2; exit 1",
        "true",
        "sleep 5",
    ],
)
def test_no_answer_is_no_refusal(play, monkeypatch, script):
    monkeypatch.setattr(slurm, "SUBMISSION_PATIENCE", 0.2)
    play("sbatch", script)
    with pytest.raises(SlurmDown, match="sbatch"):
        slurm.sbatch(Path("a.sbatch"))


def test_jobs_are_unknown_where_the_answer_is_cut_off(play):
    play("squeue", r"printf '\x1e1_3\x1f1\x1f3'")
    with pytest.raises(SlurmDown, match="cannot read its answer"):
        slurm.my_jobs()


def test_no_slurm_here(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoSlurm, match="squeue is not on PATH"):
        slurm.my_jobs()


def test_what_is_gone_need_not_be_cancelled(play):
    play("scancel", "echo 'scancel: error: Kill job error on job id 1: Invalid job id specified' >&2; exit 1")
    slurm.scancel(["1"])
    slurm.scancel([])


def test_a_cancellation_that_did_not_arrive_is_told(play):
    play("scancel", "echo 'scancel: error: Kill job error on job id 1: Unable to contact slurm controller' >&2; exit 8")
    with pytest.raises(SlurmDown, match="Unable to contact"):
        slurm.scancel(["1"])


def test_options_in_the_environment_do_not_reach_slurm():
    mine = {"PATH": "/bin", "SLURM_CONF": "c", "SBATCH_PARTITION": "p", "SQUEUE_STATES": "CD", "SLURM_MEM_PER_CPU": "1"}
    outside = slurm.environment(mine)
    assert outside == {"PATH": "/bin", "SLURM_CONF": "c", "SLURM_MEM_PER_CPU": "1", "SLURM_BITSTR_LEN": "0"}
    inside = slurm.environment(mine | {"SLURM_JOB_ID": "7"})
    assert inside == {"PATH": "/bin", "SLURM_CONF": "c", "SLURM_BITSTR_LEN": "0"}


def test_limits_without_a_database(play):
    play("scontrol", f"cat <<'END'\n{CONFIG}END")
    play("sacctmgr", "echo 'You are not running a supported accounting_storage plugin'; exit 1")
    assert slurm.limits().max_submit_jobs is None
    assert slurm.limits().version == "23.11.4"
