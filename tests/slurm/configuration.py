"""The configuration files of a private SLURM cluster, as text."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path

FAKE_GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # plain files would not set CUDA_VISIBLE_DEVICES


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a private cluster looks like; memory in MB, ages in seconds."""

    nodes: int = 3
    gpu_nodes: int = 1
    gpus: int = 2  # of a GPU node
    cpus: int = 2  # of a node; the host need not have as many
    memory: int = 4000  # of a node
    max_array_size: int = 20
    min_job_age: int = 300  # how long a finished job is remembered
    preemption: bool = False  # adds the partition `high`, whose jobs put those of `cpu` back into the queue
    accounting: bool = False  # sacct
    cgroups: bool = False  # a job over its memory ends as OUT_OF_MEMORY; else the sampling of its memory kills it

    def __post_init__(self) -> None:
        assert self.gpus <= len(FAKE_GPUS)

    @property
    def cpu_names(self) -> list[str]:
        return [f"n{i + 1}" for i in range(self.nodes)]

    @property
    def gpu_names(self) -> list[str]:
        return [f"g{i + 1}" for i in range(self.gpu_nodes)]

    @property
    def names(self) -> list[str]:
        return self.cpu_names + self.gpu_names


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the daemons listen, on 127.0.0.1."""

    controller: int
    accounting: int
    database: int
    nodes: tuple[int, ...]


def user_name() -> str:
    """Who runs the daemons."""
    return pwd.getpwuid(os.getuid()).pw_name


def write_configuration(folder: Path, options: Options, ports: Ports) -> None:
    """Write slurm.conf and its companions into ``folder/etc``."""
    etc = folder / "etc"
    (etc / "slurm.conf").write_text(slurm_conf(folder, options, ports))
    if options.gpu_nodes:
        lines = [f"NodeName={name} Name=gpu File={file}" for name in options.gpu_names for file in _gpus(options)]
        (etc / "gres.conf").write_text("\n".join(lines) + "\n")
    if options.cgroups:
        lines = ["CgroupPlugin=cgroup/v1", "ConstrainRAMSpace=yes", "ConstrainSwapSpace=yes", "AllowedSwapSpace=0"]
        (etc / "cgroup.conf").write_text("\n".join(lines) + "\n")
    if options.accounting:
        (etc / "slurmdbd.conf").write_text(slurmdbd_conf(folder, ports))
        (etc / "slurmdbd.conf").chmod(0o600)  # slurmdbd insists


def slurm_conf(folder: Path, options: Options, ports: Ports) -> str:
    """The text of slurm.conf."""
    parts = [
        _daemons(folder, ports),
        _times(options),
        _scheduling(options),
        _processes(folder, options),
        _accounting(folder, ports) if options.accounting else "",
        _nodes(options, ports),
        _partitions(options),
    ]
    return "\n".join(part for part in parts if part)


def _daemons(folder: Path, ports: Ports) -> str:
    # cred_expire is also how long a job that was put back into the queue waits: 120 s by default.
    return f"""\
ClusterName=private
SlurmctldHost={_host()}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser={user_name()}
SlurmdUser={user_name()}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
"""


def _times(options: Options) -> str:
    return f"""\
MinJobAge={options.min_job_age}
KillWait=2
InactiveLimit=0
UnkillableStepTimeout=20
SlurmdTimeout=6
SlurmctldTimeout=10
MessageTimeout=10
BatchStartTimeout=30
ReturnToService=1
"""


def _scheduling(options: Options) -> str:
    # The GPU type is named in GresTypes even where no node has one, so that --gres is refused for the right reason.
    text = f"""\
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
MaxArraySize={options.max_array_size}
MaxJobCount=5000
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
"""
    if options.preemption:
        text += """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
"""
    return text


def _processes(folder: Path, options: Options) -> str:
    # JobComp is a log of how jobs ended that needs no accounting: it is what a failed test quotes.
    return f"""\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{"cgroup" if options.cgroups else "none"}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
{"" if options.cgroups else "JobAcctGatherParams=OverMemoryKill"}
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
"""


def _accounting(folder: Path, ports: Ports) -> str:
    # Clients of slurmdbd pass over AuthInfo: they find munged by AccountingStoragePass.
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.accounting}
AccountingStoragePass={folder}/run/munge.sock
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
"""


def _nodes(options: Options, ports: Ports) -> str:
    common = f"NodeHostname={_host()} NodeAddr=127.0.0.1 CPUs={options.cpus} RealMemory={options.memory} State=UNKNOWN"
    lines = [
        f"NodeName={name} Port={port} {common}" + (f" Gres=gpu:{options.gpus}" if name in options.gpu_names else "")
        for name, port in zip(options.names, ports.nodes, strict=True)
    ]
    return "\n".join(lines)


def _partitions(options: Options) -> str:
    common = "MaxTime=INFINITE DefaultTime=10 DefMemPerCPU=100 State=UP"
    cpu = f"Nodes={','.join(options.cpu_names)} {common}"
    yields = " PriorityTier=1 PreemptMode=REQUEUE GraceTime=3" if options.preemption else ""
    lines = [f"PartitionName=cpu Default=YES {cpu}{yields}"]
    if options.preemption:
        lines.append(f"PartitionName=high {cpu} PriorityTier=10 PreemptMode=OFF")
    if options.gpu_nodes:
        lines.append(f"PartitionName=gpu Nodes={','.join(options.gpu_names)} {common}")
    return "\n".join(lines) + "\n"


def slurmdbd_conf(folder: Path, ports: Ports) -> str:
    """The text of slurmdbd.conf."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser={user_name()}
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _gpus(options: Options) -> tuple[str, ...]:
    return FAKE_GPUS[: options.gpus]
