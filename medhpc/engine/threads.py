"""How many threads this process may keep busy."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """The least of: cores this process may run on, cores that SLURM gave its task, quotas of its control groups.

    Of what processes of torchrun on one machine have together, its part.
    """
    found = [float(len(os.sched_getaffinity(0))), _quota()]
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")
    if sharing.isdecimal() and int(sharing):
        found = [cores / int(sharing) for cores in found]
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal():
        found.append(int(given))
    return max(1, math.floor(min(found)))


def control_groups() -> list[Path]:
    """Folders of this process's control group and those around it (version 2), the innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    return [CGROUPS / folder for group in groups for folder in (group, *group.parents)]


def _quota() -> float:
    """Cores by the tightest ``cpu.max`` of the control groups."""
    return min(map(_quota_of, control_groups()), default=math.inf)


def _quota_of(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):  # the root has none; version 1 has another file
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)
