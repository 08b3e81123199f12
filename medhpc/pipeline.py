"""The whole main job in one call: tile, infer, stitch."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medhpc.errors import MedhpcError, RunNotEmpty
from medhpc.infer import InferResult, infer
from medhpc.run import Plan, Run
from medhpc.stitch import StitchResult, stitch
from medhpc.stitch.request import Request
from medhpc.tiling import tile
from medhpc.tiling.planning import requested
from medhpc.volume import check_writable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """What one call of :func:`run` did."""

    plan: Plan
    resumed: bool  # the run folder was there already, with the same request
    infer: InferResult
    stitch: StitchResult


def run(
    volume: str | Path,
    out: str | Path,
    *,
    network: str | Path | torch.nn.Module,
    run_folder: str | Path | None = None,
    keep: bool = False,
    planned: Callable[[Plan, Path], None] | None = None,
    report: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> PipelineResult:
    """Take a volume to its stitched result. Called again after a kill, it goes on where it was.

    Parameters
    ----------
    volume, out : path
        Input and result; any formats that medhpc reads and writes.
    network : path or torch.nn.Module
        As for :func:`medhpc.tiling.tile`.
    run_folder : path, optional
        Where tiles are kept; ``OUT.run`` by default.
    keep : bool
        Keep the run folder; by default it is removed once the result stands.
    planned : callable, optional
        Called with the plan and the run folder before anything is computed.
    report : callable, optional
        Called with (stage, done, total).
    **options
        Those of :func:`medhpc.tiling.tile` and :func:`medhpc.stitch.stitch`.

    Raises
    ------
    RunNotEmpty
        The run folder holds a run of another request.
    UnknownFormat, NoPermission, VolumeNotFound
        OUT cannot be written; nothing is computed.
    TypeError
        An option that neither of them has.
    """
    for_tile = {name: value for name, value in options.items() if name in inspect.signature(tile).parameters}
    for_stitch = {name: value for name, value in options.items() if name not in for_tile}
    if for_stitch.get("kind") == "raw":  # nothing else could be stitched to it
        for_tile["store"] = "raw"
    folder = Path(run_folder) if run_folder else Path(f"{out}.run")
    wanted = Request(**for_stitch)
    check_writable(out, volume)
    resumed = (folder / "plan.json").exists()
    if resumed:
        _check_same_request(folder, requested(volume=volume, network=network, **for_tile))
    else:
        tile(volume, folder, network=network, report=report, **for_tile)
    opened = Run(folder)
    try:
        wanted.check(opened.plan)  # now, not after hours of computing
    except MedhpcError:
        if not resumed:
            shutil.rmtree(folder)
        raise
    if planned:
        planned(opened.plan, folder)
    machine = {name: for_tile[name] for name in ("device", "threads") if name in for_tile}
    module = None if isinstance(network, str | Path) else network
    inferred = infer(folder, network=module, progress=_stage(report, "infer"), **machine)
    stitched = stitch(folder, out, progress=_stage(report, "stitch"), **for_stitch)
    if not keep:
        shutil.rmtree(folder)
    return PipelineResult(plan=opened.plan, resumed=resumed, infer=inferred, stitch=stitched)


def _check_same_request(folder: Path, asked: dict[str, Any]) -> None:
    before = Run(folder).plan.request
    differing = sorted(name for name in asked if asked[name] != before.get(name))
    if differing:
        name = differing[0]
        raise RunNotEmpty(
            f"{folder} holds an unfinished run with {name} = {before.get(name)}, now {asked[name]} is asked for; "
            f"repeat the first command to finish it, or remove the folder"
        )


def _stage(report: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    return None if report is None else lambda done, total: report(name, done, total)
