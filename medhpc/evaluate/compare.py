"""The one function that compares anything with anything."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.classes import Classes
from medhpc.errors import BadOption, BadTruth
from medhpc.evaluate.detection import detect
from medhpc.evaluate.evaluation import Evaluation, SeamErrors
from medhpc.evaluate.images import image_scores
from medhpc.evaluate.inputs import Side, common_region, open_side, settle_kind
from medhpc.evaluate.seams import seam_errors
from medhpc.evaluate.streams import Progress
from medhpc.evaluate.voxels import Rules, class_scores, label_centres, stream_overlap
from medhpc.geometry import Box
from medhpc.metrics import Detection, Overlap, average_precision, matched_instances
from medhpc.points import Points, points_in_volume
from medhpc.run import Run

AROUND = 64
"""Voxels around a region in which whole labels are looked for, so that their centroids are not those of parts."""
INCOMPLETE = (
    "more objects found than annotated; precision and F1 take the rest for errors, which they are only where "
    "every object is annotated (else give --partial, or a --region that is)"
)


def evaluate(
    result: str | Path,
    truth: str | Path,
    *,
    kind: str = "auto",
    truth_kind: str = "auto",
    tolerance_um: float | None = None,
    voxel_size_um: Sequence[float] | None = None,
    region: str | Box | None = None,
    ignore: int | None = None,
    classes: Classes | None = None,
    threshold: float | None = None,
    channel: int | None = None,
    truth_channel: int | None = None,
    data_range: float | None = None,
    seams: str | Path | Run | None = None,
    partial: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a result against the truth.

    ============== ================ ==========================================================================
    result         truth            measures
    ============== ================ ==========================================================================
    points, labels points, labels   precision, recall, F1 of the objects (of centroids, where labels are given)
    mask, labels   mask, labels     Dice and IoU of the foreground, or of each class where the values are classes
    labels         labels           also AP at IoU 0.5; precision, recall, F1 at IoU 0.5 unless a tolerance is given
    image          image            PSNR, SSIM
    ============== ================ ==========================================================================

    Parameters
    ----------
    result, truth : path
        A table of points (see :func:`medhpc.points.read_points`), or any volume; two volumes have one shape.
    kind, truth_kind : {"auto", "points", "mask", "labels", "image"}
        What a volume holds: single voxels that mark points, classes (0 is background), instances, or intensities.
        ``auto`` tells the last three apart by samples, and takes classes for instances: say ``mask`` for classes.
    tolerance_um : float, optional
        Points at this distance or closer can be a pair, in micrometres; needed for points. Labels are paired by it in
        place of IoU; for masks and images it means nothing.
    voxel_size_um : (z, y, x), optional
        Where neither file tells it, or tells it wrong.
    region : str or Box, optional
        Z0:Z1,Y0:Y1,X0:X1 in voxels of the whole volume: voxels outside are left out. A pair of points counts where its
        annotated point lies inside, a found point without a partner where it lies inside itself.
    ignore : int, optional
        Voxels that have this value in the truth are left out; for masks and labels.
    classes : mapping of str to [(first, last), ...], optional
        Values of the truth that make up class 1, 2, ... of the result, by name; of a single class, the result may have
        any value but 0.
    threshold : float, optional
        The result is an image, and this or more of it is foreground.
    channel, truth_channel : int, optional
        Which channel to compare.
    data_range : float, optional
        What PSNR and SSIM are relative to; the range of the truth in the region unless given.
    seams : path or Run, optional
        The run that made the result: also compare the error near its tile faces with the error elsewhere.
    partial : bool
        Not every object in the region is annotated: only recall is told, for the other measures take what nobody
        annotated for errors.
    progress : callable, optional
        Called with (voxels done, voxels in all), for each pass over the volumes.

    Raises
    ------
    BadTruth, BadOption
        The two cannot be compared, or not with these options.
    """
    rules = Rules(ignore=ignore, classes=classes, threshold=threshold)
    with ExitStack() as files:
        found = open_side(str(result), kind, channel, files)
        wanted = open_side(str(truth), truth_kind, truth_channel, files)
        box = common_region((found, wanted), region)
        found = settle_kind(found, box, is_mask=threshold is not None or len(classes or ()) > 1)
        wanted = settle_kind(wanted, box, is_mask=bool(classes))
        fields: dict[str, Any] = {}
        if "points" not in (found.kind, wanted.kind):
            fields |= _voxel_scores(found, wanted, box, rules, data_range, progress)
        elif rules != Rules():
            raise BadOption("ignore, classes and threshold are for voxels, and points were given: leave them out")
        if "points" in (found.kind, wanted.kind) or (tolerance_um and found.kind == wanted.kind == "labels"):
            limits = None if region is None else box
            fields |= _object_scores(found, wanted, tolerance_um, voxel_size_um, limits, progress)
        if seams is not None:
            fields["seams"] = _seam_scores(found, wanted, seams, box, rules, len(fields.get("classes", ())), progress)
    if partial:
        fields = _of_partial_truth(fields)
    elif fields.get("found") and fields["found"] > fields["annotated"]:
        fields["notes"] = (*fields.get("notes", ()), INCOMPLETE)
    if _is_empty(fields):
        fields["notes"] = (
            *fields.get("notes", ()),
            f"{found.path} is empty: nothing was found; try a lower --threshold",
        )
    return Evaluation(
        result=found.path,
        truth=wanted.path,
        result_kind=found.kind,
        truth_kind=wanted.kind,
        region=None if region is None else str(region),
        **fields,
    )


def _of_partial_truth(fields: dict[str, Any]) -> dict[str, Any]:
    """What remains true where not every object was annotated."""
    if "recall" not in fields:
        raise BadOption("partial truth is for objects: expected points or instance labels, or a region all annotated")
    told = ("found", "annotated", "matched", "matched_by", "recall", "mean_distance_um", "tolerance_um", "notes")
    return {name: fields[name] for name in told if name in fields}


def _is_empty(fields: dict[str, Any]) -> bool:
    """Whether the result has no object and no voxel of any class."""
    classes = fields.get("classes", ())
    return fields.get("found") == 0 or bool(classes) and not any(score.result_voxels for score in classes)


# --- objects -------------------------------------------------------------------------------------


def _object_scores(
    found: Side,
    wanted: Side,
    tolerance_um: float | None,
    voxel_size_um: Sequence[float] | None,
    limits: Box | None,
    progress: Progress | None,
) -> dict[str, Any]:
    if tolerance_um is None or not 0 < tolerance_um < np.inf:
        got = "not given" if tolerance_um is None else f"{tolerance_um:g}"
        raise BadOption(
            f"--tolerance is {got}; say up to how many um two points are the same object, about the radius of one "
            "(from Python: tolerance_um)"
        )
    size = voxel_size_um or found.voxel_size_um or wanted.voxel_size_um
    result, truth = (_centres(side, limits, progress) for side in (found, wanted))
    detection, distance = detect(result, truth, tolerance_um, size, limits)
    return _detection_fields(detection, "distance") | {"mean_distance_um": distance, "tolerance_um": tolerance_um}


def _centres(side: Side, limits: Box | None, progress: Progress | None) -> Points:
    if side.points is not None:
        return side.points
    assert side.volume is not None
    whole = Box.whole(side.volume.shape)
    around = limits.grow((AROUND, AROUND, AROUND)).intersection(whole) if limits else whole
    if side.kind == "points":
        return points_in_volume(side.volume, around, progress)
    if side.kind == "labels":
        return label_centres(side.volume, around, progress)
    raise BadTruth(
        f"{side.path} is taken for {side.kind}, which has no centres to compare points with: expected instance labels, "
        "or say kind points where its single voxels mark centres, or labels"
    )


def _detection_fields(detection: Detection, matched_by: str) -> dict[str, Any]:
    names = ("found", "annotated", "matched", "precision", "recall", "f1")
    return {name: getattr(detection, name) for name in names} | {"matched_by": matched_by}


# --- voxels --------------------------------------------------------------------------------------


def _voxel_scores(
    found: Side, wanted: Side, box: Box, rules: Rules, data_range: float | None, progress: Progress | None
) -> dict[str, Any]:
    assert found.volume is not None and wanted.volume is not None
    if "image" not in (found.kind, wanted.kind):
        table = stream_overlap(found.volume, wanted.volume, box, rules, progress)
        are_classes = found.kind == wanted.kind == "mask"
        instances = found.kind == wanted.kind == "labels"
        return _class_fields(table, are_classes, tuple(rules.classes or ())) | (
            _instance_fields(table) if instances else {}
        )
    if found.kind != wanted.kind:
        raise BadOption(
            f"{found.path} is taken for {found.kind} and {wanted.path} for {wanted.kind}: say the kind of both, "
            "or give a threshold that makes a mask of the result"
        )
    if rules.ignore is not None:
        raise BadOption("ignore is for masks and labels, and images were given: leave it out")
    return image_scores(found.volume, wanted.volume, box, data_range, progress)


def _class_fields(table: Overlap, are_classes: bool, names: Sequence[str]) -> dict[str, Any]:
    scores = class_scores(table, are_classes, names)
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in ("dice", "iou")}
    return {"classes": scores} | means


def _instance_fields(table: Overlap) -> dict[str, Any]:
    found, annotated = len(table.result_sizes()[0]), len(table.truth_sizes()[0])
    detection = Detection(found=found, annotated=annotated, matched=matched_instances(table))
    return {"ap50": average_precision(table)} | _detection_fields(detection, "IoU >= 0.5")


# --- seams ---------------------------------------------------------------------------------------


def _seam_scores(
    found: Side,
    wanted: Side,
    seams: str | Path | Run,
    box: Box,
    rules: Rules,
    n_classes: int,
    progress: Progress | None,
) -> SeamErrors:
    if found.volume is None or wanted.volume is None:
        raise BadOption("seams are looked for voxel by voxel: expected two volumes, and a table of points was given")
    plan = (Run(seams) if isinstance(seams, str | Path) else seams).plan
    if plan.grid.volume != found.volume.shape:
        raise BadOption(f"the run {seams} has {plan.grid.volume} voxels, {found.path} {found.volume.shape}")
    kind = "labels" if found.kind != "image" and n_classes == 1 else found.kind
    return seam_errors(
        found.volume, wanted.volume, plan.grid, plan.halo.size, box, kind=kind, rules=rules, progress=progress
    )
