"""A submission on disk: what was asked of the cluster, and the ids it gave.

::

    jobs/<id>/submission.json   everything below; rewritten after each answer of the cluster
    jobs/<id>/<step>.sbatch     what was submitted
    jobs/<id>/missing-<N>.json  the tiles that round N shares (written by its first task)
    jobs/<id>/missing-<N>.*     empty files, named by the shares of it that a suspect node left, and others took over
    jobs/<id>/log/              what the jobs print

It lies in the run folder, or, for several volumes at once, beside their run folders.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medhpc.errors import NotARun
from medhpc.jobs.chain import Step, Target
from medhpc.run.durable import write_durably

VERSION = 1
JOBS = "jobs"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A chain of jobs, as far as it has been submitted."""

    folder: Path
    cluster: str  # "slurm", "local" or "debug"
    run: str = ""  # id of the run; empty where there are several
    steps: tuple[Step, ...]
    jobs: Mapping[str, str] = field(default_factory=dict)  # step -> job id
    created: str = ""  # UTC
    medhpc: str = ""  # version
    cancelled: str = ""  # when, UTC

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether all of it was submitted."""
        return len(self.jobs) == len(self.steps)

    def comment(self, step: Step) -> str:
        """The comment that a job carries: it tells our jobs from others, whatever their ids."""
        run = f"run={self.run} " if self.run else ""
        return f"medhpc {run}submission={self.id} step={step.name}"

    def log(self, step: str, job: str) -> Path:
        """Where a job writes what it prints; `job` is ``123`` or ``123_7``."""
        return self.folder / "log" / f"{step}-{job}.log"

    def targets_of(self, kind: str) -> list[tuple[Step, Target]]:
        """What the steps of a kind ("plan", "infer", "repair", "stitch") are for."""
        return [(step, target) for step in self.steps if step.kind == kind for target in step.targets]

    def logged(self, step: Step) -> str | None:
        """The job of a step whose id was never heard of, by the name of a log that it wrote."""
        for log in (self.folder / "log").glob(f"{step.name}-*.log"):
            found = re.fullmatch(r"(\d+)(_\d+)?", log.stem.removeprefix(f"{step.name}-"))
            if found:
                return found[1]
        return None

    def with_job(self, step: Step, job: str) -> Submission:
        """The same, one more step submitted, on disk too."""
        return replace(self, jobs={**self.jobs, step.name: job}).saved()

    def saved(self) -> Submission:
        """Write ``submission.json``."""
        content = {
            "version": VERSION,
            "cluster": self.cluster,
            "run": self.run,
            "created": self.created,
            "medhpc": self.medhpc,
            "cancelled": self.cancelled,
            "jobs": dict(self.jobs),
            "steps": [step.as_dict() for step in self.steps],
        }
        write_durably(self.folder / "submission.json", json.dumps(content, indent=1).encode())
        return self

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """Read ``submission.json``.

        Raises
        ------
        NotARun
            It is damaged, or of another version.
        """
        try:
            content: dict[str, Any] = json.loads((folder / "submission.json").read_text())
            version = content.pop("version")
        except (ValueError, KeyError) as error:
            raise NotARun(f"{folder}/submission.json is damaged; remove the folder if no job of it is live") from error
        if version != VERSION:
            raise NotARun(f"{folder}/submission.json has version {version}, this medhpc reads version {VERSION}")
        steps = tuple(Step.from_dict(step) for step in content.pop("steps"))
        return cls(folder=folder, steps=steps, **content)


def utc_now() -> str:
    """The time, to the second."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def new_id() -> str:
    """A name for a submission; later ones sort after earlier ones."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def submissions(run: str | Path) -> list[Submission]:
    """All submissions that have to do with a run, oldest first; those of several volumes lie beside the run."""
    place = Path(run).resolve()
    return of_run(place, [*submissions_in(place), *submissions_in(place.parent)])


def submissions_in(folder: Path) -> list[Submission]:
    """Those that lie in a folder, oldest first."""
    return [Submission.read(path.parent) for path in sorted((folder / JOBS).glob("*/submission.json"))]


def of_run(place: Path, found: Iterable[Submission]) -> list[Submission]:
    """Those among them that have to do with the run at an absolute path, oldest first."""
    ours = [one for one in found if any(target.run == str(place) for step in one.steps for target in step.targets)]
    return sorted(ours, key=lambda one: one.id)
