"""What ``medhpc info`` says of a volume."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medhpc.volume.base import Volume
from medhpc.volume.statistics import Statistics


def describe(volume: Volume, statistics: Statistics | None = None) -> dict[str, Any]:
    """Describe a volume as JSON: lists, numbers, strings and None only.

    Returns
    -------
    dict
        path, format, axes, shape, channels, are_colours, dtype, voxel_size, unit, chunks, boxes_are_cheap,
        why_expensive, levels, time_step (seconds between channels that are a series), bytes (of all voxels in memory)
        and, where given, statistics.
    """
    description: dict[str, Any] = {
        "path": volume.path,
        "format": volume.format,
        "axes": volume.axes,
        "shape": list(volume.shape),
        "channels": volume.channels,
        "are_colours": volume.are_colours,
        "dtype": volume.dtype.name,
        "voxel_size": volume.voxel_size and list(volume.voxel_size),
        "unit": volume.unit,
        "chunks": volume.chunks and list(volume.chunks),
        "boxes_are_cheap": volume.boxes_are_cheap,
        "why_expensive": volume.why_expensive,
        "levels": volume.levels,
        "time_step": volume.time_step,
        "bytes": volume.nbytes,
    }
    if statistics is not None:
        numbers = asdict(statistics)
        numbers["percentiles"] = {f"{q:g}": value for q, value in statistics.percentiles.items()}
        description["statistics"] = {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()}
    return description
