"""End the jobs of a run; what is done stays done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medhpc.jobs.dispatch import live_jobs
from medhpc.jobs.live import forget
from medhpc.jobs.slurm import scancel
from medhpc.jobs.submission import submissions, utc_now
from medhpc.run import Run


def cancel(run: str | Path) -> list[str]:
    """End every live job of a run; ``medhpc submit`` goes on later.

    Jobs that this run shares with others (several volumes submitted at once) end too.

    Returns
    -------
    list of str
        Ids of the jobs that were live.

    Raises
    ------
    NotARun, NoSlurm
    SlurmDown
        Nothing is known to have ended.
    """
    folder = Run(run).folder
    ids = sorted({job.array for job in live_jobs(folder)})
    scancel(ids)
    forget(folder)
    for submission in submissions(folder):
        if not submission.cancelled:
            replace(submission, cancelled=utc_now()).saved()
    return ids
