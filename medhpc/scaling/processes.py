"""Ranks and tasks: processes of this machine, or of a SLURM allocation by ``srun``; all started at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhpc.errors import BadOption, RankLost

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS")
"""Variables by which a process would take itself for one of several."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What one process runs, and its variables besides ours."""

    words: Sequence[str]
    variables: Mapping[str, str]


def ranks_of(words: Sequence[str], count: int, on: str, threads: int = 1) -> list[Command]:
    """The same command as several ranks, which find each other as torchrun's do, or srun's; as one, by itself."""
    words = [sys.executable, "-m", *words]
    if on == "slurm":
        return [Command(words=[*_srun(count, threads), *words], variables={})]
    if count == 1:
        return [Command(words=words, variables={})]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    one = {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)}
    return [Command(words=words, variables=variables) for variables in one.values()]


def tasks_of(words: Sequence[str], count: int, on: str, threads: int = 1) -> list[Command]:
    """The same command as several tasks, each with its share."""
    words = [*(_srun(1, threads) if on == "slurm" else []), sys.executable, "-m", *words]
    shares = [f"{task}/{count}" for task in range(1, count + 1)]
    return [Command(words=[*words, "--task", share], variables={}) for share in shares]


def check_place(on: str) -> None:
    """Refuse SLURM outside an allocation.

    Raises
    ------
    BadOption
    """
    if on == "slurm" and "SLURM_JOB_ID" not in os.environ:
        raise BadOption(
            "--on slurm starts ranks and tasks by srun inside an allocation, and this is none; begin with salloc or "
            "sbatch, with as many --ntasks as the largest count"
        )


def ended(commands: Sequence[Command], logs: Path) -> list[dict[str, Any]]:
    """Run them side by side; the JSON that they print (those that print any). None of them outlives this.

    Parameters
    ----------
    commands : sequence of Command
    logs : path
        Folder for what they say on stderr, a file each.

    Raises
    ------
    RankLost
        One of them ended with an error: its last line.
    """
    logs.mkdir(parents=True, exist_ok=True)
    names = [logs / f"{number}.log" for number in range(len(commands))]
    clean = {name: value for name, value in os.environ.items() if name not in RANKS}
    with ExitStack() as opened:
        running = [
            opened.enter_context(_process(command, clean, opened.enter_context(log.open("wb"))))
            for command, log in zip(commands, names, strict=True)
        ]
        try:
            printed = [process.communicate()[0] for process in running]
        finally:
            for process in running:
                process.terminate()
    _check([process.returncode for process in running], names)
    return [json.loads(text) for text in printed if text.strip()]


def _srun(tasks: int, threads: int) -> list[str]:
    """A step of the allocation, with as much of it as it needs."""
    return ["srun", "--exact", "--kill-on-bad-exit=1", f"--ntasks={tasks}", f"--cpus-per-task={threads}"]


def _process(command: Command, clean: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
    variables = {**clean, **command.variables}
    return subprocess.Popen(command.words, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)


def _check(codes: Sequence[int], logs: Sequence[Path]) -> None:
    """Tell of the process that failed by itself, not of those that missed it."""
    failed = [(_last_line(log), log, code) for code, log in zip(codes, logs, strict=True) if code]
    if failed:
        line, log, code = min(failed, key=lambda one: not one[0] or "another rank has ended" in one[0])
        raise RankLost(f"{len(failed)} of {len(codes)} processes failed; {log.name} ended with {code}: {line} ({log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return said[-1].removeprefix("medhpc: error: ") if said else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
