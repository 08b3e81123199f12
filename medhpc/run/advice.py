"""What about a network and a volume may give a bad result: said when it is planned, submitted, and looked at."""

from __future__ import annotations

from collections.abc import Sequence

from medhpc.run.plan import Plan

ALIKE = 1.5  # voxel sizes differ by no more than this factor


def advice(plan: Plan) -> list[str]:
    """What about this network and this volume may give a bad result, a line each."""
    lines = other_voxels(plan.network.voxel_size, plan.source.voxel_size_um)
    if plan.network.calibrated and plan.normalization.source == "volume":
        lines.append("it looks at a window of intensities: where these are calibrated (CT), use --normalize network")
    return lines


def other_voxels(trained: Sequence[float] | None, here: Sequence[float] | None) -> list[str]:
    """A line where voxels (z, y, x; micrometres) differ much from those of the training; none where one is unknown."""
    if not trained or not here or max(max(a / b, b / a) for a, b in zip(trained, here, strict=True)) <= ALIKE:
        return []
    theirs, ours = (" x ".join(f"{size:.4g}" for size in sizes) for sizes in (trained, here))
    return [f"trained on voxels of {theirs} um; these are {ours} um: expect worse results"]
