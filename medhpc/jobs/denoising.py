"""``medhpc dip`` as one job of several ranks: its sbatch file, beside the volume that it will write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.jobs import slurm
from medhpc.jobs.dispatch import template
from medhpc.jobs.packing import Resources
from medhpc.jobs.script import command_of, here, render
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import as_time
from medhpc.run.durable import write_durably

TEMPLATE = "dip.sbatch"
CORES = 8
"""Of a rank, where neither the user nor the site says."""
WARNING = 120
"""Seconds before the end of a job at which the ranks are signalled, and write a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """What is to be denoised, and by how many.

    Attributes
    ----------
    volume, clean : str
        Absolute paths.
    options : sequence of str
        Of ``medhpc dip``.
    nodes : int
    ranks_per_node : int
    resources : Resources
        Of a rank: cores (0 if nobody says), memory, and a GPU or none; the time of the job.
    """

    volume: str
    clean: str
    options: Sequence[str]
    nodes: int
    ranks_per_node: int
    resources: Resources

    @property
    def script(self) -> Path:
        """Where the sbatch file lies; the log lies beside it."""
        return Path(f"{self.clean.partition(':/')[0]}.dip.sbatch")


def text_of(job: Denoising, site: Site) -> str:
    """The sbatch file."""
    own = site.of("dip")
    values = [f"module load {shlex.quote(module)}" for module in own.modules]
    if own.scratch:
        values.append(f"export TMPDIR={shlex.quote(own.scratch)}")
    words = [("MEDHPC", command_of(own, here())), ("OPTIONS", job.options)]
    values += [f"{name}=({' '.join(map(shlex.quote, word))})" for name, word in words]
    values += [f"VOLUME={shlex.quote(job.volume)}", f"CLEAN={shlex.quote(job.clean)}"]
    return render(template(TEMPLATE, own), _directives(job, own), values)


def submit(job: Denoising, site: Site) -> str:
    """Write the sbatch file and submit it; the id of the job.

    Raises
    ------
    NoSlurm, SlurmDown, SubmissionRefused, DiskFull, NoPermission
    """
    write_durably(job.script, text_of(job, site).encode(errors="surrogateescape"))
    return slurm.sbatch(job.script, cwd=job.script.parent)


def _directives(job: Denoising, site: Site) -> dict[str, str]:
    ranks, resources = job.ranks_per_node, job.resources
    cpus, memory = resources.cpus or site.cpus or CORES, site.memory or resources.memory
    if resources.gpus and site.gres and not site.gres.endswith(f":{ranks}"):
        raise BadOption(
            f"gres is {site.gres!r} at this site, but {ranks} GPUs of a node are asked for: give a table [dip]"
        )
    name = re.sub(r"[^\w.-]+", "-", job.script.name.removesuffix(".dip.sbatch"), flags=re.ASCII)[:24].strip("-.")
    asked = {
        "job-name": f"medhpc-dip-{name}",
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
