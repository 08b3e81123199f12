"""``medhpc tile``, ``stitch``, ``run`` and ``clean``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import early, options, run_options, show, workers
from medhpc.cli.infer import inferred
from medhpc.cli.plan import print_plan
from medhpc.cli.status_words import on_login_node
from medhpc.errors import NoResult, NotARun

if TYPE_CHECKING:
    from medhpc.run import Plan
    from medhpc.stitch import StitchResult


@click.command(short_help="Plan a run: tiles, halo, cost.")
@click.argument("volume")
@click.argument("run")
@run_options.tile_options
@options.as_json
def tile(volume: str, run: str, as_json: bool, **settings: Any) -> None:
    """Plan the tiles of VOLUME in the new folder RUN, and print what they will cost. Nothing is predicted yet.

    \b
      medhpc tile brain.tif brain.run --network cells.safetensors
      medhpc tile brain.tif part.run --network cells.safetensors --region :,:,:330 --halo exact --memory 16G
    """
    early.check_volume(volume, settings["channel"], settings["level"])
    early.check_network(settings["network"])
    from medhpc import tiling

    with show.stages(first="planning") as report:
        plan = tiling.tile(volume, run, report=report, **settings)
    summary = tiling.summarize(plan, run)
    if as_json:
        show.as_json(summary)
    else:
        print_plan(summary, next=_next(run, summary["ranks"]))


def _next(run: str, ranks: int) -> str:
    """What computes the tiles of a new run: on a login node, jobs first."""
    here = f"medhpc infer {show.word(run)}"
    if ranks > 1:
        return f"{here} --submit\nor on this machine: torchrun --nproc-per-node {ranks} -m {here}"
    if not on_login_node():
        return here
    return f"medhpc submit {show.word(run)} --out OUT\nor on this machine: {here}"


@click.command(short_help="Put the tiles of a run together.")
@click.argument("run")
@click.argument("out")
@run_options.stitch_options
@workers.dask_options
@options.as_json
def stitch(
    run: str,
    out: str,
    dask: str | None,
    worker_cpus: int | None,
    worker_memory: int,
    worker_time: float,
    as_json: bool,
    **settings: Any,
) -> None:
    """Put the tiles of RUN together and write OUT, in the format of its suffix; refuses while tiles are missing.

    --as probability writes one number a voxel (a channel for each class): 0 to 255, p = number / 255. From a run with
    --dtype float16 it is p itself.

    \b
      medhpc stitch brain.run mask.tif
      medhpc stitch brain.run cells.ome.zarr --as labels --split --min-size 50 --objects cells.csv
      medhpc stitch brain.run cells.ome.zarr --dask slurm:8 --worker-cpus 4 --worker-memory 32G --worker-time 4h
    """
    from medhpc import stitch as stitching

    jobs = workers.worker_jobs(worker_cpus, worker_memory, worker_time) if (dask or "").startswith("slurm") else None
    with show.bar("stitch", "slabs") as progress:
        result = stitching.stitch(run, out, dask=dask, worker_jobs=jobs, progress=progress, **settings)
    if as_json:
        show.as_json(result.as_dict())
    else:
        show.fields(_stitched(result))


@click.command(short_help="Tile, infer and stitch in one.")
@click.argument("volume")
@click.argument("out")
@run_options.tile_options
@run_options.stitch_options
@click.option("--run-folder", metavar="RUN", help="Where tiles are kept meanwhile; OUT.run unless given.")
@click.option("--keep", is_flag=True, help="Keep the run folder when the result is written.")
@options.as_json
def run(volume: str, out: str, as_json: bool, **settings: Any) -> None:
    """Tile, infer and stitch in one: from VOLUME to OUT. Killed, it goes on where it was.

    \b
      medhpc run brain.tif cells.ome.zarr --network cells.safetensors --as labels --split --objects cells.csv
    """
    early.check_volume(volume, settings["channel"], settings["level"])
    early.check_network(settings["network"])
    early.check_out(out, volume)
    from medhpc import pipeline, tiling

    summary: dict[str, Any] = {}

    def planned(plan: Plan, folder: Path) -> None:
        summary.update(tiling.summarize(plan, folder))
        if not as_json:
            print_plan(summary)

    with show.stages(first="planning") as report:
        result = pipeline.run(volume, out, planned=planned, report=report, **settings)
    if as_json:
        show.as_json({"plan": summary, "infer": result.infer.as_dict(), "stitch": result.stitch.as_dict()})
    else:
        click.echo(f"\n{inferred(result.infer)}\n")
        show.fields(_stitched(result.stitch))


@click.command(short_help="Remove what a finished run no longer needs.")
@click.argument("run", metavar="RUN | DIR")
@click.option("--force", is_flag=True, help="Also where no result has been stitched.")
def clean(run: str, force: bool) -> None:
    """Remove from RUN what its result no longer needs: stored tiles, copies, scratch. The plan and the ledger stay.

    Of DIR, the --out-dir of several volumes, from each run that has its result; the others are left as they are.

    \b
      medhpc clean brain.run
    """
    from medhpc import run as runs
    from medhpc.jobs.watch import runs_of

    found = runs_of(run)
    if found == [Path(run)]:
        click.echo(f"{show.size(runs.clean(run, force=force))} freed in {run}")
        return
    for each in found:
        click.echo(_cleaned(each, force))


def _cleaned(run: Path, force: bool) -> str:
    """Clean one of several runs, and tell what became of it."""
    from medhpc import run as runs

    try:
        return f"{show.size(runs.clean(run, force=force))} freed in {show.path(str(run))}"
    except (NoResult, NotARun) as error:
        kept = "it has no result yet" if isinstance(error, NoResult) else "it has no plan"
        return f"{show.path(str(run))} is left as it is: {kept}"


def _stitched(result: StitchResult) -> dict[str, str]:
    """What was written."""
    seconds = show.duration(result.seconds)
    lines = {"result": f"{result.out}\n{result.kind}, {show.shape(result.shape)} {result.dtype}, in {seconds}"}
    if result.objects is not None:
        lines["objects"] = f"{result.objects:,}" + (f", listed in {result.table}" if result.table else "")
    if result.left_whole:
        lines["objects"] += f"; {result.left_whole:,} too large to be split"
    return lines | ({"note": result.note} if result.note else {})
