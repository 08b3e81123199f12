"""The chain of jobs that is submitted whole, before the first one starts: a pure function of what is asked for.

::

    [plan ->] infer-0, infer-1 ... -> repair-1 -> repair-2 -> stitch

An arrow means: when all of that has ended, however it ended. What is done stands in the ledger only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medhpc.jobs.packing import Ceiling, Packing, Resources, split_array


@dataclass(frozen=True, kw_only=True)
class Target:
    """One volume on its way: its run, and what is to become of it."""

    run: str  # absolute paths
    out: str
    objects: str = ""  # CSV
    volume: str = ""  # where it is still to be planned


@dataclass(frozen=True, kw_only=True)
class Step:
    """One job or job array."""

    name: str  # as infer-0, repair-1, stitch
    kind: str  # "plan", "infer", "repair" or "stitch": which template
    resources: Resources
    targets: tuple[Target, ...]
    tasks: int  # in this array
    offset: int = 0  # of its first task among `of`
    of: int = 0  # tasks that share the tiles; infer and repair only
    concurrent: int | None = None  # tasks at a time
    after: tuple[str, ...] = ()
    missing: str = ""  # path of the list that the tasks share
    options: tuple[str, ...] = ()  # of the command of every task

    @property
    def is_array(self) -> bool:
        """Whether it has several tasks, or one of several shares."""
        return self.tasks > 1 or self.of > 0

    def command(self, index: int) -> list[str]:
        """What task `index` of this array runs: arguments of ``medhpc``."""
        if self.kind in ("infer", "repair"):
            runs = [target.run for target in self.targets]
            task = f"{self.offset + index + 1}/{self.of}"
            return ["infer", "--task", task, "--missing", self.missing, *self.options, "--", *runs]
        target = self.targets[index]
        if self.kind == "plan":
            return ["tile", *self.options, "--", target.volume, target.run]
        table = ["--objects", target.objects] if target.objects else []
        return ["stitch", *self.options, *table, "--", target.run, target.out]

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Step:
        """What :meth:`as_dict` gave, after JSON."""
        parts = {
            "resources": Resources(**fields["resources"]),
            "targets": tuple(Target(**target) for target in fields["targets"]),
            "after": tuple(fields["after"]),
            "options": tuple(fields["options"]),
        }
        return cls(**{**fields, **parts})


def chain(
    targets: Sequence[Target],
    packing: Packing,
    *,
    folder: Path,
    ceiling: Ceiling,
    stitch: Resources,
    rounds: int,
    concurrent: int | None = None,
    plan: Resources | None = None,
    plan_options: Sequence[str] = (),
    infer_options: Sequence[str] = (),
    stitch_options: Sequence[str] = (),
) -> tuple[Step, ...]:
    """All steps in the order of their submission.

    Parameters
    ----------
    targets : sequence of Target
    packing : Packing
        No infer step and no repair where it has no tasks.
    folder : path
        Of the submission: lists of missing tiles lie there.
    ceiling : Ceiling
    plan, stitch : Resources
        For planning a volume (None: all are planned), for stitching one.
    rounds : int
        Of repair.
    concurrent : int, optional
        Tasks at a time, of each array.
    plan_options, infer_options, stitch_options : sequence of str
        Of the commands.
    """
    steps: list[Step] = []
    before: tuple[str, ...] = ()
    unplanned = [target for target in targets if target.volume]
    if unplanned and plan:
        steps += _per_target("plan", unplanned, plan, plan_options, concurrent, ceiling, before)
        before = tuple(step.name for step in steps)
    resources = packing.infer
    for number in range(rounds + 1 if packing.tasks else 0):
        tasks = packing.repair_tasks if number else packing.tasks
        stage = [
            Step(
                name=f"repair-{number}" if number else f"infer-{part}",
                kind="repair" if number else "infer",
                resources=resources,
                targets=tuple(targets),
                tasks=len(array),
                offset=array.start,
                of=tasks,
                concurrent=concurrent,
                after=before,
                missing=str(folder / f"missing-{number}.json"),
                options=tuple(infer_options),
            )
            for part, array in enumerate(split_array(tasks, ceiling.array_size))
        ]
        steps, before = steps + stage, tuple(step.name for step in stage)
        resources = resources.again(ceiling)
    return (*steps, *_per_target("stitch", targets, stitch, stitch_options, concurrent, ceiling, before))


def _per_target(
    kind: str,
    targets: Sequence[Target],
    resources: Resources,
    options: Sequence[str],
    concurrent: int | None,
    ceiling: Ceiling,
    after: tuple[str, ...],
) -> list[Step]:
    """One task for each volume."""
    arrays = split_array(len(targets), ceiling.array_size)
    return [
        Step(
            name=f"{kind}-{part}" if len(arrays) > 1 else kind,
            kind=kind,
            resources=replace(resources, warning=0),  # only infer listens to the signal
            targets=tuple(targets[array.start : array.stop]),
            tasks=len(array),
            concurrent=concurrent,
            after=after,
            options=tuple(options),
        )
        for part, array in enumerate(arrays)
    ]
