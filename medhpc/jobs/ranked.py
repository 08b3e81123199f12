"""A command as one job of several ranks: its sbatch file, beside what the command will write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.jobs import slurm
from medhpc.jobs.dispatch import template
from medhpc.jobs.packing import Resources
from medhpc.jobs.script import array, command_of, environment_of, here, render
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import as_time
from medhpc.run.durable import write_durably

CORES = 8
"""Of a rank, where neither the user nor the site says."""
WARNING = 120
"""Seconds before the end of a job at which the ranks are signalled, and write a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RankedJob:
    """What is to be computed, and by how many.

    Attributes
    ----------
    kind : {"dip", "train", "sweep"}
        Names the template and the job, and the table in ``site.toml`` (a sweep computes tiles: ``[infer]``).
    out : str
        Absolute path of what is written.
    values : mapping of str to str, or sequence of str
        Variables of the template; several words become an array.
    nodes : int
    ranks_per_node : int
    resources : Resources
        Of a rank: cores (0 if nobody says), memory, and a GPU or none; the time of the job.
    """

    kind: str
    out: str
    values: Mapping[str, str | Sequence[str]]
    nodes: int
    ranks_per_node: int
    resources: Resources

    @property
    def ranks(self) -> int:
        """Of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def table(self) -> str:
        """In ``site.toml``."""
        return "infer" if self.kind == "sweep" else self.kind

    @property
    def script(self) -> Path:
        """Where the sbatch file lies; the log lies beside it."""
        return Path(f"{self.out.partition(':/')[0]}.{self.kind}.sbatch")


def text_of(job: RankedJob, site: Site, medhpc: Sequence[str] | None = None) -> str:
    """The sbatch file; `medhpc` is the command that starts medhpc, where the site names none."""
    own = site.of(job.table)
    values = environment_of(own, command_of(own, medhpc or here()))
    for name, value in job.values.items():
        values.append(f"{name}={shlex.quote(value)}" if isinstance(value, str) else array(name, value))
    return render(template(f"{job.kind}.sbatch", own), _directives(job, own), values)


def submit(job: RankedJob, site: Site) -> str:
    """Write the sbatch file and submit it; the id of the job.

    Raises
    ------
    NoSlurm, SlurmDown, SubmissionRefused, DiskFull, NoPermission
    """
    write_durably(job.script, text_of(job, site).encode(errors="surrogateescape"))
    return slurm.sbatch(job.script, cwd=job.script.parent)


def _directives(job: RankedJob, site: Site) -> dict[str, str]:
    ranks, resources = job.ranks_per_node, job.resources
    cpus, memory = resources.cpus or site.cpus or CORES, site.memory or resources.memory
    if resources.gpus and site.gres and not site.gres.endswith(f":{ranks}"):
        raise BadOption(
            f"gres is {site.gres!r} at this site, but {ranks} GPUs of a node are asked for: give a table [{job.table}]"
        )
    name = job.script.name.removesuffix(f".{job.kind}.sbatch")
    name = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:24].strip("-.")
    asked = {
        "job-name": f"medhpc-{job.kind}-{name}",
        "nodes": str(job.nodes),
        "ntasks-per-node": str(ranks),
        "cpus-per-task": str(cpus),
        "mem": f"{max(1, -(-memory * ranks // 2**20))}M",
        "time": as_time(resources.seconds),
        "gres": (site.gres or f"gpu:{ranks}") if resources.gpus else "",
        "signal": f"USR1@{WARNING}",
        "output": f"{str(job.script.with_suffix('')).replace('%', '%%')}-%j.log",
    }
    return {key: value for key, value in (asked | site.directives).items() if value}
