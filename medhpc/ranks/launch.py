"""Who started this process, and as which rank: torchrun, SLURM (``srun``), or nobody in particular; no torch."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from medhpc.errors import BadOption

FIRST_PORT, PORTS = 20000, 10000
"""Where ranks of SLURM meet, by the number of their job: below the ports that systems give to outgoing connections."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One of several processes.

    Attributes
    ----------
    rank, size : int
        Which, and of how many.
    local : int
        Which of those on this node.
    meeting : str
        Where they find each other, as ``torch.distributed`` takes it.
    """

    rank: int
    size: int
    local: int
    meeting: str


def launched(variables: Mapping[str, str] = os.environ) -> Launch | None:
    """Read the environment; None for a process by itself.

    Inside a job, but not started by ``srun``, a process is by itself: SLURM's variables of the job tell of tasks that
    were never started.

    Raises
    ------
    BadOption
        A variable is missing, or no number.
    """
    if "RANK" in variables and "WORLD_SIZE" in variables:
        names, meeting = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "env://"
    elif "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:
        names, meeting = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), ""
    else:
        return None
    rank, size, local = (_number(variables, name) for name in names)
    if size < 2:
        return None
    return Launch(rank=rank, size=size, local=local, meeting=meeting or _meeting(variables))


def _meeting(variables: Mapping[str, str]) -> str:
    """The first node of a step and a port of its own; ``MASTER_ADDR`` and ``MASTER_PORT`` where they are set."""
    port = FIRST_PORT + (31 * _number(variables, "SLURM_JOB_ID") + _number(variables, "SLURM_STEP_ID")) % PORTS
    host = variables.get("MASTER_ADDR") or _known(first_host(variables.get("SLURM_STEP_NODELIST", "")))
    # Nodes without a name on the network: srun is started on the first of them, in a batch job.
    host = host or variables.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1"
    return f"tcp://{host}:{variables.get('MASTER_PORT') or port}"


def first_host(nodes: str) -> str:
    """The first of a list as SLURM writes it: ``node[007-009,12],other`` begins with ``node007``."""
    outside = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", outside[0] if outside else "")


def _known(host: str) -> str:
    try:
        socket.getaddrinfo(host or None, 0)
    except OSError:
        return ""
    return host


def _number(variables: Mapping[str, str], name: str) -> int:
    value = variables.get(name, "0" if name == "LOCAL_RANK" else "")
    if not value.isdecimal():
        raise BadOption(
            f"{name} is {value!r} in the environment, expected a number; start the ranks by srun or torchrun"
        )
    return int(value)
