"""Every call of a SLURM program. A list of arguments each, never a shell; one call for all that is asked at once."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medhpc.errors import NoSlurm, SlurmDown, SubmissionRefused
from medhpc.jobs.slurm_limits import (
    ASSOCIATION_FORMAT,
    QOS_FORMAT,
    Association,
    Limits,
    Qos,
    limits_of,
    most_submitted,
    parse_associations,
    parse_config,
    parse_qos,
)
from medhpc.jobs.slurm_nodes import NodeKind, Partition, parse_partitions
from medhpc.jobs.slurm_queue import SQUEUE_FORMAT, Job, parse_squeue
from medhpc.jobs.slurm_times import as_time, seconds_of

__all__ = [
    "Association",
    "Job",
    "Limits",
    "NodeKind",
    "Partition",
    "Qos",
    "as_time",
    "associations",
    "limits",
    "my_jobs",
    "partitions",
    "qualities",
    "sacct_answers",
    "sbatch",
    "scancel",
    "seconds_of",
    "signal",
]

PATIENCE = 60  # seconds for an answer; a controller that does not listen is given up after 9 to 100 (MessageTimeout)
RECORDS_PATIENCE = 20  # the user's limits are good to know, not more
SUBMISSION_PATIENCE = 300  # a busy controller makes sbatch try again for two minutes

# What a program reads from its environment besides its options: it would undo what we ask, or print something else.
OPTION_VARIABLES = ("SBATCH_", "SQUEUE_", "SCANCEL_", "SINFO_", "SCONTROL_", "SACCT_")
KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")

# How an answer that never came reads; any other refusal of sbatch is about the job.
NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection refused|connect failure|communication (connection|shutdown) failure"
    r"|transport endpoint|zero bytes were transmitted|message (receive|send) failure|receive_msg"
    r"|standby mode|temporarily un|munge encode|authentication (credential|plugin)|configuration file",
    re.IGNORECASE,
)
ALREADY_GONE = re.compile(r"invalid job id specified|already complet", re.IGNORECASE)


def my_jobs() -> list[Job]:
    """Jobs of this user in the queue, waiting or running, in one call.

    Raises
    ------
    SlurmDown
        No answer, or one that cannot be read: the jobs are unknown then, neither gone nor done.
    NoSlurm
    """
    text = _answer("squeue", "--me", "--noheader", f"--format={SQUEUE_FORMAT}")
    try:
        return parse_squeue(text)
    except ValueError as error:
        raise SlurmDown(f"squeue: cannot read its answer: {error}") from None


def sbatch(script: Path, *options: str, cwd: Path | None = None) -> str:
    """Submit a script.

    Parameters
    ----------
    script : path
    options : str
        Of sbatch, such as ``--array=0-9%2``; they override the script's own.
    cwd : path, optional
        Where the job starts; here unless given.

    Returns
    -------
    str
        Id of the job.

    Raises
    ------
    SlurmDown
        No answer. The job may exist: look for it (by its comment) before it is submitted again.
    SubmissionRefused
        The answer was no; the job does not exist.
    NoSlurm
    """
    done = _run("sbatch", "--parsable", *options, str(script), patience=SUBMISSION_PATIENCE, cwd=cwd)
    found = re.search(
        r"^(\d+)(?:;.*)?$", done.stdout, re.MULTILINE
    )  # a site may greet before, and name the cluster after
    if done.returncode == 0 and found:
        return found[1]
    if done.returncode and not NO_ANSWER.search(done.stderr):
        raise SubmissionRefused(f"sbatch refused {script}: {_words(done.stderr)}; change the option that it names")
    raise SlurmDown(f"sbatch did not answer for {script}: {_words(done.stderr or done.stdout)}; the job may exist")


def scancel(ids: Sequence[str]) -> None:
    """End jobs (``123``), tasks (``123_7``) or ranges of tasks (``123_[5-9]``); those already gone are no matter.

    Raises
    ------
    SlurmDown, NoSlurm
    """
    if not ids:
        return
    done = _run("scancel", *ids)
    complaints = [line for line in done.stderr.splitlines() if not ALREADY_GONE.search(line)]
    if done.returncode and complaints:
        raise SlurmDown(f"scancel: {_words(done.stderr)}")


def signal(id: str, name: str) -> None:
    """Send a signal (``USR1``) to the batch script of a job alone, as ``sbatch --signal=B:USR1@60`` does in its time.

    Raises
    ------
    SlurmDown, NoSlurm
    """
    _answer("scancel", "--batch", f"--signal={name}", id)


def partitions() -> list[Partition]:
    """The partitions that this user sees, with their limits and nodes.

    Raises
    ------
    SlurmDown, NoSlurm
    """
    show = ("scontrol", "--oneliner", "show")
    return parse_partitions(_answer(*show, "partition"), _answer(*show, "node"))


def limits(*, account: str = "", qos: str = "", partition: Partition | None = None) -> Limits:
    """What the cluster allows, and this user on it.

    Parameters
    ----------
    account, qos : str
        What jobs will be submitted with; the user's defaults where empty.
    partition : Partition, optional
        Where they will be submitted.

    Raises
    ------
    SlurmDown, NoSlurm
        Only where the controller does not answer; without an accounting database the user's own limits are unknown.
    """
    found = limits_of(parse_config(_answer("scontrol", "show", "config")))
    if not found.accounting:
        return found
    name, its_qos = (partition.name, partition.qos) if partition else ("", "")
    most = most_submitted(associations(), qualities(), account=account, partition=name, qos=(qos, its_qos))
    return replace(found, max_submit_jobs=most)


def associations() -> list[Association]:
    """The accounts that this user may charge jobs to, the default first; empty where no database answers."""
    user = pwd.getpwuid(os.getuid()).pw_name
    found = parse_associations(_recorded("show", "assoc", f"user={user}", f"format={ASSOCIATION_FORMAT}"))
    default = _recorded("show", "user", user, "format=DefaultAccount").strip()
    return sorted(found, key=lambda one: one.account != default)


def qualities() -> list[Qos]:
    """All qualities of service; empty where no database answers."""
    return parse_qos(_recorded("show", "qos", f"format={QOS_FORMAT}"))


def sacct_answers() -> bool:
    """Whether past jobs can be asked for."""
    try:
        return _run("sacct", "--allocations", "--noheader", "--starttime=now").returncode == 0
    except (NoSlurm, SlurmDown):
        return False


def _recorded(*arguments: str) -> str:
    """What the accounting database says; nothing where there is none, which many sites lack or close."""
    try:
        done = _run("sacctmgr", "--noheader", "--parsable2", *arguments, patience=RECORDS_PATIENCE)
    except (NoSlurm, SlurmDown):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _answer(*command: str) -> str:
    done = _run(*command)
    if done.returncode:
        raise SlurmDown(f"{command[0]}: {_words(done.stderr or done.stdout)}; try again when SLURM answers")
    return done.stdout


def _run(*command: str, patience: float = PATIENCE, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=environment(os.environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=patience,
        )
    except FileNotFoundError:
        raise NoSlurm(
            f"{command[0]} is not on PATH: no SLURM here; log in to the cluster, or use --cluster local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmDown(f"{command[0]}: no answer within {patience:g} s") from None


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment for a SLURM program: nothing that acts as an option, nor what describes the job we are in."""
    inside = "SLURM_JOB_ID" in variables
    kept = {
        name: value
        for name, value in variables.items()
        if not name.startswith(OPTION_VARIABLES)
        and (not inside or not name.startswith("SLURM_") or name.startswith(KEPT_VARIABLES))
    }
    return kept | {"SLURM_BITSTR_LEN": "0"}  # else a long list of tasks is cut off with "..."


def _words(stderr: str) -> str:
    """All that a program said, in one line, without its name before each sentence."""
    lines = (re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in stderr.splitlines())
    return "; ".join(filter(None, lines)) or "no reason given"
