"""Options that several commands share, and the types that check them while they are parsed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from medhpc.errors import BadOption
from medhpc.geometry import parse_index

Command = TypeVar("Command", bound=Callable[..., Any])

SIZES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Memory(click.ParamType):
    """An amount of memory such as ``8G``, in powers of 1024 as SLURM counts; becomes bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: D102
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
        if not found or float(found[1]) == 0:
            self.fail(f"'{value}' is not an amount of memory such as 8G or 500M", param, ctx)
        return int(float(found[1]) * 1024 ** SIZES[found[2].upper()])


class Duration(click.ParamType):
    """A time such as ``90s``, ``30m`` or ``2h``; becomes seconds. A number alone is minutes, as SLURM counts."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: D102
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip(), re.IGNORECASE)
        if not found or float(found[1]) == 0:
            self.fail(f"'{value}' is not a time such as 90s, 30m or 2h", param, ctx)
        return float(found[1]) * {"s": 1, "": 60, "m": 60, "h": 3600, "d": 86400}[found[2].lower()]


class IndexOr(click.ParamType):
    """``Z,Y,X`` in voxels (one number stands for all three), or one of a few words."""

    name = "Z,Y,X"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: D102
        if value in self.words or not isinstance(value, str):
            return value
        try:
            return parse_index(value, "index")
        except BadOption:
            wanted = " or ".join(("Z,Y,X (three positive whole numbers, or one for all)", *self.words))
            self.fail(f"'{value}' is not {wanted}", param, ctx)


class Halo(click.ParamType):
    """``auto``, ``exact`` or a number of voxels."""

    name = "halo"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: D102
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if value not in ("auto", "exact") and not isinstance(value, int):
            self.fail(f"'{value}' is not auto, exact or a number of voxels", param, ctx)
        return value


class VoxelSize(click.ParamType):
    """``Z,Y,X`` as positive lengths."""

    name = "Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: D102
        if not isinstance(value, str):
            return value
        try:
            lengths = tuple(float(part) for part in value.split(","))
        except ValueError:
            lengths = ()
        if len(lengths) != 3 or not all(0 < length < float("inf") for length in lengths):
            self.fail(f"'{value}' is not Z,Y,X (three positive lengths)", param, ctx)
        return lengths


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, listed in the help in the order given here."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
level = click.option(
    "--level",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Level of a pyramid (OME-Zarr, TIFF of a slide): 0 is the full resolution, each next one is coarser.",
)
channel = click.option("--channel", type=click.IntRange(0), metavar="C", help="Use this channel only, counted from 0.")
region = click.option(
    "--region",
    metavar="Z0:Z1,Y0:Y1,X0:X1",
    help="Only this part of the volume: voxels, half-open, empty ends allowed (':,:,:330').",
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
threads = click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; all cores unless given.")
voxel_size = together(
    click.option("--voxel-size", type=VoxelSize(), help="Voxel size, where the file has none or a wrong one."),
    click.option("--unit", type=click.Choice(["um", "mm"]), help="Unit of --voxel-size."),
)
