"""Why jobs ended without doing what they were to do: what their logs say, in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhpc.jobs.chain import Step
from medhpc.jobs.submission import Submission

MOST_LOGS = 16  # that are read, the newest of a submission
TAIL = 4096  # bytes of each
LONGEST = 400  # characters of what is told
# medhpc's own last words, those of SLURM about memory and time, of the shell, or the end of a traceback.
ERROR = re.compile(
    r"^(?:medhpc: error: (?P<ours>.+)"
    r"|(?P<other>.*(?:\berror: |Error: |: command not found|: No such file or directory).*))$",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Why:
    """What the log of a task says last."""

    error: str
    log: str  # path


def why_failed(run: Path, chains: Sequence[Submission], *kinds: str, since: float = 0.0) -> Why | None:
    """The error in the newest log of these kinds of steps, of the last submission that has such logs.

    Parameters
    ----------
    run : path
        Absolute.
    chains : sequence of Submission
        Those of the run, oldest first.
    kinds : str
        Of the steps, such as "infer", "repair".
    since : float
        What was written before does not count; seconds since 1970.
    """
    for chain in reversed(chains):
        logs = sorted((log for log in _logs(run, chain, kinds) if log[0] >= since), reverse=True)[:MOST_LOGS]
        if logs:
            others = _names_of_others(run, chain)
            found = (_error_in(log) for _, log in logs)
            told = (Why(error=error, log=log) for error, (_, log) in zip(found, logs, strict=True) if error)
            return next((why for why in told if not any(name in why.error for name in others)), None)
    return None


def _logs(run: Path, chain: Submission, kinds: Sequence[str]) -> Iterator[tuple[float, str]]:
    """When each log of these steps was written last, and its path."""
    starts = tuple(start for step in chain.steps if step.kind in kinds for start in _starts(run, chain, step))
    folder = chain.folder / "log"
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if entry.name.startswith(starts):
            yield entry.stat().st_mtime, entry.path


def _starts(run: Path, chain: Submission, step: Step) -> list[str]:
    """How the names of the logs begin that a step wrote for this run."""
    if step.name not in chain.jobs:
        return []
    start = f"{step.name}-{chain.jobs[step.name]}"
    if step.missing or not step.is_array:
        return [f"{start}_", f"{start}."]
    return [f"{start}_{index}." for index, target in enumerate(step.targets) if target.run == str(run)]


def _names_of_others(run: Path, chain: Submission) -> set[str]:
    """What an error names if it is that of another volume of the same submission."""
    targets = {target for step in chain.steps for target in step.targets}
    mine = {name for target in targets if target.run == str(run) for name in (target.run, target.volume)}
    return {name for target in targets for name in (target.run, target.volume) if name} - mine


def _error_in(log: str) -> str:
    """The last line of a log that tells of an error; "" where none does."""
    with Path(log).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        found = list(ERROR.finditer(file.read().decode(errors="replace")))
    ours = [match["ours"] for match in found if match["ours"]]
    return (ours or [match["other"] for match in found] or [""])[-1].strip()[:LONGEST]
