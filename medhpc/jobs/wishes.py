"""What a user wishes of a chain of jobs, whatever it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.jobs.packing import Resources
from medhpc.jobs.site import Site, load_site

CLUSTERS = ("slurm", "local", "debug")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How a chain of jobs shall be; what is None follows from the plans.

    Attributes
    ----------
    stitch_options : sequence of str
        As for ``medhpc stitch``.
    stitch_workers : int
        Processes that stitch, in one job; it asks for as many times the cores and the memory.
    target_seconds : float
        How long a task should take.
    tasks : int, optional
        How many tasks share the tiles, whatever time that takes.
    rounds : int
        Of repair.
    concurrent : int, optional
        Tasks at a time.
    cluster : {"slurm", "local", "debug"}
    cpus, gpus, memory : int, optional
        For a task; memory in bytes.
    folder : path, optional
        Of the submission; a new one unless given.
    site : Site
        As :func:`medhpc.jobs.site.load_site` finds it unless given.

    Raises
    ------
    BadOption
    """

    stitch_options: Sequence[str] = ()
    stitch_workers: int = 1
    target_seconds: float = 1800
    tasks: int | None = None
    rounds: int = 2
    concurrent: int | None = None
    cluster: str = "slurm"
    cpus: int | None = None
    gpus: int | None = None
    memory: int | None = None
    folder: str | Path | None = None
    site: Site = field(default_factory=lambda: load_site()[0])

    def __post_init__(self) -> None:
        if self.cluster not in CLUSTERS:
            raise BadOption(f"cluster '{self.cluster}' is not one of {', '.join(CLUSTERS)}")
        if self.target_seconds <= 0:
            raise BadOption(f"target time {self.target_seconds:g} s is not positive; give one such as 30m")
        if self.rounds < 0:
            raise BadOption(f"{self.rounds} retries, expected 0 or more")
        if self.concurrent is not None and self.concurrent < 1:
            raise BadOption(f"{self.concurrent} tasks at a time, expected 1 or more")

    def resources(self, step: str, needed: Resources) -> Resources:
        """What a process of a step asks for: what was wished, else what the site says, else what is needed."""
        own = self.site.of(step)
        return replace(
            needed,
            cpus=self.cpus or own.cpus or needed.cpus,
            gpus=needed.gpus if self.gpus is None else self.gpus,
            memory=self.memory or own.memory or needed.memory,
        )
