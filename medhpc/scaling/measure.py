"""One plan, computed by several numbers of ranks or tasks, each from nothing.

::

    FOLDER/plan.run/        the plan, never computed; the copy of the input, where one is needed
    FOLDER/count-1.run/     the result that the others are compared with
    FOLDER/count-N.run/     another, until it is compared
    FOLDER/log/N/           what its processes said
    FOLDER/scaling.json     all that is known, written anew after each count
    FOLDER/scaling.png

The first count may read the volume from the disk, and the later ones from memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medhpc import engine as engines
from medhpc import nets
from medhpc.engine.threads import usable_threads
from medhpc.errors import BadOption, RunNotEmpty
from medhpc.infer.clock import Spent
from medhpc.nets import MSD
from medhpc.run import Plan, Run
from medhpc.run.durable import write_durably
from medhpc.run.folder import create_run
from medhpc.run.plan import BASE
from medhpc.scaling.drawing import picture
from medhpc.scaling.ghosts import cost_of_ghosts
from medhpc.scaling.model import Link, Predicted, Rates, predict
from medhpc.scaling.processes import check_place, ended, ranks_of, tasks_of
from medhpc.scaling.results import Measured, Scaling
from medhpc.scaling.shares import Share, shares_of_ranks, shares_of_tasks
from medhpc.tiling import tile
from medhpc.tiling.planning import requested

COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""What is predicted, besides what is measured."""
PLANES = 64
"""That are compared at a time."""


def scaling(
    volume: str | Path,
    folder: str | Path,
    *,
    network: str | Path,
    by: str = "ranks",
    on: str = "local",
    counts: Sequence[int] = (1, 2, 4),
    threads: int | None = None,
    device: str = "auto",
    report: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> Scaling:
    """Compute a volume by several numbers of ranks or tasks; called again, it does the counts that are not done.

    Parameters
    ----------
    volume : path
    folder : path
        Of what is measured: new, or of the same options.
    network : path
    by : {"ranks", "tasks"}
        Ranks share the rows of columns; tasks share tiles.
    on : {"local", "slurm"}
        Processes of this machine, or steps (srun) of the allocation that this runs in.
    counts : sequence of int
        With 1 among them.
    threads : int, optional
        Of each rank or task; unless given, what the largest count leaves.
    device
        As for :func:`medhpc.infer.infer`.
    report : callable, optional
        Called with (stage, done, total).
    **options
        Of :func:`medhpc.tiling.tile`.

    Raises
    ------
    BadOption
        Counts that cannot be, or ranks for tiles by themselves.
    RunNotEmpty
        The folder holds figures of other options.
    RankLost
        A process failed; the counts before it are kept.
    """
    wanted, place = checked(counts), Path(folder)
    check_place(on)
    plan = _planned(volume, place, dict(options, network=network, device=device), report)
    left = usable_threads() // (1 if on == "slurm" else wanted[-1])
    threads = threads or _threads_before(place) or max(1, left)
    new = Scaling(by=by, on=on, threads=threads, device=device, cores=usable_threads(), plan=plan.digest)
    found = _begun(place, new)
    work = _Work.of(plan, by, device)
    for count in wanted:  # before the first one is computed
        work.shares(count)
    todo = [count for count in wanted if count not in [one.count for one in found.measured]]
    for number, count in enumerate(todo):
        if report:
            report(f"{count} {by if count > 1 else by.removesuffix('s')}", number, len(todo))
        found = _with(found, _measured(place, plan, found, count))
        if count > 1 and by == "ranks" and not found.link:
            found = replace(found, link=_link(place, found))
        found = replace(found, predicted=tuple(_predictions(work, found)))
        _write(place, found)
    return found


def checked(counts: Sequence[int]) -> list[int]:
    """Counts in order, each once.

    Raises
    ------
    BadOption
        One is below 1, or 1 is not among them.
    """
    found = sorted(set(counts))
    if not found or found[0] != 1:
        text = ",".join(map(str, counts))
        raise BadOption(f"counts {text} begin with {found[0] if found else 'nothing'}: all is compared with 1, add it")
    return found


# --- the plan ------------------------------------------------------------------------------------


def _planned(
    volume: str | Path, folder: Path, options: dict[str, Any], report: Callable[[str, int, int], None] | None
) -> Plan:
    """The plan of this folder, made now or before by the same options."""
    run = folder / "plan.run"
    if not (run / "plan.json").exists():
        return tile(volume, run, report=report, **options)
    plan, asked = Run(run).plan, requested(volume=volume, **options)
    differing = sorted(name for name in asked if asked[name] != plan.request.get(name))
    if differing and not (folder / "scaling.json").exists():  # nothing was measured by that plan
        shutil.rmtree(run)
        return tile(volume, run, report=report, **options)
    if differing:
        name = differing[0]
        raise RunNotEmpty(
            f"{folder} holds figures with {name} = {plan.request.get(name)}, now {asked[name]} is asked for; name "
            "another folder"
        )
    return plan


def _threads_before(folder: Path) -> int | None:
    file = folder / "scaling.json"
    return Scaling.read(file).threads if file.exists() else None


def _begun(folder: Path, wanted: Scaling) -> Scaling:
    """What was measured here before, of the same plan in the same way."""
    file = folder / "scaling.json"
    if not file.exists():
        return wanted
    before = Scaling.read(file)
    for name in ("by", "on", "threads", "device", "plan", *(["cores"] if wanted.on == "local" else [])):
        was, is_now = getattr(before, name), getattr(wanted, name)
        if was != is_now:
            raise RunNotEmpty(f"{folder} holds figures with {name} = {was}, now it is {is_now}; name another folder")
    return before


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be shared, and what decides the shares."""

    plan: Plan
    by: str
    network: Any = None  # of a sweep
    around: int = 0  # planes that a task of a sweep computes before its own
    ghost: float = 0.0  # seconds of a row that a rank gets, in those of a row that it computes

    @classmethod
    def of(cls, plan: Plan, by: str, device: str) -> _Work:
        if by == "ranks" and not plan.sweep:
            raise BadOption(
                "ranks share the rows of planes, and this plan has boxes: add --scheme sweep, --scheme columns or "
                "--exact, or share tiles by --by tasks"
            )
        if not plan.sweep:
            return cls(plan=plan, by=by)
        network = nets.load(plan.network.path)
        engine = engines.load(network, name=plan.cost.engine, device=device, threads=1)
        step = plan.sweep.step
        ghost = cost_of_ghosts(engine, plan.columns[0].read.shape[2], step) if by == "ranks" else 0.0
        return cls(plan=plan, by=by, network=network, around=engine.sweep_warm_up(step), ghost=ghost)

    def shares(self, count: int) -> list[Share]:
        """Of so many."""
        if self.by == "tasks":
            return shares_of_tasks(self.plan, count, self.around)
        assert isinstance(self.network, MSD)
        return shares_of_ranks(self.plan, self.network, count)


# --- one count -----------------------------------------------------------------------------------


def _measured(folder: Path, plan: Plan, found: Scaling, count: int) -> Measured:
    """Compute all of it, and compare."""
    run = _fresh(folder, plan, count)
    words = ["medhpc", "infer", str(run), "--device", found.device, "--threads", str(found.threads), "--json"]
    start = ranks_of if found.by == "ranks" else tasks_of
    results = ended(start(words, count, found.on, found.threads), folder / "log" / str(count))
    spent = [Spent(**one) for result in results for one in result["ranks"]]
    difference = 0 if count == 1 else _difference(_run_of(folder, 1), run)
    if count > 1:
        shutil.rmtree(run)
    return Measured(
        count=count,
        seconds=max(one.seconds - one.start for one in spent),
        difference=difference,
        spent=tuple(spent),
    )


def _run_of(folder: Path, count: int) -> Path:
    return folder / f"count-{count}.run"


def _fresh(folder: Path, plan: Plan, count: int) -> Path:
    """A run of this plan in which nothing is done; the copy of the input, if there is one, is the plan's."""
    run = _run_of(folder, count)
    if run.exists():  # it was cut short
        shutil.rmtree(run)
    run.mkdir()
    if plan.source.copy:
        (run / "source").symlink_to((folder / "plan.run" / "source").resolve(), target_is_directory=True)
    create_run(run, plan)
    return run


def _difference(first: Path, second: Path) -> int:
    """The largest difference of two results, in steps of what is stored (a 255th of the range of real numbers)."""
    runs = [Run(run) for run in (first, second)]
    arrays, region = [run.shards.array for run in runs], runs[0].plan.region
    z0, z1 = region.start[0], region.stop[0]
    most = spread = 0.0
    for z in range(z0, z1, PLANES):
        place = (slice(None), slice(z, min(z + PLANES, z1)), *region.slices[1:])
        one, other = (np.asarray(array[place], np.float64) for array in arrays)
        most, spread = max(most, float(np.abs(one - other).max())), max(spread, float(np.ptp(one)))
    if np.dtype(runs[0].plan.stored.dtype).kind in "iu":
        return int(most)
    return int(np.rint(255 * most / spread)) if spread else int(most > 0)


def _link(folder: Path, found: Scaling) -> Link:
    """Measured between two ranks."""
    two = ranks_of(["medhpc.ranks.ping", found.device], 2, found.on, found.threads)
    [measured] = ended(two, folder / "log" / "ping")
    return Link(**measured)


def _with(found: Scaling, one: Measured) -> Scaling:
    rows = sorted((*found.measured, one), key=lambda row: row.count)
    return replace(found, measured=tuple(rows))


# --- what follows from it ------------------------------------------------------------------------


def _predictions(work: _Work, found: Scaling) -> list[Predicted]:
    """Of all counts that this plan can be shared by."""
    plan, one, known = work.plan, found.measured[0], [row.count for row in found.measured]
    known_of_one = {"memory": plan.memory_bytes, "base": BASE}
    rates = Rates.of(one.spent[0], work.shares(1)[0], **known_of_one, link=found.link, ghost=work.ghost)
    counts = {*known, *COUNTS} if found.link or found.by == "tasks" else set(known)
    rows = []
    for count in sorted(counts):
        try:
            shares = work.shares(count)
        except BadOption:  # more ranks than rows allow
            break
        rows.append(predict(rates, shares, in_step=found.by == "ranks"))
    return rows


def _write(folder: Path, found: Scaling) -> None:
    """All that is known."""
    write_durably(folder / "scaling.json", (json.dumps(found.as_dict(), indent=1) + "\n").encode())
    write_durably(folder / "scaling.png", picture(found))
