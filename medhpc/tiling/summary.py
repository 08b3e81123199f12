"""What a plan means for its user: work, time, memory, disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medhpc.geometry import Grid
from medhpc.run.advice import advice
from medhpc.run.plan import Plan


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
        "memory_bytes": plan.memory_bytes,
        "memory_limit_bytes": plan.cost.memory,
        "scheme": plan.scheme,
        "schemes": [asdict(row) | {"work": row.computed / plan.region.size} for row in plan.schemes],
        "columns": len(plan.columns) if plan.sweep else 0,
        "ranks": plan.sweep.ranks if plan.sweep else 1,
        "compare": bool(plan.request.get("exact")) or plan.request.get("scheme", "auto") != "auto",
        "splits": plan.splits,
        "output_bytes": plan.stored_bytes,
        "output_files": shards,
        "free_bytes": disk.free,
        "free_inodes": os.statvfs(folder).f_favail,
    }
