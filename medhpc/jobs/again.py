"""What earlier submissions asked for: what of it is there, and what is left to be submitted again."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medhpc.errors import BadOption, NotARun, NothingToDo
from medhpc.jobs.chain import Step, Target
from medhpc.jobs.submission import Submission, submissions, submissions_in
from medhpc.run import Run


def unfinished_targets(targets: Sequence[Target], options: Sequence[str]) -> tuple[Target, ...]:
    """Those whose results are not there as a stitch with these options makes them; planned ones without a volume.

    Raises
    ------
    NothingToDo
        All are there.
    """
    left = tuple(_as_planned(target) for target in targets if not is_ready(target, options))
    if targets and not left:
        what = f"{targets[0].out} is" if len(targets) == 1 else f"all {len(targets)} results are"
        raise NothingToDo(f"{what} there already, made with these options; remove what shall be made anew")
    return left


def is_ready(target: Target, options: Sequence[str]) -> bool:
    """Whether the result is there, and the newest submission of its run made it, with these options of the stitch.

    A stitch writes its result only where all tiles are done.
    """
    out, run = Path(target.out.partition(":/")[0]), Path(target.run)
    if not (run / "plan.json").exists() or not out.exists() or str(out.resolve()) not in Run(run).results():
        return False
    if target.objects and not Path(target.objects).exists():
        return False
    for submission in reversed(submissions(run)):
        for step, made in submission.targets_of("stitch"):
            if made.run == str(run.resolve()):
                is_same = (made.out, made.objects, step.options) == (target.out, target.objects, tuple(options))
                return is_same and out.stat().st_mtime >= _time(submission)
    return False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for in a folder of several volumes, and is not there yet."""

    targets: tuple[Target, ...]
    stitch_options: tuple[str, ...]
    stitch_workers: int
    plan: Step | None  # that plans those without a plan; None where all have one
    gpus: int | None  # of a task

    @property
    def network(self) -> str:
        """What volumes are planned with; only where there is a `plan`."""
        words = self.plan.options if self.plan else ()
        return words[words.index("--network") + 1]


def is_folder_of_several(folder: str | Path) -> bool:
    """Whether several volumes were submitted to a folder."""
    return not (Path(folder) / "plan.json").exists() and any(Path(folder).glob("jobs/*/submission.json"))


def asked_in(folder: str | Path) -> Asked:
    """What the submissions to a folder asked for, and is not there yet.

    Raises
    ------
    NotARun
        There is none.
    NothingToDo
        All results are there.
    BadOption
        What is left was submitted with different options.
    """
    latest: dict[str, tuple[Target, Step, Submission]] = {}
    plans: dict[str, Step] = {}
    for submission in submissions_in(Path(folder).resolve()):
        for step, target in submission.targets_of("stitch"):
            before = latest[target.run][0].volume if target.run in latest else ""
            latest[target.run] = (replace(target, volume=target.volume or before), step, submission)
        plans |= {target.run: step for step, target in submission.targets_of("plan")}
    if not latest:
        raise NotARun(f"{folder} holds no submission of several volumes; give a run, or volumes with --network NET")
    left = [one for one in latest.values() if not is_ready(one[0], one[1].options)]
    if not left:
        raise NothingToDo(f"all {len(latest)} results of {folder} are there already")
    targets = tuple(_as_planned(target) for target, _, _ in left)
    needed = {plans[target.run].options: plans[target.run] for target in targets if target.volume}
    wanted = {step.options for _, step, _ in left}
    if len(needed) > 1 or len(wanted) > 1:
        raise BadOption(
            f"what is left in {folder} was submitted with different options; give the medhpc submit command of each "
            f"again: there are {', '.join(sorted(Path(target.run).name for target in targets))}"
        )
    infer = next((step for step in left[-1][2].steps if step.kind == "infer"), None)
    options, workers = _without_workers(wanted.pop())
    return Asked(
        targets=targets,
        stitch_options=options,
        stitch_workers=workers,
        plan=next(iter(needed.values()), None),
        gpus=infer.resources.gpus if infer else None,
    )


def _as_planned(target: Target) -> Target:
    """Without its volume where it has a plan."""
    return replace(target, volume="") if (Path(target.run) / "plan.json").exists() else target


def _without_workers(options: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The options of a stitch, and the number of its processes, which stands last among them where it is not one."""
    if len(options) > 1 and options[-2] == "--dask":
        return options[:-2], int(options[-1].rpartition(":")[2])
    return options, 1


def _time(submission: Submission) -> float:
    """When it was made, in seconds since 1970."""
    return datetime.datetime.fromisoformat(submission.created).timestamp()
