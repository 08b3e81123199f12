"""The same chain without a cluster: its commands as processes of this machine, or in this very process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from medhpc.jobs.chain import Step
from medhpc.jobs.submission import Submission

HERE = "here"  # what stands for a job id

Call = Callable[[Sequence[str]], int]
Tell = Callable[[str], None]


def run_here(submission: Submission, call: Call, tell: Tell | None = None) -> Submission:
    """Run all tasks one after the other in this process; a task that fails does not keep the next from running.

    Parameters
    ----------
    submission : Submission
    call : callable
        Runs arguments of ``medhpc``, gives the exit code.
    tell : callable, optional
        Called with a line for each step.
    """
    for step in submission.steps:
        codes = [call(step.command(index)) for index in range(step.tasks)]
        submission = submission.with_job(step, HERE)
        _tell(tell, step, codes)
    return submission


def run_processes(submission: Submission, medhpc: Sequence[str], tell: Tell | None = None) -> Submission:
    """Run the tasks of each step as processes, as many at a time as the cores of this machine allow.

    Parameters
    ----------
    submission : Submission
        Its logs are written as on a cluster.
    medhpc : sequence of str
        The command that starts medhpc.
    tell : callable, optional
        Called with a line for each step.
    """
    for step in submission.steps:
        places = min(step.concurrent or step.tasks, max(1, len(os.sched_getaffinity(0)) // step.resources.cpus))
        task = partial(_run_process, submission, step, medhpc)
        with ThreadPoolExecutor(places, step.name) as threads:
            codes = list(threads.map(task, range(step.tasks)))
        submission = submission.with_job(step, HERE)
        _tell(tell, step, codes)
    return submission


def _run_process(submission: Submission, step: Step, medhpc: Sequence[str], index: int) -> int:
    with submission.log(step.name, f"{HERE}_{index}").open("wb") as log:
        command = [*medhpc, *step.command(index)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode


def _tell(tell: Tell | None, step: Step, codes: Sequence[int]) -> None:
    if tell:
        failed = sum(code != 0 for code in codes)
        tell(f"{step.name} ended" + (f"; {failed} of {len(codes)} tasks with an error" if failed else ""))
