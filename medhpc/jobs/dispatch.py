"""A prepared chain goes to the cluster: all of it, at once, and each job once.

Every answer of SLURM is written down before the next question. Where sbatch gets no answer, the job may exist all the
same: then the queue is looked at, by the comment that the job carries, and the logs, for a job that has ended already;
only what left no trace is submitted again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import medhpc
from medhpc.errors import BadOption, RunBusy, SlurmDown
from medhpc.jobs.chain import Step
from medhpc.jobs.live import among, forget
from medhpc.jobs.local import run_here, run_processes
from medhpc.jobs.prepare import Prepared
from medhpc.jobs.script import command_of, directives_of, driver, here, log_of, render, values_of
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import Job, my_jobs, sbatch
from medhpc.jobs.submission import Submission, submissions
from medhpc.run import Run
from medhpc.run.durable import alone_at, room_and_rights, write_durably

TEMPLATES = {"plan": "plan.sbatch", "infer": "infer.sbatch", "repair": "infer.sbatch", "stitch": "stitch.sbatch"}
PATIENCE = 300.0  # seconds for a controller that does not answer
PAUSE = 5.0  # seconds between two looks

Call = Callable[[Sequence[str]], int]


def submit(
    prepared: Prepared,
    *,
    call: Call | None = None,
    progress: Callable[[str], None] | None = None,
    patience: float = PATIENCE,
) -> Submission:
    """Submit a chain; with SLURM, nothing of this process is needed afterwards.

    Parameters
    ----------
    prepared : Prepared
    call : callable, optional
        Runs arguments of ``medhpc`` in this process and gives its exit code; for the cluster ``debug``.
    progress : callable, optional
        Called with a line for each job.
    patience : float
        Seconds for a controller that does not answer.

    Returns
    -------
    Submission
        With the ids of its jobs. For ``local`` and ``debug``, all steps have ended. Where an earlier submission of the
        run was cut short and has live jobs, that one, made whole.

    Raises
    ------
    RunBusy
        Jobs of one of the runs are live.
    SlurmDown
        The controller did not answer in time: what was submitted stands; calling this again submits the rest.
    SubmissionRefused, NoPermission, DiskFull
    """
    submission = prepared.submission
    if submission.cluster == "slurm" and "\\" in str(submission.folder):  # logs are lost there, however it is quoted
        raise BadOption(f"{submission.folder} has a backslash, which SLURM does not take; submit from another folder")
    with _alone(submission.folder.parent):
        if submission.cluster == "slurm":
            half = check_free(prepared, patience=patience)
            if half:
                if progress:
                    progress(f"going on with submission {half.id}, which was cut short")
                return finish(half, progress=progress, patience=patience)
        write_scripts(prepared, submission.folder)
        submission.saved()
        if submission.cluster == "slurm":
            return finish(submission, progress=progress, patience=patience)
    if submission.cluster == "debug":
        if call is None:
            raise BadOption("the cluster 'debug' runs in this process: give submit() the function to call")
        return run_here(submission, call, progress)
    return run_processes(submission, command_of(prepared.site, here()), progress)


def check_free(prepared: Prepared, *, patience: float = PATIENCE) -> Submission | None:
    """Refuse runs that have live jobs; an earlier submission with some, that was cut short and is the same, is given.

    Raises
    ------
    RunBusy, SlurmDown
    """
    busy = _patiently(lambda: live_jobs(*(target.run for target in prepared.targets)), patience)
    half = unfinished(prepared.targets[0].run)
    if busy and half:
        _check_same(half, prepared)
        return half
    _refuse_if_busy(busy, prepared.targets[0].run)
    return None


def finish(
    submission: Submission, *, progress: Callable[[str], None] | None = None, patience: float = PATIENCE
) -> Submission:
    """Submit the steps of a chain that have no job yet, and are not in the queue either.

    Raises
    ------
    SlurmDown, SubmissionRefused
        What was submitted is written down.
    """
    forget(submission.folder.parents[1])
    for run in {target.run for step in submission.steps for target in step.targets}:
        forget(run)
    queued = {job.comment: job.array for job in _patiently(my_jobs, patience)} if submission.jobs else {}
    for step in submission.steps:
        if step.name in submission.jobs:
            continue
        known = queued.get(submission.comment(step)) or submission.logged(step)
        if known:  # sbatch went through, its answer was not written down any more
            submission = submission.with_job(step, known)
            continue
        dependency = ":".join(submission.jobs[name] for name in step.after)
        # Absolute, for SLURM expands its signs in the working folder too; there, each % stands for itself.
        options = [f"--output={str(submission.folder).replace('%', '%%')}/{log_of(step)}"]
        options += [f"--dependency=afterany:{dependency}"] if dependency else []
        job = _submit_once(submission, step, options, patience)
        submission = submission.with_job(step, job)
        if progress:
            progress(f"{step.name}: job {job}" + (f", {step.tasks} tasks" if step.tasks > 1 else ""))
    return submission


def unfinished(run: str | Path) -> Submission | None:
    """The newest submission of a run, if a part of its chain was never submitted, and it was not cancelled."""
    newest = [one for one in submissions(run) if one.cluster == "slurm"][-1:]
    return next((one for one in newest if not one.complete and not one.cancelled), None)


def scripts(prepared: Prepared) -> dict[str, str]:
    """The texts of the sbatch files of a chain by file name, and of ``submit.sh``, which submits them by hand."""
    texts = {}
    for step in prepared.submission.steps:
        site = prepared.site.of("infer" if step.kind == "repair" else step.kind)
        directives = directives_of(step, site, comment=prepared.submission.comment(step))
        values = values_of(step, site, command_of(site, here()))
        texts[f"{step.name}.sbatch"] = render(template(TEMPLATES[step.kind], site), directives, values)
    return texts | {"submit.sh": driver(prepared.submission.steps)}


def write_scripts(prepared: Prepared, folder: Path) -> list[Path]:
    """Write :func:`scripts` into a folder, made where it is missing; with it, the folder of their logs."""
    with room_and_rights(folder):
        (folder / "log").mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in scripts(prepared).items():
        path = folder / name
        write_durably(path, text.encode(errors="surrogateescape"))
        path.chmod(path.stat().st_mode | 0o111 & ~_umask())
        written.append(path)
    return written


def templates() -> Path:
    """The folder of medhpc's own templates."""
    package = Path(medhpc.__file__).parent
    inside = package / "slurm_templates"
    return inside if inside.is_dir() else package.parent / "slurm_templates"


def template(name: str, site: Site) -> str:
    """The text of a template: the site's own, where it has one."""
    own = Path(site.templates or ".") / name
    path = own if site.templates and own.exists() else templates() / name
    return path.read_text()


def _submit_once(submission: Submission, step: Step, options: Sequence[str], patience: float) -> str:
    """The id of the one job of a step, however often the controller has to be asked."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return sbatch(submission.folder / f"{step.name}.sbatch", *options, cwd=submission.folder)
        except SlurmDown as error:
            found = _look(submission, step, deadline, error)
            if found:
                return found


def _look(submission: Submission, step: Step, deadline: float, error: SlurmDown) -> str | None:
    """The job of a step; None once the controller has said twice that there is none, and no log tells of one."""
    said_none = 0
    while said_none < 2:
        if time.monotonic() > deadline:
            raise SlurmDown(
                f"{error}; what was submitted stands, give the same command again to submit the rest"
            ) from error
        time.sleep(PAUSE)
        try:
            found = [job.array for job in my_jobs() if job.comment == submission.comment(step)]
        except SlurmDown:
            continue
        if found:
            return found[0]
        said_none += 1
    return submission.logged(step)


def live_jobs(*runs: str | Path) -> list[Job]:
    """Jobs of these runs that wait or run, also those submitted by hand; one call of SLURM.

    Raises
    ------
    SlurmDown, NoSlurm
    """
    chains = [one for run in runs for one in submissions(run) if one.cluster == "slurm"]
    ids = {Run(run).id for run in runs if (Path(run) / "plan.json").exists()}
    return [found.job for found in among(my_jobs(), chains, ids)]


def _refuse_if_busy(jobs: Sequence[Job], run: str) -> None:
    if jobs:
        ids = ", ".join(sorted({job.array for job in jobs}))
        raise RunBusy(
            f"{run} has live jobs ({ids}); look at them with 'medhpc status', "
            "or end them with 'medhpc cancel' before submitting again"
        )


def _check_same(half: Submission, prepared: Prepared) -> None:
    """Refuse to go on with a chain that was to make something else."""
    before, now = half.steps[-1], prepared.submission.steps[-1]
    if (before.targets, before.options) != (now.targets, now.options):
        raise RunBusy(
            f"an earlier submission, of {before.targets[0].out}, was cut short and has live jobs; "
            "give its command again to submit the rest, or end it with 'medhpc cancel' first"
        )


def _patiently(ask: Callable[[], list[Job]], patience: float) -> list[Job]:
    """The answer to a question, asked again while the controller does not answer."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except SlurmDown:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second submission out while this one is made."""
    with room_and_rights(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_at(folder / ".lock", f"another 'medhpc submit' is at {folder.parent} now; wait for it to end"):
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
