"""The tile step: look at the volume and the network, decide everything, write the plan."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medhpc
from medhpc import engine as engines
from medhpc import nets
from medhpc.geometry import Box, Grid, Index
from medhpc.run.durable import room_and_rights
from medhpc.run.folder import claimed, create_run, place_of_copy
from medhpc.run.plan import Cost, Halo, Plan, Source, Stored
from medhpc.run.shards import shard_shape
from medhpc.tiling.choices import (
    check_choice,
    check_fit,
    check_tolerance,
    checked_halo,
    choose_blend,
    choose_index,
    choose_normalization,
    choose_region,
    choose_stored,
    describe_network,
    describe_source,
    is_network_file,
    spatial,
)
from medhpc.tiling.planner import Planner
from medhpc.tiling.schemes import NAMES as SCHEMES
from medhpc.tiling.size import block_voxels, check_tile, read_per_written
from medhpc.volume import Volume, convert, open_volume

if TYPE_CHECKING:
    import torch

Report = Callable[[str, int, int], None]


def tile(
    volume: str | Path,
    run: str | Path,
    *,
    network: str | Path | torch.nn.Module,
    channel: int | None = None,
    level: int = 0,
    tile: str | Index = "auto",
    halo: str | int = "auto",
    tolerance: float | None = None,
    store: str = "probability",
    dtype: str = "uint8",
    normalize: str = "volume",
    memory: int = 8 * 2**30,
    scheme: str = "auto",
    exact: bool = False,
    ranks: int = 1,
    blend: str = "none",
    window: str | Index = (96, 96, 96),
    overlap: float = 0.5,
    region: str | Box | None = None,
    nan: str = "refuse",
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    report: Report | None = None,
) -> Plan:
    """Plan a run: tiles, halo, normalisation, what is stored. Nothing is computed but samples.

    Parameters
    ----------
    volume : path
        Any format that :func:`medhpc.volume.open_volume` reads.
    run : path
        Folder of the run, new or empty.
    network : path or torch.nn.Module
        A network file, ``"identity"``, or a module (see :class:`medhpc.nets.foreign.Foreign`).
    channel, level : int
        Which channel of a CZYX volume (default all), which level of an OME-Zarr pyramid.
    tile : "auto" or (z, y, x)
        Voxels a tile writes. ``auto``: whole shards of 128, as large as `memory` allows.
    halo : "auto", "exact" or int
        ``exact``: the network's receptive radius. A number: voxels; its error is measured. ``auto``: the smallest whose
        measured error, times a safety factor of 2, is below `tolerance`.
    tolerance : float, optional
        By default half a step of the 8-bit output (1/510; of the range of the output, for ``raw``).
    store : {"probability", "argmax", "raw"}
    dtype : {"uint8", "float16"}
        Of stored probabilities.
    normalize : {"volume", "network", "none"}
        Mean and deviation of this volume, of the network's training data, or none.
    memory : int
        Bytes that a task may use.
    scheme : {"auto", "boxes", "columns", "sweep"}
        See :mod:`medhpc.tiling.schemes`. ``auto``: boxes; with `exact`, what computes the fewest voxels.
    exact : bool
        Equal to un-tiled inference but for rounding: no halo below the receptive radius, no blending.
    ranks : int
        Processes (torchrun, srun) that will share the rows of columns; `memory` is then that of each.
    blend : {"none", "gaussian", "linear"}
        Overlapping windows, weighted, for networks whose halo would be too large; then `window` (z, y, x voxels) and
        `overlap` (a fraction) say which, and `halo` has no meaning.
    region : str or Box, optional
        What to compute, as ``"Z0:Z1,Y0:Y1,X0:X1"`` in voxels of the whole volume.
    nan : {"refuse", "zero"}
    engine : {"auto", "native", "torch", "openvino", "triton", "triton-f32", "reference"}
        What evaluates the network, here and in every task of the run; see :func:`medhpc.engine.load`.
    device, threads
        Where samples are computed; see :func:`medhpc.engine.load`.
    report : callable, optional
        Called with (stage, done, total) while converting or measuring.

    Returns
    -------
    Plan
        As written to ``run/plan.json``.

    Raises
    ------
    RunNotEmpty, VolumeNotFound, BadNetwork, NetworkMismatch, BadOption
    """
    asked = requested(**{name: value for name, value in locals().items() if name != "run"})
    check_choice("store", store, ("probability", "argmax", "raw"))
    check_choice("dtype", dtype, ("uint8", "float16"))
    check_choice("nan", nan, ("refuse", "zero"))
    check_choice("scheme", scheme, SCHEMES)
    check_tolerance(tolerance)
    halo = checked_halo(halo, blend, scheme, exact=exact)
    folder = Path(run)
    with ExitStack() as opened:
        original = opened.enter_context(open_volume(volume, channel=channel, level=level))
        loaded: Any = nets.load(network) if is_network_file(network) else network
        check_fit(loaded, original)
        chosen = choose_region(region, original.shape)
        blended = choose_blend(blend, window, overlap, original.shape, loaded)
        size = None if tile == "auto" else choose_index(tile, "tile")
        if size:
            check_tile(size, original.shape, spatial(loaded.stride))
        opened.enter_context(claimed(folder))
        evaluating = engines.load(loaded, name=engine, device=device, threads=threads)
        stored = choose_stored(evaluating, original, store, dtype)
        cost = measured_cost(evaluating, original, memory, stored)  # refused before the input is copied
        source = describe_source(original, volume, channel, level)
        source, readable = _readable(source, original, folder, report)
        planner = Planner(
            volume=opened.enter_context(readable),
            engine=evaluating,
            region=chosen,
            nan=nan,
            normalization=choose_normalization(normalize, loaded, readable, nan),
        )
        found = planner.halo(halo, tolerance, size, cost, blended, stored.kind)
        way = planner.way(scheme, exact, ranks, found, size, cost, blended, stored)
        shard, chunk = shard_shape(way.tile, source.shape)
        if not way.sweep:
            cost = dataclasses.replace(cost, needed=planner.needed(way.halo, way.tile, cost, blended))
        plan = Plan(
            source=source,
            network=describe_network(loaded, network),
            normalization=planner.normalization,
            halo=_with_work(way.halo, Grid(source.shape, way.tile, (0, 0, 0), chosen)),
            blend=blended,
            stored=dataclasses.replace(stored, shard=shard, chunk=chunk),
            cost=cost,
            tile=way.tile,
            region=chosen,
            nan=nan,
            sweep=way.sweep,
            schemes=way.schemes,
            request=asked,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            medhpc=medhpc.__version__,
        )
        return create_run(folder, plan).plan


def measured_cost(engine: engines.Engine, volume: Volume, memory: int, stored: Stored) -> Cost:
    """Measure the network, and say how many voxels at once fit in the memory.

    Raises
    ------
    BadOption
        Not even a small block does.
    """
    measured = engine.measure(volume.channels)
    return Cost(
        seconds_per_voxel=measured.seconds_per_voxel,
        bytes_per_voxel=measured.bytes_per_voxel,
        memory=memory,
        block_voxels=block_voxels(memory, measured.bytes_per_voxel, volume.channels, volume.dtype.itemsize, stored),
        engine=engine.name,
        device=str(engine.device),
        threads=engine.threads,
    )


def _readable(source: Source, original: Volume, folder: Path, report: Report | None) -> tuple[Source, Volume]:
    """The volume itself, or, where its boxes are expensive, a Zarr copy inside the run."""
    if original.boxes_are_cheap:
        return source, original
    source = dataclasses.replace(source, copy=place_of_copy(source))
    copy = folder / source.copy
    if not copy.exists():  # a copy is renamed into place when it is whole: one that stands can be used

        def progress(done: int, total: int) -> None:
            if report:
                report(f"copying the input once to Zarr ({original.why_expensive})", done, total)

        with room_and_rights(copy):
            copy.parent.mkdir(exist_ok=True)
        convert(original, copy, levels=1, progress=progress)
    return source, open_volume(copy)


def _with_work(halo: Halo, grid: Grid) -> Halo:
    """Fill in, for each halo of the table, how many voxels the planned tiles would compute for each voxel kept."""
    flat = halo.size[0] == 0 and max(halo.size) > 0
    rows = [
        dataclasses.replace(row, work=read_per_written(grid, (0 if flat else row.halo, row.halo, row.halo)))
        for row in halo.table
    ]
    return dataclasses.replace(halo, table=tuple(rows))


def requested(**options: Any) -> dict[str, Any]:
    """What decides a plan, of the options given to :func:`tile` or left out, as JSON keeps it.

    Two calls with equal requests make the same plan of the same input; threads and progress do not count.
    """
    defaults = {p.name: p.default for p in inspect.signature(tile).parameters.values() if p.default is not p.empty}
    decisive = {name: value for name, value in (defaults | options).items() if name not in ("report", "threads")}
    plain = (str, int, float, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in decisive.items()}
