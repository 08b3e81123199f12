"""``medhpc info`` and ``medhpc convert``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from medhpc.cli import options, show
from medhpc.geometry import parse_region

WRITTEN = ("format", "shape", "dtype", "voxel size")  # what is said of a volume that was written


@click.command(short_help="Say what a volume is.")
@click.argument("volume")
@options.level
@options.channel
@click.option("--stats", is_flag=True, help="Also minimum, maximum and percentiles, from samples of a large volume.")
@options.as_json
def info(volume: str, level: int, channel: int | None, stats: bool, as_json: bool) -> None:
    """Say what VOLUME is: shape, axes, voxels, units, and whether boxes of it can be read cheaply.

    VOLUME is a TIFF, PNG or JPEG, a folder or glob of planes, a folder of DICOM slices, NIfTI, Zarr, OME-Zarr, or HDF5
    with the dataset behind a colon.

    \b
      medhpc info brain.tif --stats
      medhpc info ovule.h5:/raw
    """
    from medhpc.volume import describe, open_volume

    with open_volume(volume, channel=channel, level=level, series=True) as opened:
        found = describe(opened, opened.statistics() if stats else None)
    if as_json:
        show.as_json(found)
    else:
        show.fields(_lines(found))


@click.command(short_help="Write a volume in another format.")
@click.argument("volume")
@click.argument("out")
@options.channel
@options.level
@options.region
@options.voxel_size
def convert(volume: str, out: str, channel: int | None, level: int, region: str | None, **voxel: Any) -> None:
    """Write VOLUME as OUT, in the format of OUT's suffix; an OUT that is there is replaced.

    Suffixes: .tif, .h5 (or file.h5:/dataset), .nii, .nii.gz, .zarr (OME-Zarr 0.5 with a pyramid), .png (one plane).

    \b
      medhpc convert dicom/ body.nii.gz
      medhpc convert brain.tif brain.ome.zarr --voxel-size 5,2,2 --unit um
    """
    from medhpc import volume as volumes

    with volumes.open_volume(volume, channel=channel, level=level) as opened, show.bar("convert", "planes") as progress:
        box = parse_region(region, opened.shape) if region else None
        volumes.convert(opened, out, region=box, progress=progress, **voxel)
    with volumes.open_volume(out) as written:
        lines = _lines(volumes.describe(written))
    size = show.size(_bytes_of(volumes.check_writable(out, photos=True)))
    show.fields({"written": f"{out}, {size} on disk"} | {name: lines[name] for name in WRITTEN})


def _bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _lines(found: Mapping[str, Any]) -> dict[str, str]:
    """What `describe` found, as a person reads it."""
    size = show.size(found["bytes"])
    lines = {
        "volume": found["path"],
        "format": found["format"],
        "shape": f"{show.shape(found['shape'])} voxels ({found['axes']}){_channels(found)}, {size}",
        "dtype": found["dtype"],
        "voxel size": f"{show.shape(found['voxel_size'])} {found['unit']}" if found["voxel_size"] else "unknown",
        "boxes": "cheap to read" if found["boxes_are_cheap"] else f"expensive to read: {found['why_expensive']}",
    }
    if found["chunks"]:
        lines["boxes"] += f", in chunks of {show.shape(found['chunks'])}"
    if found["levels"] > 1:
        lines["levels"] = f"{found['levels']}"
    return lines | (_statistics(found["statistics"]) if "statistics" in found else {})


def _channels(found: Mapping[str, Any]) -> str:
    """What there are several of: channels, colours, volumes of a series."""
    if found["channels"] == 1:
        return ""
    if found["time_step"] is not None:
        return f", {found['channels']} volumes of a time series, {found['time_step']:g} s apart"
    return f", {found['channels']} {'colours' if found['are_colours'] else 'channels'}"


def _statistics(found: Mapping[str, Any]) -> dict[str, str]:
    seen = "of all voxels" if found["exact"] else f"of {found['voxels']:,} voxels spread over the volume"
    moments = zip(found["mean"], found["std"], strict=True)
    lines = {
        "values": f"{found['minimum']:g} to {found['maximum']:g}, {seen}",
        "mean, std": "; ".join(f"{mean:.5g}, {std:.5g}" for mean, std in moments),
        "percentiles": ", ".join(f"{q} %: {value:g}" for q, value in found["percentiles"].items()),
    }
    if found["nonfinite"]:
        lines["not finite"] = f"the first at {','.join(map(str, found['nonfinite']))}"
    return lines
