"""The stitch step: proven tiles to one result, slab by slab; killed, it goes on at its last finished slab.

Every result is first made as an OME-Zarr: beside OUT where OUT is one, else in the run folder, from where it is
exported. So there is one way to write, and one way to resume.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec

from medhpc.errors import BadOption
from medhpc.run import Plan, Run
from medhpc.run.durable import room_and_rights
from medhpc.stitch.foreground import Foreground
from medhpc.stitch.labels import Labelling, Splitting
from medhpc.stitch.reduce import check_kind
from medhpc.stitch.scratch import Scratch
from medhpc.stitch.slabs import ProvenTiles, whole_planes
from medhpc.stitch.stage import Stage
from medhpc.stitch.table import check_table, write_table
from medhpc.volume import check_writable

SLAB_VOXELS = 2**27  # of a slab whose voxels are labelled together
THICKEST = 64  # planes of such a slab
SPLIT_LIMIT = 2**24  # voxels of a bounding box; larger objects are not split
SPLIT_DEPTH = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class StitchResult:
    """What one call of :func:`stitch` wrote."""

    out: str
    kind: str
    shape: tuple[int, ...]  # with channels, where there are several
    dtype: str
    objects: int | None  # how many; None unless labels were made
    left_whole: int  # objects too large to be split
    table: str | None  # the CSV
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return dataclasses.asdict(self)


def stitch(
    run: str | Path,
    out: str | Path,
    *,
    kind: str = "mask",
    threshold: float | None = None,
    smooth: float = 0.0,
    min_size: int = 0,
    split: bool = False,
    split_depth: float = SPLIT_DEPTH,
    split_limit: int = SPLIT_LIMIT,
    objects: str | Path | None = None,
    levels: int | None = None,
    progress: Progress | None = None,
) -> StitchResult:
    """Put the tiles of a run together.

    Parameters
    ----------
    run : path
        A run whose tiles are all done.
    out : path
        The result; its suffix says the format (``.ome.zarr``, ``.tif``, ``.nii.gz``, ``.h5``). It has the shape of the
        input volume, and is 0 outside the run's region.
    kind : {"mask", "labels", "probability", "raw"}
        ``mask``: 0, or the class. ``labels``: 26-connected objects of the foreground, numbered by first voxel.
        ``probability`` and ``raw``: what the tiles hold.
    threshold : float, optional
        Probability from which a voxel is foreground; 0.5 by default.
    smooth : float
        Standard deviation, in voxels, of a Gaussian over the probability before the threshold; for labels.
    min_size : int
        Objects of fewer voxels are left out.
    split : bool
        Cut touching objects apart, by watershed inside each object's bounding box.
    split_depth : float
        How deep a neck must be to be cut, as a fraction of the object's largest distance to its border.
    split_limit : int
        Objects with a bounding box of more voxels are left whole, and counted.
    objects : path, optional
        CSV of the objects (see :mod:`medhpc.stitch.table`); labels only.
    levels : int, optional
        Levels of an OME-Zarr's pyramid; 1 for none.
    progress : callable, optional
        Called with (steps done, steps).

    Raises
    ------
    MissingTiles
        Tiles are missing or damaged; says which, and the command that fills them.
    NotInPlan
        The tiles do not hold what was asked for.
    BadOption, NoPermission, DiskFull
    """
    began = time.monotonic()
    opened, out = Run(run), Path(out)
    level = check_kind(opened.plan, kind, threshold)
    _check_for_labels(kind, smooth=smooth, min_size=min_size, split=split, objects=objects)
    check_writable(out)
    if objects is not None:
        check_table(Path(objects))
    opened.require_all()
    request = {
        "plan": opened.ledger.plan,
        "out": str(out.resolve()),
        "kind": kind,
        "threshold": level,
        "smooth": smooth,
        "min_size": min_size,
        "split": [split_depth, split_limit] if split else None,
        "levels": levels,
    }
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
    scratch = Scratch(opened.scratch / digest)
    with scratch.locked(request), room_and_rights(out):
        stage = Stage(opened, out, scratch, kind, levels)
        labelling = None
        if kind == "labels":
            foreground = Foreground(ProvenTiles(opened), opened.plan, level, smooth)
            splitting = _splitting(opened.plan, split_depth, split_limit) if split else None
            labelling = _find_objects(opened.plan, scratch, foreground, splitting, min_size, progress)
            stage.write_labels(labelling, progress)
            if objects is not None:
                write_table(Path(objects), labelling.table, _voxel_size_um(opened.plan), foreground.full)
        else:
            stage.write_blockwise(level, progress)
        shape, dtype = stage.publish()
    opened.add_result(out)
    return StitchResult(
        out=str(out),
        kind=kind,
        shape=shape,
        dtype=dtype,
        objects=None if labelling is None else len(labelling.table),
        left_whole=0 if labelling is None else labelling.left_whole,
        table=str(objects) if objects else None,
        seconds=time.monotonic() - began,
    )


def _find_objects(
    plan: Plan,
    scratch: Scratch,
    foreground: Foreground,
    splitting: Splitting | None,
    min_size: int,
    progress: Progress | None,
) -> Labelling:
    """Label all slabs, and split what touches."""
    volume = plan.source.shape
    thickness = _thickness(volume)
    slabs = whole_planes(plan.region, volume, thickness)
    components = _components(scratch, volume, thickness)
    labelling = Labelling(slabs, volume, components, scratch, splitting=splitting, min_size=min_size)
    steps = len(slabs) * (3 if splitting else 2)  # the last third, or half, is writing the ids
    for number in range(len(slabs)):
        labelling.label(number, foreground.mask, foreground.probability)
        if progress:
            progress(number + 1, steps)
    for number in range(len(slabs)):
        labelling.split(number, foreground.probability)
        if progress and splitting:
            progress(len(slabs) + number + 1, steps)
    return labelling


def _thickness(volume: tuple[int, int, int]) -> int:
    """Planes of a slab that is labelled at once: a power of two, so that slabs are whole chunks."""
    affordable = max(1, SLAB_VOXELS // (volume[1] * volume[2]))
    return min(THICKEST, 2 ** int(math.log2(affordable)))


def _components(scratch: Scratch, volume: tuple[int, int, int], thickness: int) -> Any:
    """The array of provisional labels."""
    folder = scratch.folder / "components.zarr"
    if not scratch.has("components"):
        zarr.create_array(
            folder,
            shape=volume,
            dtype="uint32",
            chunks=tuple(min(n, length) for n, length in zip((thickness, 256, 256), volume, strict=True)),
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
            overwrite=True,
        )
        scratch.mark("components")
    return zarr.open_array(folder, mode="r+")


def _check_for_labels(kind: str, **options: Any) -> None:
    """Refuse options that have a meaning for labels only."""
    given = [name for name, value in options.items() if value]
    if kind != "labels" and given:
        raise BadOption(f"--{given[0].replace('_', '-')} needs objects: use it with --as labels")


def _voxel_size_um(plan: Plan) -> tuple[float, float, float] | None:
    if plan.source.voxel_size is None:
        return None
    factor = 1000.0 if plan.source.unit == "mm" else 1.0
    z, y, x = (size * factor for size in plan.source.voxel_size)
    return z, y, x


def _splitting(plan: Plan, depth: float, limit: int) -> Splitting:
    if not 0 < depth < 1:
        raise BadOption(f"split depth {depth} is not a fraction between 0 and 1")
    # Distances are measured in the volume's own unit, between cubes where it has none.
    return Splitting(depth=depth, limit=limit, voxel_size=plan.source.voxel_size or (1.0, 1.0, 1.0))
