"""``medhpc infer``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import early, infer_submit, options, ranked, show
from medhpc.errors import BadOption
from medhpc.ranks.launch import launched

if TYPE_CHECKING:
    from medhpc.infer import InferResult, WorkResult
    from medhpc.ranks.group import Ranks


@click.command(short_help="Predict the tiles of a run.")
@click.argument("runs", metavar="RUN", nargs=-1, required=True)
@click.option("--task", metavar="K/N", help="Only share K of N equal shares of the tiles, counted from 1.")
@click.option("--tiles", metavar="A:B", help="Only tiles A to B - 1, counted from 0.")
@click.option("--missing", metavar="FILE", help="Share what is missing as listed in FILE; the first task writes it.")
@click.option("--keep-going", is_flag=True, help="Go on with the other tiles where one fails.")
@options.device
@options.threads
@infer_submit.job_options
@options.as_json
def infer(
    runs: tuple[str, ...],
    task: str | None,
    tiles: str | None,
    missing: str | None,
    keep_going: bool,
    device: str,
    threads: int | None,
    submit: bool,
    as_json: bool,
    **job: Any,
) -> None:
    """Predict the tiles of RUN that are not done yet; again after a kill, it does what is missing or damaged.

    SIGUSR1 ends it after the tile in work, SIGTERM at once; what is computed is kept. With --missing, the tasks of an
    array share the tiles that are missing when the first of them starts, also of several runs.

    Columns (`medhpc tile --scheme columns|sweep`, or --exact) are computed plane by plane: a task that begins or goes
    on in the middle of one computes about twice as many planes before it again as the network sees. Started by
    torchrun or srun, or with --submit, ranks share the rows of the planes (`medhpc tile --ranks`).

    \b
      medhpc infer brain.run
      medhpc infer brain.run --task "$((SLURM_ARRAY_TASK_ID + 1))/32"
      torchrun --nproc-per-node 4 -m medhpc infer brain.run
      medhpc infer brain.run --submit --nodes 4
    """
    if submit:
        infer_submit.submit(_only(runs), job, threads, [task, tiles, missing], as_json)
        return
    ranked.check_no_job()
    from medhpc import infer as inference

    @cache  # once for all runs of a task
    def note(line: str) -> None:
        click.echo(f"medhpc: note: {line}", err=True)

    unit = "tiles" if missing else _unit(_only(runs))
    with (
        inference.ending_on_signals() as stop,
        show.bar("infer", unit) as progress,
        _ranks(device, unit, task) as ranks,
    ):
        result: WorkResult | InferResult
        if missing:
            if not task or tiles:
                raise BadOption("--missing needs --task K/N, and not --tiles: it says which tiles there are to share")
            result = inference.work(
                runs,
                task=task,
                missing=missing,
                device=device,
                threads=threads,
                stop=stop,
                progress=progress,
                note=note,
            )
        else:
            run = _only(runs)
            early.check_share(run, task, tiles)
            result = inference.infer(
                run,
                task=task,
                tiles=tiles,
                device=ranks.device if ranks else device,
                threads=threads,
                keep_going=keep_going,
                stop=stop,
                progress=None if ranks and not ranks.is_first else progress,
                note=note,
                ranks=ranks,
            )
    if ranks and not ranks.is_first:
        return
    if as_json:
        show.as_json(result.as_dict())
    else:
        click.echo("\n".join(_told(result)))
    if result.failed:
        sys.exit(1)


@contextmanager
def _ranks(device: str, unit: str, task: str | None) -> Iterator[Ranks | None]:
    """The processes that share the planes of columns, where torchrun or srun has started several."""
    if task or launched() is None:
        yield None
        return
    if unit == "tiles":
        raise BadOption(
            "ranks share the planes of columns, and these are tiles by themselves: share them by --task K/N"
        )
    from medhpc.ranks.group import joined

    with joined(device) as ranks:
        yield ranks


def _unit(run: str) -> str:
    """What is counted while it is computed."""
    from medhpc.run import Run

    return "planes" if Run(run).plan.sweep else "tiles"


def _only(runs: tuple[str, ...]) -> str:
    if len(runs) > 1:
        raise BadOption(f"{len(runs)} runs can only be shared with --missing FILE --task K/N; else name one run")
    return runs[0]


def _told(result: WorkResult | InferResult) -> list[str]:
    """What was done, a line each."""
    lines = [f"{run.run}: {inferred(run)}" for run in result.runs if run.tiles]
    if not lines:
        return ["nothing to do: no tile of this share is missing"]
    if result.left:
        lines.append(f"ended before the last tile; {result.left} are left to the next call")
    if result.failed:
        lines += [f"{result.failed} tiles failed and are in the ledger as such:", *result.errors]
    return lines


def inferred(result: InferResult) -> str:
    """One line on what a task did."""
    text = f"{result.computed} of {result.tiles} tiles computed in {show.duration(result.seconds)}"
    if result.computed:
        text += f" ({show.number(result.voxels / result.seconds)} voxels/s)"
    if result.repaired:
        text += f", {result.repaired} of them again because their stored bytes were damaged"
    return text + (f"; {result.skipped} were done before" if result.skipped else "")
