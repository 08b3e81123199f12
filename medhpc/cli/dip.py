"""``medhpc dip``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import dip_submit, early, options, ranked, show
from medhpc.ranks.launch import launched

if TYPE_CHECKING:
    from medhpc.dip.options import Options
    from medhpc.dip.results import DipResult, Standing
    from medhpc.ranks.group import Ranks

LIVE_SECONDS = 0.5  # between two lines on a terminal, each in place of the one before


network = options.together(
    click.option(
        "--method",
        type=click.Choice(["dip", "r2r"]),
        default="dip",
        show_default=True,
        help="dip: a network makes the image of a random code; r2r: it is taught by noise added (white noise only).",
    ),
    click.option(
        "--preset",
        type=click.Choice(["paper", "small"]),
        default="paper",
        show_default=True,
        help="paper: 128 channels on 5 levels, for a GPU; small: 16, 32, 48, for CPUs.",
    ),
    click.option("--channels", type=click.IntRange(1), metavar="C", help="Channels of every level."),
    click.option(
        "--scales",
        type=click.IntRange(1, 10),
        metavar="N",
        help="Levels of the network (default: 5 or 3).",
    ),
    click.option(
        "--factor",
        type=click.Choice(["1", "2", "4"]),
        default="1",
        show_default=True,
        help="Make an image that is so many times finer along each axis (method dip).",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Of the convolutions: bf16 on GPUs that have it, fp32 on CPUs.",
    ),
    click.option(
        "--checkpoint",
        type=click.IntRange(0),
        metavar="N",
        help="Levels, from the finest on, that are computed twice and not kept: less memory, a third more time "
        "(default: as few as fit into the GPU, none on a CPU).",
    ),
)


@click.command(short_help="Denoise a volume by a network that sees nothing else.")
@click.argument("noisy")
@click.argument("clean")
@network
@click.option(
    "--iterations",
    type=click.IntRange(1),
    metavar="N",
    help="At most so many (default: paper 3000, small 2500; r2r 200 to 800, by the noise).",
)
@click.option(
    "--noise",
    type=click.Choice(["auto", "gaussian", "rician"]),
    default="auto",
    show_default=True,
    help="Rician is that of MR magnitude images; auto looks at the air around the body.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Standard deviation of the noise, in the volume's numbers; measured unless given.",
)
@click.option(
    "--stop",
    type=click.Choice(["auto", "held-out", "emv", "none"]),
    default="auto",
    show_default=True,
    help="When: at the least error of voxels held out, at the least variance of the outputs (emv), or at the last "
    "iteration (none); auto: held-out, and none for r2r.",
)
@click.option(
    "--tv",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="W",
    help="Weight of total variation.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="Average of so many runs, with their standard deviation as CLEAN.std.",
)
@click.option(
    "--mask", metavar="M", help="Volume of known voxels; where it is zero, the image is restored (method dip)."
)
@click.option("--truth", metavar="T", help="Volume without noise, to judge by: PSNR and SSIM.")
@click.option(
    "--data-range",
    type=click.FloatRange(0, min_open=True),
    metavar="R",
    help="What PSNR is relative to; the range of the truth unless given.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Run non-local means and total variation beside it, tuned by the truth if there is one.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the first run.",
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from a checkpoint, or begin anew.")
@click.option(
    "--parallel",
    type=click.Choice(["spatial", "layers"]),
    default="spatial",
    show_default=True,
    help="spatial: each rank has a slab of the volume; layers: two GPUs have half of the network's layers each, which "
    "leaves nearly all memory to the second (see dip-plan).",
)
@options.channel
@options.device
@options.threads
@dip_submit.job_options
@options.as_json
def dip(
    noisy: str,
    clean: str,
    checkpoint: int | None,
    mask: str | None,
    truth: str | None,
    data_range: float | None,
    compare: bool,
    resume: bool,
    parallel: str,
    channel: int | None,
    device: str,
    threads: int | None,
    submit: bool,
    nodes: int,
    gpus: int,
    time: float,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Denoise NOISY and write CLEAN; no other image is needed (Deep Image Prior).

    NOISY is a volume or a picture of any format that 'medhpc info' reads. The colours of a picture are denoised
    together, the channels of a volume and the volumes of a NIfTI time series one by one. CLEAN has the shape, colours,
    voxel type, voxel size and NIfTI header of NOISY; values are rounded to whole numbers where NOISY has these. (Those
    that a NIfTI header scales by a fraction become float32: what is found lies between their steps.)

    Beside CLEAN lie CLEAN.dip.png, with curves and slices to look at, and CLEAN.dip.json, with all numbers. Killed, the
    same command goes on from its last minute; Ctrl-C and SIGTERM end it behind an iteration with nothing lost, SIGUSR1
    writes a checkpoint.

    Said while it runs: loss, the squared error against the noisy image (1: its range); EMV, the variance of the last
    outputs, which falls while the image is learnt and rises when noise is.

    Started by srun or torchrun, or with --submit, its ranks share the volume: each reads and holds a slab of it, and
    the result does not depend on their number.

    \b
      medhpc dip head.nii.gz clean.nii.gz                                 (on a GPU)
      medhpc dip head.nii.gz clean.nii.gz --preset small --method r2r     (on a CPU, white noise)
      medhpc dip photo.png clean.png --preset small
      medhpc dip head.nii.gz clean.nii.gz --submit --nodes 2 --gpus 4
    """
    if launched() is None:  # several ranks check together, so that one of them tells what is wrong
        early.check_volume(noisy, channel, series=True)
        early.check_out(clean, noisy, photos=True)
    from medhpc.dip.denoise import denoise
    from medhpc.ranks.group import joined
    from medhpc.ranks.saving import no_end_by_signal

    if submit:
        job = {"nodes": nodes, "gpus": gpus, "time": time, "dry_run": dry_run}
        about = {**job, "threads": threads, "channel": channel, "checkpoint": checkpoint, "parallel": parallel}
        about["whole"] = compare or truth is not None  # the first rank holds all then
        dip_submit.submit(noisy, clean, options_of(settings), about, as_json)
        return
    ranked.check_no_job()
    with no_end_by_signal(), joined(device) as ranks, _telling() as tell:
        with ranks.agreed():
            chosen = options_of(settings)
            _advise(chosen, ranks)
        result = denoise(
            noisy,
            clean,
            options=chosen,
            mask=mask,
            truth=truth,
            data_range=data_range,
            channel=channel,
            checkpointed=checkpoint,
            compare=compare,
            device=ranks.device,
            threads=threads,
            resume=resume,
            parallel=parallel,
            ranks=ranks,
            progress=tell,
        )
    if result is None:  # another rank has it
        return
    if as_json:
        show.as_json(result.as_dict())
    else:
        _print(result)


def options_of(settings: dict[str, Any]) -> Options:
    """Options as the library knows them."""
    from medhpc.dip.options import Options

    return Options(**{**settings, "factor": int(settings["factor"])})


def _advise(chosen: Options, ranks: Ranks) -> None:
    """Say what will take very long."""
    from medhpc import engine
    from medhpc.nets.identity import Identity

    on_cpu = engine.load(Identity(), device=ranks.device).device.type == "cpu"
    if on_cpu and ranks.is_first and chosen.preset == "paper" and chosen.channels is None:
        click.echo(
            "note: the preset paper is for GPUs; on a CPU, --preset small takes minutes in place of hours", err=True
        )


@contextmanager
def _telling() -> Iterator[Callable[[Standing], None]]:
    """One line that is written again and again on a terminal; elsewhere, a line now and then."""
    terminal = sys.stderr.isatty()
    pause = LIVE_SECONDS if terminal else show.LINE_SECONDS
    last = time.monotonic() - pause + min(pause, 2.0)

    def tell(standing: Standing) -> None:
        nonlocal last
        if time.monotonic() - last >= pause:
            click.echo(f"\r\x1b[K{standing}" if terminal else str(standing), err=True, nl=not terminal)
            last = time.monotonic()

    try:
        yield tell
    finally:
        if terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


def _print(result: DipResult) -> None:
    """What came of it."""
    seconds = sum(run.seconds for run in result.runs)
    iterations = sum(run.iterations for run in result.runs)
    first = result.runs[0]
    volumes = len({run.part for run in result.runs})
    lines = {
        "clean": f"{result.clean}\n{show.shape(result.shape)} voxels" + (f", {volumes} volumes" * (volumes > 1)),
        "network": f"{result.parameters:,} parameters",
        "noise": f"{first.noise}, sigma {first.sigma:.4g}",
        "taken": f"{iterations:,} iterations in {show.duration(seconds)} ({_where(result)}, {result.precision})",
        "chosen": ", ".join(f"iteration {run.chosen}" for run in result.runs),
        "pictures": f"{result.picture}",
        "history": f"{result.history}",
    }
    if any(run.resumed_at for run in result.runs):
        lines["taken"] += ", going on from where it was interrupted"
    if result.deviation:
        lines["deviation"] = f"{result.deviation}, of {len({run.seed for run in result.runs})} runs"
    if result.psnr is not None:
        lines["PSNR"] = f"{_decibels(result.psnr)}, of NOISY {_decibels(result.psnr_noisy)}"
        lines["SSIM"] = show.number(result.ssim)
    show.fields(lines | ({"note": "\n".join(result.notes)} if result.notes else {}))
    if result.compared:
        click.echo(show.table([_row(row) for row in result.compared]))
        click.echo(f"what is taken away should be noise: deviation near {first.sigma:.4g}, neighbours near 0")


def _where(result: DipResult) -> str:
    return result.device if result.ranks == 1 else f"{result.ranks} ranks, {result.device.partition(':')[0]}"


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "method": row["method"],
        "strength": "-" if row["setting"] is None else f"{row['setting']:g}",
        "seconds": f"{row['seconds']:.1f}",
    }
    if row["psnr"] is not None:
        found |= {"PSNR": _decibels(row["psnr"]), "SSIM": show.number(row["ssim"])}
    return found | {"taken away": f"{row['taken_away']:.4g}", "neighbours": f"{row['residual_correlation']:.2f}"}


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"
