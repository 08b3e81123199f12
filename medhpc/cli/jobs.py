"""``medhpc submit``, ``script`` and ``cancel``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, run_options, show
from medhpc.errors import BadOption, NothingToDo

if TYPE_CHECKING:
    from medhpc.jobs import Prepared, Wishes
    from medhpc.jobs.chain import Step

job_options = options.together(
    click.option(
        "--target-time",
        type=options.Duration(),
        default="30m",
        show_default=True,
        metavar="TIME",
        help="How long a task should take: 90s, 30m, 2h; a number alone is minutes.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        metavar="N",
        help="Rounds of repair after the first: what is missing then, with more memory and time each.",
    ),
    click.option(
        "--concurrent", type=click.IntRange(1), metavar="N", help="Tasks at a time; as many as fit otherwise."
    ),
    click.option("--cpus", type=click.IntRange(1), metavar="N", help="Cores of a task; as planned unless given."),
    click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs of a task; 1 where the plan is for one."),
    click.option("--task-memory", type=options.Memory(), metavar="SIZE", help="Memory of a task; as planned."),
    click.option("--partition", metavar="NAME", help="For all steps, instead of those in site.toml."),
    click.option("--account", metavar="NAME", help="For all steps, instead of those in site.toml."),
    click.option("--qos", metavar="NAME", help="For all steps, instead of those in site.toml."),
    click.option(
        "--stitch-workers", type=click.IntRange(2), metavar="N", help="Stitch by so many processes in one job."
    ),
)


@click.command(short_help="Compute and stitch on a cluster.")
@click.argument("sources", metavar="RUN | VOLUME... | DIR", nargs=-1, required=True)
@click.option("--out", metavar="OUT", help="With RUN: the result.")
@click.option("--out-dir", metavar="DIR", help="With VOLUMEs: folder of the results and of their runs.")
@click.option("--suffix", default=".ome.zarr", show_default=True, help="With VOLUMEs: format of the results.")
@click.option("--tasks", type=click.IntRange(1), metavar="N", help="With VOLUMEs: tasks that share all tiles.")
@click.option("--skip-bad", is_flag=True, help="With VOLUMEs: leave out those that cannot be read.")
@job_options
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "local", "debug"]),
    default="slurm",
    show_default=True,
    help="Jobs of SLURM, processes of this machine, or all in this process.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be asked for and the scripts; submit nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@run_options.without_requirement(run_options.tile_options, "network")
@run_options.stitch_options
@options.as_json
def submit(
    sources: tuple[str, ...],
    out: str | None,
    out_dir: str | None,
    suffix: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Submit everything that is left of RUN, up to the result OUT; or plan, compute and stitch each VOLUME into DIR.

    The whole chain is submitted at once, nothing stays behind: an array that computes, arrays that repair what is
    missing then, and a stitch. Submit again to go on with what a chain left behind: DIR alone goes on with its volumes.

    \b
      medhpc submit brain.run --out cells.ome.zarr --as labels --split --objects cells.csv
      medhpc submit a.tif b.tif c.tif --network cells.safetensors --out-dir results --as labels
      medhpc submit results
    """
    from medhpc import jobs

    try:
        prepared = _prepare(sources, out, out_dir, suffix, settings)
    except NothingToDo as found:
        _print_nothing(found, as_json)
        return
    if dry_run:
        _print_scripts(prepared, as_json)
        return
    if prepared.submission.cluster == "slurm":
        jobs.check_free(prepared)
    if not as_json:
        show.fields(_described(prepared))
    if not yes:
        _ask(prepared)
    _submit(prepared, as_json)


@click.command(short_help="Write the sbatch files of a chain.")
@click.argument("run")
@click.option("--out", metavar="OUT", required=True, help="The result.")
@click.option("--to", "folder", metavar="FOLDER", required=True, help="Where to write them; a new or empty folder.")
@job_options
@run_options.stitch_options
def script(run: str, out: str, folder: str, **settings: Any) -> None:
    """Write the sbatch files that ``submit`` would submit for RUN into FOLDER, to read, edit and submit by hand.

    \b
      medhpc script brain.run --out cells.ome.zarr --as labels --to brain.jobs
      brain.jobs/submit.sh
    """
    from medhpc import jobs

    place = Path(folder)
    if place.is_dir() and any(place.iterdir()):
        raise BadOption(f"{folder} is not empty; name a new folder for the scripts")
    prepared = _prepare((run,), out, None, "", {**settings, "cluster": "slurm"}, folder=folder)
    try:
        written = jobs.write_scripts(prepared, place)
    except (FileExistsError, NotADirectoryError):
        raise BadOption(f"{folder} is a file, or below one; name a new folder for the scripts") from None
    click.echo("\n".join(map(str, written)))


@click.command(short_help="End the jobs of a run.")
@click.argument("run")
@options.as_json
def cancel(run: str, as_json: bool) -> None:
    """End every live job of RUN. What is done is kept; ``medhpc submit`` goes on later.

    \b
      medhpc cancel brain.run
    """
    from medhpc import jobs

    ended = jobs.cancel(run)
    if as_json:
        show.as_json({"run": run, "cancelled": ended})
        return
    click.echo(f"ended: {', '.join(ended)}" if ended else f"{run} has no live jobs")
    chains = jobs.submissions(run)[-1:] if ended else []
    together = {target.run for chain in chains for step in chain.steps for target in step.targets}
    if len(together) > 1:
        click.echo(f"these were the jobs of {len(together)} runs; medhpc submit with the same volumes goes on with all")


def _prepare(
    sources: Sequence[str],
    out: str | None,
    out_dir: str | None,
    suffix: str,
    settings: dict[str, Any],
    folder: str | None = None,
) -> Prepared:
    """What is asked for, as a chain of jobs."""
    from medhpc import jobs

    network, objects = settings.get("network"), settings.get("objects")
    wishes = _wishes(settings, folder)
    if network:
        if not out_dir or out:
            raise BadOption("several volumes need --out-dir DIR, the folder of their results (and no --out)")
        if objects:
            raise BadOption(
                "--objects names one table; with VOLUMEs, labels get a table each in --out-dir by themselves"
            )
        prepared = jobs.prepare_volumes(
            sources,
            out_dir,
            network=network,
            suffix=suffix,
            tables=settings["kind"] == "labels",
            engine=settings["engine"],
            memory=settings["memory"],
            tile_options=run_options.arguments(
                run_options.tile_options,
                leave_out=("network", "memory", "channel", "level", "engine", "threads", "device"),
            ),
            channel=settings["channel"],
            level=settings["level"],
            skip_bad=settings["skip_bad"],
            wishes=wishes,
        )
        for target in prepared.targets:
            if not target.volume:
                _check_stitch(target.run, target.out, settings)
        return prepared
    if len(sources) == 1 and not out and not out_dir and jobs.is_folder_of_several(sources[0]):
        _check_no_request(sources[0])
        return jobs.prepare_folder(sources[0], skip_bad=settings["skip_bad"], wishes=wishes)
    if len(sources) > 1 or not out or out_dir:
        raise BadOption("give one planned RUN with --out OUT, or VOLUMEs with --network NET and --out-dir DIR")
    _check_stitch(sources[0], out, settings)
    return jobs.prepare_run(sources[0], out, objects=objects or "", wishes=wishes)


def _check_no_request(folder: str) -> None:
    """Refuse options that are fixed for what was submitted to a folder."""
    given = run_options.arguments(run_options.tile_options) + run_options.arguments(run_options.stitch_options)
    if given:
        raise BadOption(f"{folder} goes on as it was submitted; leave out {given[0]}, or name VOLUMEs and --network")


def _wishes(settings: dict[str, Any], folder: str | None) -> Wishes:
    from medhpc.jobs import Wishes
    from medhpc.jobs.site import load_site

    given = {name: settings[name] for name in ("partition", "account", "qos") if settings[name]}
    return Wishes(
        stitch_options=run_options.arguments(run_options.stitch_options, leave_out=("objects",)),
        stitch_workers=settings["stitch_workers"] or 1,
        target_seconds=settings["target_time"],
        tasks=settings.get("tasks"),
        rounds=settings["retries"],
        concurrent=settings["concurrent"],
        cluster=settings["cluster"],
        cpus=settings["cpus"] or settings.get("threads"),
        gpus=settings["gpus"],
        memory=settings["task_memory"],
        folder=folder,
        site=load_site()[0].with_all(**given),
    )


def _check_stitch(run: str, out: str, settings: dict[str, Any]) -> None:
    """Refuse now what the stitch would refuse at night."""
    from medhpc.run import Run
    from medhpc.stitch.request import Request
    from medhpc.volume import check_writable

    plan = Run(run).plan
    names = {field.name for field in dataclasses.fields(Request)}
    Request(**{name: value for name, value in settings.items() if name in names}).check(plan)
    check_writable(out, plan.source.path)


def _submit(prepared: Prepared, as_json: bool) -> None:
    from medhpc import jobs
    from medhpc.cli.main import run_here

    def tell(line: str) -> None:
        with suppress(BrokenPipeError):  # nobody may listen any more; the chain is submitted whole all the same
            click.echo(line, err=as_json)

    submission = jobs.submit(prepared, call=run_here, progress=tell)
    runs = [target.run for target in prepared.targets]
    if as_json:
        show.as_json({"submission": str(submission.folder), "jobs": dict(submission.jobs), "runs": runs})
    elif submission.cluster == "slurm":
        # A submission lies in jobs/<id> of its run, or of the folder of several.
        tell(f"submitted; medhpc status {show.word(str(submission.folder.parents[1]))} says how far it is")
    if submission.cluster != "slurm":
        _check_results(prepared, tell if submission.cluster == "local" else None)


def _check_results(prepared: Prepared, tell: Callable[[str], None] | None) -> None:
    """Refuse where a result was not made; tell what its stitch had to say of it, as that it is empty."""
    from medhpc.run import Run

    for target in prepared.targets:
        file = Path(target.out.partition(":/")[0])
        if not file.exists():
            raise BadOption(f"{target.out} was not made; {prepared.submission.folder}/log says why")
        note = Run(target.run).results().get(str(file.resolve()))
        if note and tell:
            tell(f"{show.path(target.out)}: {note}")


def _ask(prepared: Prepared) -> None:
    if prepared.submission.cluster != "slurm":
        return
    if not sys.stdin.isatty():
        raise BadOption("nobody is here to ask whether to submit; give --yes (or --dry-run to look first)")
    if not click.confirm("submit?"):
        click.echo("nothing submitted")
        sys.exit(1)


def _print_nothing(found: NothingToDo, as_json: bool) -> None:
    if as_json:
        show.as_json({"submission": None, "jobs": {}, "note": str(found)})
    else:
        click.echo(f"nothing submitted: {found}")


def _print_scripts(prepared: Prepared, as_json: bool) -> None:
    from medhpc import jobs

    texts = jobs.scripts(prepared)
    if as_json:
        show.as_json({"packing": prepared.packing.as_dict(), "scripts": texts})
        return
    for name, text in texts.items():
        click.echo(f"----- {name} -----\n{text}")
    show.fields(_described(prepared))


def _described(prepared: Prepared) -> dict[str, str]:
    """What will be asked for, as lines."""
    packing, cost = prepared.packing, prepared.cost
    lines = {"result": "\n".join(show.path(target.out) for target in prepared.targets)}
    if any(prepared.partitions.values()):
        lines["partition"] = _partitions(prepared.partitions)
    if cost and prepared.tiles is not None:
        lines["tiles"] = f"{prepared.tiles:,} of {prepared.total:,} are to be computed"
        lines["a tile"] = f"{show.duration(cost.seconds)}, {cost.source}"
        if packing.tasks:
            seconds = show.duration(packing.tiles_per_task * cost.seconds)
            lines["a task"] = f"{show.count(packing.tiles_per_task, 'tile')}, about {seconds}"
    lines["steps"] = "\n".join(_step(step) for step in prepared.submission.steps)
    if prepared.needed_bytes:
        lines["disk"] = f"up to {show.size(prepared.needed_bytes)}; {show.size(prepared.free_bytes)} are free"
    there = [show.path(target.out) for target in prepared.targets if Path(target.out.partition(":/")[0]).exists()]
    notes = [*prepared.notes, *(f"{out} is there and will be replaced" for out in there)]
    if notes:
        lines["note"] = "\n".join(notes)
    return lines


def _partitions(partitions: Mapping[str, str]) -> str:
    """One name where all steps go to the same, else one for each."""
    names = set(partitions.values())
    return names.pop() if len(names) == 1 else ", ".join(f"{name} ({step})" for step, name in partitions.items())


def _step(step: Step) -> str:
    resources = step.resources
    tasks = show.count(step.tasks, "task")
    if step.concurrent and step.tasks > step.concurrent:
        tasks += f", {step.concurrent} at a time"
    asked = f"{show.count(resources.cpus, 'core')}, {show.memory(resources.memory)}"
    if resources.gpus:
        asked += f", {show.count(resources.gpus, 'GPU')}"
    after = f", after {', '.join(step.after)}" if step.after else ""
    return f"{step.name}: {tasks} of {asked}, at most {show.duration(resources.seconds)}{after}"
