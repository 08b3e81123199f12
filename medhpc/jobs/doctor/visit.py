"""The whole examination: folder, cluster, job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medhpc.errors import BadOption, NoSlurm, SlurmDown
from medhpc.jobs import slurm
from medhpc.jobs.doctor.check import Check
from medhpc.jobs.doctor.cluster import check_cluster, partition_of
from medhpc.jobs.doctor.folder import check_folder
from medhpc.jobs.doctor.job import check_job
from medhpc.jobs.site import Site, load_site

Report = Callable[[str], None]


def doctor(
    folder: str | Path = ".",
    *,
    job: bool = True,
    wait: float = 60,
    site: Site | None = None,
    report: Report = lambda doing: None,
) -> list[Check]:
    """Examine a site.

    Parameters
    ----------
    folder : path
        Where runs will lie; a file system that login and compute nodes share.
    job : bool
        Submit a small job too: only on a node one sees what a job will see.
    wait : float
        Seconds for which the job may wait in the queue; then it is taken back.
    site : Site, optional
        As :func:`medhpc.jobs.site.load_site` finds it unless given.
    report : callable, optional
        Gets what is being done now.

    Returns
    -------
    list of Check

    Raises
    ------
    BadOption
        `folder` is no folder, or the settings are wrong.
    NoPermission
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise BadOption(f"{folder} is not a folder; name the one that your runs will lie in, or its parent")
    site = load_site()[0] if site is None else site
    tasks = site.of("infer")  # nearly all jobs are these
    report("looking at the folder")
    checks = check_folder(folder)
    report("asking SLURM")
    try:
        limits = slurm.limits(account=tasks.account, qos=tasks.qos)
        partitions = slurm.partitions()
    except (NoSlurm, SlurmDown) as error:
        return [*checks, _without_slurm(error)]
    checks += check_cluster(limits, partitions, site, limits.accounting and slurm.sacct_answers())
    if job:
        checks += check_job(folder, tasks, partition_of(partitions, tasks), wait, report)
    else:
        checks.append(
            Check(
                name="job",
                verdict="unknown",
                found="no job was submitted",
                means="whether nodes share the folder, start medhpc, pass on signals and have its GPUs was not seen",
                mend="leave out --no-job",
            )
        )
    return checks


def _without_slurm(error: NoSlurm | SlurmDown) -> Check:
    if isinstance(error, NoSlurm):
        return Check(
            name="SLURM",
            verdict="unknown",
            found="its programs are not on PATH",
            means="medhpc computes on this machine: 'medhpc run', or 'medhpc submit --cluster local'",
            mend="to use a cluster, run this on its login node",
        )
    return Check(
        name="SLURM",
        verdict="bad",
        found=str(error),
        means="nothing can be submitted now; jobs that run go on, and what they do stands in the ledger",
        mend="try again; if it lasts, tell the administrators",
    )
