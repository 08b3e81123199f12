"""SLURM's programs without SLURM: they answer as on a middling cluster, start nothing, and count their calls."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medhpc.jobs import Submission
from medhpc.jobs.chain import Step
from medhpc.jobs.slurm_queue import BEGIN, SEPARATOR

CONTROLLER = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")  # these ask slurmctld
DATABASE = ("sacctmgr", "sacct")  # these ask slurmdbd
PARTITION = "PartitionName=day Default=YES MaxTime=1-00:00:00 State=UP"
NODE = "NodeName=n1 CPUTot=64 RealMemory=512000 State=IDLE Partitions=day Gres="
CONFIG = "ClusterName = counted\nMaxArraySize = 1001\nMaxJobCount = 10000\nMinJobAge = 300 sec\nJobRequeue = 1"
PROGRAM = """#!/bin/bash
here="$(dirname "$0")"
name="$(basename "$0")"
echo "$name" >> "$here/calls"
case "$name $*" in
    sbatch*) wc -l < "$here/calls" ;;
    squeue*) cat "$here/queue" ;;
    *partition) echo '{partition}' ;;
    *node) echo '{node}' ;;
    *config) echo '{config}' ;;
esac
"""


@dataclass(frozen=True)
class CountedSlurm:
    """The programs, in a folder of their own."""

    folder: Path

    def calls(self) -> Counter[str]:
        """How often each program was called so far."""
        return Counter((self.folder / "calls").read_text().split())

    def queue(self, submission: Submission, running: int) -> None:
        """Let squeue tell of a submission, of which so many tasks run and all others wait."""
        lines: list[str] = []
        for step in submission.steps:
            left = range(min(running, step.tasks), step.tasks)
            if step.kind == "infer":
                lines += [_line(submission, step, f"{index}", "RUNNING") for index in range(left.start)]
                running -= left.start
            if left:
                lines.append(_line(submission, step, f"{left.start}-{left.stop - 1}", "PENDING"))
        (self.folder / "queue").write_text("".join(lines))


@contextmanager
def counted_slurm(folder: Path) -> Iterator[CountedSlurm]:
    """In the block, these are the SLURM programs that this process and its children find."""
    folder.mkdir()
    for name in ("calls", "queue"):
        (folder / name).touch()
    for name in (*CONTROLLER, *DATABASE):
        (folder / name).write_text(PROGRAM.format(partition=PARTITION, node=NODE, config=CONFIG))
        (folder / name).chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    try:
        yield CountedSlurm(folder)
    finally:
        os.environ["PATH"] = before


def _line(submission: Submission, step: Step, tasks: str, state: str) -> str:
    """What squeue prints of an array, or of its tasks that run."""
    job = submission.jobs[step.name]
    fields = (f"{job}_{tasks}", job, tasks, state, "n1", "None", "day", step.name, submission.comment(step))
    return BEGIN + SEPARATOR.join(fields) + "\n"
