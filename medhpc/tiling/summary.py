"""What a plan means for its user: work, time, memory, disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medhpc.geometry import Grid
from medhpc.run.plan import Plan
from medhpc.tiling.size import BASE

ALIKE = 1.5  # voxel sizes differ by no more than this factor


def summarize(plan: Plan, folder: str | Path) -> dict[str, Any]:
    """Figures of a plan, for a table or JSON.

    Parameters
    ----------
    plan : Plan
    folder : path
        The run folder, for the free space and inodes of its file system.

    Returns
    -------
    dict
        Keys: tiles, tile, halo, halo_how, max_error, tolerance, note, advice, table, read_amplification, needed,
        seconds, seconds_per_tile, memory_bytes, output_bytes (at most, before compression), output_files, free_bytes,
        free_inodes, and more; bytes, seconds, voxels.
    """
    grid = plan.grid
    computed = plan.computed_voxels
    shards = len(Grid(plan.source.shape, plan.stored.shard, (0, 0, 0), plan.region))
    largest = min(plan.cost.block_voxels, plan.most_read)
    disk = shutil.disk_usage(folder)
    return {
        "volume": plan.source.path,
        "shape": plan.source.shape,
        "region": str(plan.region),
        "copied": bool(plan.source.copy),
        "network": plan.network.path or plan.network.name,
        "classes": plan.network.classes,
        "normalization": asdict(plan.normalization),
        "store": f"{plan.stored.kind} ({plan.stored.dtype})",
        "blend": asdict(plan.blend),
        "tile": plan.tile,
        "shard": plan.stored.shard,
        "tiles": len(grid),
        "halo": plan.halo.size,
        "halo_how": plan.halo.how,
        "receptive_radius": plan.network.receptive_radius,
        "max_error": plan.halo.max_error,
        "tolerance": plan.halo.tolerance,
        "halo_samples": plan.halo.samples,
        "halo_context": plan.halo.context,
        "halo_table": [asdict(row) for row in plan.halo.table],
        "note": plan.halo.note,
        "advice": advice(plan),
        "read_amplification": computed / plan.region.size,
        "unsplit_amplification": plan.grid.read_amplification,
        "needed": plan.cost.needed,
        "seconds": plan.seconds,
        "seconds_per_tile": plan.seconds / len(grid),
        "engine": plan.cost.engine,
        "device": plan.cost.device,
        "threads": plan.cost.threads,
        "memory_bytes": int(BASE + largest * (plan.cost.memory - BASE) / plan.cost.block_voxels),
        "memory_limit_bytes": plan.cost.memory,
        "splits": plan.splits,
        "output_bytes": plan.stored_bytes,
        "output_files": shards,
        "free_bytes": disk.free,
        "free_inodes": os.statvfs(folder).f_favail,
    }


def advice(plan: Plan) -> list[str]:
    """What about this network and this volume may give a bad result, a line each."""
    lines = []
    trained, here = plan.network.voxel_size, plan.source.voxel_size_um
    if trained and here and max(max(a / b, b / a) for a, b in zip(trained, here, strict=True)) > ALIKE:
        theirs, ours = (" x ".join(f"{size:.4g}" for size in sizes) for sizes in (trained, here))
        lines.append(f"trained on voxels of {theirs} um; these are {ours} um: expect worse results")
    if plan.network.calibrated and plan.normalization.source == "volume":
        lines.append("it looks at a window of intensities: where these are calibrated (CT), use --normalize network")
    return lines
