"""End the jobs of a run, or of all runs of a folder; what is done stays done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medhpc.jobs.dispatch import live_jobs
from medhpc.jobs.live import forget, slurm_is_here
from medhpc.jobs.slurm import scancel
from medhpc.jobs.submission import submissions, utc_now
from medhpc.jobs.watch import runs_of


def cancel(place: str | Path) -> list[str]:
    """End every live job of a run, submitted by us or by hand; ``medhpc submit`` goes on later.

    Jobs that this run shares with others (several volumes submitted at once) end too.

    Parameters
    ----------
    place : path
        A run, also one that is still to be planned, or the folder of several.

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
    runs = runs_of(place)
    chains = {one.id: one for run in runs for one in submissions(run)}
    if not chains and not slurm_is_here():
        return []
    ids = sorted({job.array for job in live_jobs(*runs)})
    scancel(ids)
    for folder in (Path(place), *runs):
        forget(folder)
    for submission in chains.values():
        if not submission.cancelled:
            replace(submission, cancelled=utc_now()).saved()
    return ids
