"""``medhpc train``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import early, options, ranked, show, train_submit
from medhpc.errors import BadOption
from medhpc.ranks.launch import launched

if TYPE_CHECKING:
    from medhpc.train.options import Options
    from medhpc.train.planning import Choice
    from medhpc.train.results import Standing, TrainingResult

FEW = 10
"""Steps a layer, below which a network is told to be untrained."""
OVERFIT = 3
"""Times the loss in training, from which the loss on the held-out slab is told."""


@click.group()
def train() -> None:
    """Train a network from a few annotations."""


@train.command()
@click.argument("files", nargs=-1, required=True, metavar="VOLUME TRUTH [VOLUME TRUTH ...]")
@click.option("--out", required=True, metavar="NET", help="Network to write (.safetensors); pictures go beside it.")
@click.option(
    "--depth",
    type=click.IntRange(1),
    metavar="D",
    help="Layers: what this machine trains in the time given, unless said; Pelt & Sethian (PNAS 2018) used 100.",
)
@click.option("--width", type=click.IntRange(1), default=1, show_default=True, metavar="W", help="Channels per layer.")
@click.option("--radius", type=click.FloatRange(0, min_open=True), metavar="UM", help="Radius drawn around points, um.")
@options.region
@click.option(
    "--voxel-size",
    "voxel_size_um",
    type=options.VoxelSize(),
    help="In um, where files have none or a wrong one.",
)
@click.option("--patch", type=options.IndexOr(), help="Voxels per patch; 48,64,64 unless given (2D: 1,384,384).")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="Stop after this time; 10 unless given."
)
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Stop after this many steps instead.")
@click.option(
    "--truth",
    type=click.Choice(["auto", "labels", "points"]),
    default="auto",
    show_default=True,
    help="What a TRUTH volume holds: labels, or single voxels that mark centres.",
)
@click.option(
    "--background",
    default="all",
    show_default=True,
    metavar="all|near|LABEL",
    help="What counts as background: all the rest, a shell around each point, or the voxels of one label value.",
)
@click.option("--ignore", type=int, metavar="LABEL", help="Voxels of this label teach nothing.")
@click.option(
    "--classes",
    metavar="NAME=LABELS,...",
    help="Label values of each class: 'bone=26-50,92-116,liver=5'; one class unless given.",
)
@click.option(
    "--normalize",
    type=click.Choice(["volume", "network"]),
    default="volume",
    show_default=True,
    help="Intensities by each volume's own mean and deviation, or by those of all together.",
)
@click.option("--ndim", type=click.IntRange(2, 3), help="2 looks at each plane by itself; 3 unless there is one plane.")
@click.option(
    "--validation",
    type=click.FloatRange(0, 0.5),
    default=0.15,
    show_default=True,
    metavar="F",
    help="Fraction of the region that is held out to judge the network.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the weights and the patches.")
@click.option("--plan", is_flag=True, help="Tell what the time allows on patches of several sizes, and train nothing.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from a checkpoint, or begin anew.")
@options.device
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the computing; weights stay float32.",
)
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Patches per step; one for each rank unless given.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="N",
    help="End early where N judgements in a row are no better; all of the time is used unless given.",
)
@options.threads
@train_submit.job_options
@options.as_json
def msd(files: tuple[str, ...], plan: bool, submit: bool, as_json: bool, **settings: Any) -> None:
    """Train a mixed-scale dense network on pairs of a volume and its annotation.

    TRUTH is a label volume, or points: CSV with columns z,y,x (voxels) or z_um,y_um,x_um, CellCounter XML, or a
    volume in which single voxels mark the centres. Killed, it resumes from its last checkpoint (NET.checkpoint), which
    SIGUSR1 writes at once; Ctrl-C and SIGTERM end it behind a step with nothing lost.

    The network is judged 20 times on what is held out. Kept is the last one in the second half of the training whose
    Dice is within 0.005 of the best there: so small a difference means nothing, and it has learnt longer.
    With --patience N, a training that is past its half ends early where N judgements in a row bettered neither Dice
    (by 0.005) nor loss (by 1 %): within two more, its learning rate falls to zero, which part of the quality is due to.

    How far --minutes gets, and how deep a network it chooses, depends on the machine: repeat a result by --steps and
    --depth.

    With --plan, a few steps are measured on patches of several sizes. For each size it tells the depth that is trained
    well in the time given (25 steps a layer), seconds a step, steps in all, and the memory of maps and gradients.

    Started by srun or torchrun, or with --submit, its ranks share the patches of a step (--batch): a step of as many
    patches as there are ranks takes the time of one. But for rounding, the weights depend on --batch, not on the number
    of ranks. A job that its time ends goes on where it was: submit the same command again.

    \b
      medhpc train msd brain.tif cells.csv --out cells.safetensors --radius 6 --minutes 10
      medhpc train msd brain.tif cells.csv --out cells.safetensors --radius 6 --minutes 60 --plan
      medhpc train msd ovule.h5:/raw ovule.h5:/label --out nuclei.safetensors --region 0:50,:,:
      medhpc train msd brain.tif cells.csv --out cells.safetensors --radius 6 --minutes 60 --submit --nodes 4
    """
    if len(files) % 2:
        raise click.UsageError(f"{len(files)} files given; VOLUME and TRUTH come in pairs")
    pairs = list(zip(files[::2], files[1::2], strict=True))
    if launched() is None:  # several ranks check together, so that one of them tells what is wrong
        for volume, _ in pairs:
            early.check_volume(volume)
        early.check_network_name(settings["out"])
    job = {name: settings.pop(name) for name in ranked.JOBS}
    if submit:
        if plan:
            raise BadOption("--plan measures on this machine, and --submit computes on others: give one of them")
        train_submit.submit(pairs, job, settings, _options(pairs, settings), as_json)
        return
    ranked.check_no_job()
    if plan:
        _tell_plan(pairs, as_json, settings)
        return
    _train(pairs, as_json, settings)


def _train(pairs: Sequence[tuple[str, str]], as_json: bool, settings: dict[str, Any]) -> None:
    from medhpc.ranks.group import joined
    from medhpc.ranks.saving import no_end_by_signal
    from medhpc.train.msd import train_msd

    told: dict[str, Any] = {} if as_json else {"report": _tell, "say": click.echo}
    with no_end_by_signal(), joined(settings.pop("device")) as ranks, _progress(as_json) as progress:
        result = train_msd(pairs, progress=progress, device=ranks.device, ranks=ranks, **told, **settings)
    if not ranks.is_first:
        return
    if as_json:
        show.as_json(result.as_dict())
    else:
        show.fields(_lines(result))


def _tell_plan(pairs: Sequence[tuple[str, str]], as_json: bool, settings: Mapping[str, Any]) -> None:
    from medhpc.engine.threads import usable_threads
    from medhpc.train.planning import plan_training

    choices = plan_training(pairs, _options(pairs, settings), device=settings["device"], threads=settings["threads"])
    if as_json:
        show.as_json({"choices": [choice.as_dict() for choice in choices]})
        return
    click.echo(show.table([_row(choice) for choice in choices]))
    click.echo(f"Measured here: device {settings['device']}, threads: {settings['threads'] or usable_threads()}.")
    click.echo("The first is taken; --patch and --depth take another.")
    if not all(choice.suffices for choice in choices):
        click.echo("few: fewer than 25 steps a layer, which is too short a time for such a depth")


def _options(pairs: Sequence[tuple[str, str]], settings: Mapping[str, Any]) -> Options:
    """Options as the library knows them."""
    from medhpc.train.options import options_of

    here = ("out", "resume", "device", "threads")
    known = {name: value for name, value in settings.items() if name not in here}
    return options_of(pairs, **{**known, "batch": known["batch"] or 1})


def _row(choice: Choice) -> dict[str, str]:
    return {
        "patch": ",".join(map(str, choice.patch)),
        "depth": str(choice.depth),
        "seconds a step": f"{choice.seconds_per_step:.2g}",
        "steps": f"{choice.steps:,}",
        "time": show.duration(choice.steps * choice.seconds_per_step),
        "memory": show.memory(choice.bytes),
        "": "" if choice.suffices else "few",
    }


@contextmanager
def _progress(as_json: bool) -> Iterator[show.Progress | None]:
    """A bar on a terminal; elsewhere the lines after each judgement are progress enough, and JSON has none of them."""
    if sys.stderr.isatty() or as_json:
        with show.bar("train", "steps") as progress:
            yield progress
    else:
        yield None


def _tell(standing: Standing) -> None:
    """One line after each judgement."""
    click.echo(str(standing))


def _lines(result: TrainingResult) -> dict[str, str]:
    """What came of a training."""
    lines = {
        "network": f"{result.network}\n{_architecture(result)}",
        "trained": f"{result.steps:,} steps in {show.duration(result.seconds)} ({result.device}, {result.precision})",
        "pictures": f"{result.curve}",
    }
    if result.resumed_at:
        lines["trained"] += f", the first {result.resumed_at:,} before it was interrupted"
    if result.slices:
        judged = f"Dice {result.dice:.3f}, loss {result.validation_loss:.4f} on the held-out slab"
        lines["best"] = (
            f"step {result.best_step:,}, which is kept: {judged}\n"
            "the last in the second half of the training within 0.005 of the best Dice there"
        )
        lines["pictures"] += f"\n{result.slices}"
    if result.stalled:
        lines["ended"] = f"early: {result.stalled}"
    if note := _note(result):
        lines["note"] = note
    return lines


def _note(result: TrainingResult) -> str:
    """What to do about a poor network; empty where there is nothing to say."""
    from medhpc.train.depth import STEPS_PER_LAYER

    if result.validation_loss > OVERFIT * result.loss:
        return (
            f"the held-out loss is {result.validation_loss / result.loss:.2g} times that of training: it learns its "
            "labels by heart\n(overfitting), or what is held out looks different; more labels, in more places, help "
            "more than more time"
        )
    if result.steps < FEW * result.depth:
        enough = show.count(STEPS_PER_LAYER * result.depth, "step")
        return (
            f"{result.steps:,} steps are few for depth {result.depth}, which {enough} train well: its Dice means little"
        )
    if result.dice < 0.05:
        return "this network finds next to nothing in the held-out slab: train it longer (--minutes, --steps)"
    return ""


def _architecture(result: TrainingResult) -> str:
    size = f"depth {result.depth}, width {result.width}, {result.parameters:,} parameters"
    return f"MS-D {result.ndim}D, {size}, receptive radius {result.receptive_radius} voxels"
