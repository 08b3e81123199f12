"""``medhpc info`` and ``medhpc convert``."""

from __future__ import annotations

from typing import Any

import click

from medhpc.cli import options, show


@click.command(short_help="Say what a volume is.")
@click.argument("volume")
@options.level
@options.channel
@click.option("--stats", is_flag=True, help="Also minimum, maximum and percentiles, from samples of a large volume.")
@options.as_json
def info(volume: str, level: int, channel: int | None, stats: bool, as_json: bool) -> None:
    """Say what VOLUME is: shape, axes, voxels, units, and whether boxes of it can be read cheaply.

    VOLUME is a TIFF, a folder or glob of planes, a folder of DICOM slices, NIfTI, Zarr, OME-Zarr, or HDF5 with the
    dataset behind a colon.

    \b
      medhpc info brain.tif --stats
      medhpc info ovule.h5:/raw
    """
    from medhpc.volume import describe, open_volume

    with open_volume(volume, channel=channel, level=level) as opened:
        found = describe(opened, opened.statistics() if stats else None)
    if as_json:
        show.as_json(found)
    else:
        show.fields({name.replace("_", " "): _readable(value) for name, value in found.items()})


@click.command(short_help="Write a volume in another format.")
@click.argument("volume")
@click.argument("out")
@options.channel
@options.level
@options.region
@options.voxel_size
def convert(volume: str, out: str, channel: int | None, level: int, region: str | None, **voxel: Any) -> None:
    """Write VOLUME as OUT, in the format of OUT's suffix.

    Suffixes: .tif, .h5 (or file.h5:/dataset), .nii, .nii.gz, .zarr (OME-Zarr 0.5 with a pyramid).

    \b
      medhpc convert dicom/ body.nii.gz
      medhpc convert brain.tif brain.ome.zarr --voxel-size 5,2,2 --unit um
    """
    from medhpc import volume as volumes

    with volumes.open_volume(volume, channel=channel, level=level) as opened, show.bar("convert", "planes") as progress:
        volumes.convert(opened, out, region=region, progress=progress, **voxel)
    click.echo(out)


def _readable(value: Any) -> str:
    """A value of `describe` as text."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_readable(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " x ".join(map(_readable, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
