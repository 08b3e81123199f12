"""Partitions and their nodes, from what `scontrol` prints (SLURM 20.11 and later)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medhpc.jobs.slurm_times import seconds_of

MEGABYTE = 2**20  # SLURM counts memory in these
UNUSABLE = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "FUTURE", "INVAL", "INVALID_REG", "UNKNOWN"}


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """Nodes of a partition that are alike: what a job can ask of each.

    Attributes
    ----------
    count, usable : int
        How many there are, and how many of them are neither down nor drained.
    cpus : int
        As SLURM counts them (often hardware threads), without those kept for the system.
    memory : int
        Bytes, without those kept for the system.
    gres : str
        As in ``--gres``: ``gpu:a100:4``; empty where there is nothing.
    """

    count: int
    usable: int
    cpus: int
    memory: int
    gres: str

    @property
    def gpus(self) -> int:
        """How many GPUs each of these nodes has."""
        return count_gpus(self.gres)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A queue and what it gives at most; None where it sets no limit.

    Attributes
    ----------
    max_time_seconds, default_time_seconds : int or None
    max_memory_per_node, max_memory_per_cpu : int or None
        Bytes: the partition's own limits, besides what its nodes have.
    qos : str
        The quality of service whose limits bind every job here; mostly empty.
    preempt_mode : str
        What happens to jobs that are preempted: ``OFF``, ``REQUEUE``, ``CANCEL``, ``SUSPEND``.
    kinds : tuple of NodeKind
        The most common first.
    """

    name: str
    is_default: bool
    state: str
    max_time_seconds: int | None
    default_time_seconds: int | None
    max_nodes: int | None
    max_cpus_per_node: int | None
    max_memory_per_node: int | None
    max_memory_per_cpu: int | None
    qos: str
    preempt_mode: str
    kinds: tuple[NodeKind, ...]

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return sum(kind.count for kind in self.kinds)

    @property
    def usable_nodes(self) -> int:
        """How many nodes are neither down nor drained."""
        return sum(kind.usable for kind in self.kinds)

    @property
    def cpus_per_node(self) -> int:
        """The most that a job can ask of one node."""
        most = max((kind.cpus for kind in self.kinds), default=0)
        return min(most, self.max_cpus_per_node or most)

    @property
    def memory_per_node(self) -> int:
        """The most that a job can ask of one node, in bytes."""
        most = max((kind.memory for kind in self.kinds), default=0)
        return min(most, self.max_memory_per_node or most)

    @property
    def gres(self) -> str:
        """What the best equipped nodes have besides CPUs and memory: ``gpu:a100:4``."""
        return max((kind.gres for kind in self.kinds), key=count_gpus, default="")

    @property
    def gpus_per_node(self) -> int:
        """The most that a job can ask of one node."""
        return count_gpus(self.gres)


def parse_partitions(partitions: str, nodes: str) -> list[Partition]:
    """Partitions of ``scontrol --oneliner show partition`` with the nodes of ``scontrol --oneliner show node``."""
    kinds = _kinds(_fields(line) for line in nodes.splitlines() if line.startswith("NodeName="))
    found = (_fields(line) for line in partitions.splitlines() if line.startswith("PartitionName="))
    return [_partition(fields, kinds.get(fields["PartitionName"], ())) for fields in found]


def _partition(fields: dict[str, str], kinds: tuple[NodeKind, ...]) -> Partition:
    def number(key: str) -> int | None:
        text = fields.get(key, "")
        return int(text) if text.isdecimal() and int(text) else None

    per_node, per_cpu = number("MaxMemPerNode"), number("MaxMemPerCPU")
    return Partition(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        state=fields.get("State", ""),
        max_time_seconds=seconds_of(fields.get("MaxTime", "")),
        default_time_seconds=seconds_of(fields.get("DefaultTime", "")),
        max_nodes=number("MaxNodes"),
        max_cpus_per_node=number("MaxCPUsPerNode"),
        max_memory_per_node=per_node and per_node * MEGABYTE,
        max_memory_per_cpu=per_cpu and per_cpu * MEGABYTE,
        qos=fields.get("QoS", "N/A").replace("N/A", ""),
        preempt_mode=fields.get("PreemptMode", "OFF"),
        kinds=kinds,
    )


def _kinds(nodes: Iterable[dict[str, str]]) -> dict[str, tuple[NodeKind, ...]]:
    """Per partition, its nodes grouped by what they have."""
    counts: dict[str, dict[tuple[int, int, str], list[int]]] = {}
    for node in nodes:
        cpus = int(node.get("CPUEfctv") or node["CPUTot"])
        memory = (int(node["RealMemory"]) - int(node.get("MemSpecLimit") or 0)) * MEGABYTE
        kind = (cpus, memory, re.sub(r"\([^)]*\)", "", node.get("Gres", "")))  # which sockets, or (null)
        for partition in node.get("Partitions", "").split(","):
            count = counts.setdefault(partition, {}).setdefault(kind, [0, 0])
            count[0] += 1
            count[1] += _is_usable(node["State"])
    return {
        partition: tuple(
            NodeKind(count=count, usable=usable, cpus=cpus, memory=memory, gres=gres)
            for (cpus, memory, gres), (count, usable) in sorted(found.items(), key=lambda item: -item[1][0])
        )
        for partition, found in counts.items()
    }


def _is_usable(state: str) -> bool:
    """Whether a node of this state (``IDLE+DRAIN``, ``DOWN*``, ``IDLE+CLOUD+POWERED_DOWN``) takes jobs again."""
    return UNUSABLE.isdisjoint(part.rstrip("*~#!%$@^-") for part in state.split("+"))


def count_gpus(gres: str) -> int:
    """GPUs of a node by its generic resources: ``gpu:4``, ``gpu:a100:2,gpu:v100:2``."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,]+)??:(\d+)(?=,|$)", gres))


def _fields(line: str) -> dict[str, str]:
    """``Key=value`` pairs of one line of scontrol; of a repeated key the first, for free text comes last."""
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Za-z/]+)=(\S*)", line):
        fields.setdefault(key, value)
    return fields
