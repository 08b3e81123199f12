"""The options of ``medhpc tile`` and ``medhpc stitch``; ``medhpc run`` has them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from medhpc.cli import options

tile_options = options.together(
    click.option("--network", required=True, metavar="NET", help="Network: .safetensors, .onnx, or 'identity'."),
    options.channel,
    options.level,
    click.option(
        "--tile", type=options.IndexOr("auto"), default="auto", show_default=True, help="Voxels that a tile writes."
    ),
    click.option(
        "--halo",
        type=options.Halo(),
        default="auto",
        show_default=True,
        metavar="auto|exact|N",
        help="Voxels that a tile reads around what it writes: measured, the receptive radius, or N.",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(0, min_open=True),
        metavar="T",
        help="Seam error that --halo auto accepts; half a step of the stored numbers unless given.",
    ),
    click.option(
        "--store",
        type=click.Choice(["probability", "argmax", "raw"]),
        default="probability",
        show_default=True,
        help="What tiles keep: probabilities (0 to 255, p = number / 255), the likeliest class, or raw numbers.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["uint8", "float16"]),
        default="uint8",
        show_default=True,
        help="Of stored probabilities.",
    ),
    click.option(
        "--normalize",
        type=click.Choice(["volume", "network", "none"]),
        default="volume",
        show_default=True,
        help="Intensities by this volume's own mean and deviation, by those of the training, or as they are.",
    ),
    click.option(
        "--memory",
        type=options.Memory(),
        default="8G",
        show_default=True,
        metavar="SIZE",
        help="What one task may use, on the machine or GPU where it will run.",
    ),
    click.option(
        "--scheme",
        type=click.Choice(["auto", "boxes", "columns", "sweep"]),
        default="auto",
        show_default=True,
        help="Tiles with a halo on all sides; columns through which planes stream along z, with a halo in y and x "
        "only; or one column of whole planes, exact. auto: boxes, with --exact the one that computes least.",
    ),
    click.option(
        "--exact", is_flag=True, help="Accept no approximation: equal to un-tiled inference, but for rounding."
    ),
    click.option(
        "--ranks",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        metavar="N",
        help="Processes that will share the rows of columns (infer --submit, srun, torchrun); --memory is each one's.",
    ),
    click.option(
        "--blend",
        type=click.Choice(["none", "gaussian", "linear"]),
        default="none",
        show_default=True,
        help="Add overlapping windows with these weights, for networks whose halo is not exact.",
    ),
    click.option(
        "--window", type=options.IndexOr(), default="96", show_default=True, help="Voxels of a window of --blend."
    ),
    click.option(
        "--overlap",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.5,
        show_default=True,
        metavar="F",
        help="Overlap of neighbouring windows of --blend, as a fraction.",
    ),
    options.region,
    click.option(
        "--nan",
        type=click.Choice(["refuse", "zero"]),
        default="refuse",
        show_default=True,
        help="What to do with NaN and infinity in the input.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "torch", "openvino", "triton", "triton-f32", "reference"]),
        default="auto",
        show_default=True,
        help="What evaluates the network in all tasks of the run. auto: torch where a GPU is seen while planning, else "
        "the fastest on CPUs here; to compute on GPUs, plan with torch (or on one of them with triton).",
    ),
    options.device,
    options.threads,
)

stitch_options = options.together(
    click.option(
        "--as",
        "kind",
        type=click.Choice(["mask", "labels", "probability", "raw"]),
        default="mask",
        show_default=True,
        help="Write a mask, numbered objects, probabilities, or the network's own numbers.",
    ),
    click.option(
        "--threshold",
        type=float,
        metavar="P",
        help="Probability from which a voxel is foreground; 0.5 unless given. Of raw numbers, the number.",
    ),
    click.option(
        "--smooth",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        metavar="S",
        help="For labels: smooth probabilities first, by a Gaussian of this deviation in voxels.",
    ),
    click.option(
        "--min-size",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="V",
        help="Leave out objects of fewer voxels.",
    ),
    click.option("--split", is_flag=True, help="Cut touching objects apart (watershed of the distance to the border)."),
    click.option(
        "--split-depth",
        type=click.FloatRange(0, 1),
        default=0.05,
        show_default=True,
        metavar="F",
        help="How deep a neck must be to be cut, as a fraction of the object's half width.",
    ),
    click.option(
        "--split-limit",
        type=click.IntRange(1),
        default=2**24,
        show_default=True,
        metavar="V",
        help="Objects with a bounding box of more voxels stay whole.",
    ),
    click.option("--objects", metavar="CSV", help="List the objects: centre, volume, mean probability, bounding box."),
    click.option("--levels", type=click.IntRange(1), metavar="N", help="Levels of an OME-Zarr pyramid; 1 for none."),
)


def without_requirement(decorate: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same options, of which `name` need not be given."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        command = decorate(command)
        for option in command.__click_params__:  # type: ignore[attr-defined]
            if option.name == name:
                option.required = False
        return command

    return decorated


def without(decorate: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The same options but for some."""

    def nothing() -> None:
        """Carries the options."""

    kept = [option for option in decorate(nothing).__click_params__ if option.name not in names]

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        before = getattr(command, "__click_params__", [])
        command.__click_params__ = [*before, *kept]  # type: ignore[attr-defined]
        return command

    return decorated


def arguments(decorate: Callable[..., Any], leave_out: Sequence[str] = ()) -> list[str]:
    """The options among these that the user gave to the running command, as another command takes them."""

    def nothing() -> None:
        """Carries the options."""

    context = click.get_current_context()
    words: list[str] = []
    for option in reversed(decorate(nothing).__click_params__):
        value = context.params[option.name]
        given = context.get_parameter_source(option.name) != click.core.ParameterSource.DEFAULT
        if given and option.name not in leave_out:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [option.opts[0]] if option.is_flag else [option.opts[0], text]
    return words
