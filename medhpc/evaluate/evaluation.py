"""What an evaluation found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from medhpc.geometry import Index

SCORES = ("dice", "iou", "ap50", "precision", "recall", "f1", "psnr", "ssim")


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Agreement of the voxels of one class."""

    name: str
    dice: float
    iou: float
    result_voxels: int
    truth_voxels: int


@dataclass(frozen=True, kw_only=True)
class SeamErrors:
    """The error beside the faces between tiles, and everywhere else.

    Attributes
    ----------
    measure : str
        What `near` and `elsewhere` are means of.
    near, elsewhere : float or None
        None where there is no such voxel.
    near_voxels, elsewhere_voxels : int
        Voxels that were compared.
    width : (z, y, x)
        A voxel is near where it is among so many on either side of a face.
    """

    measure: str
    near: float | None
    elsewhere: float | None
    near_voxels: int
    elsewhere_voxels: int
    width: Index

    @property
    def ratio(self) -> float | None:
        """Error near the faces over the error elsewhere; about 1 where seams cost nothing."""
        return self.near / self.elsewhere if self.near is not None and self.elsewhere else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Agreement of a result with the truth; None for what does not apply to the two.

    Attributes
    ----------
    result, truth : str
        What was compared.
    result_kind, truth_kind : {"points", "mask", "labels", "image"}
        What they were taken for.
    region : str or None
        Z0:Z1,Y0:Y1,X0:X1; None: everything.
    dice, iou : float or None
        Of the foreground; where there are several classes, the mean over them.
    ap50 : float or None
        Average precision of instances at an intersection over union of 0.5.
    precision, recall, f1 : float or None
        Of the objects, paired one to one as `matched_by` says.
    psnr, ssim : float or None
        Of images; `psnr` (dB) is infinite where there is no difference.
    classes : tuple of ClassScore
        A line for each class; one for the foreground of masks and instances.
    matched_by : str or None
        ``distance`` (within the tolerance) or ``IoU >= 0.5``.
    found, annotated, matched : int or None
        Objects of the result, of the truth, and pairs of them.
    mean_distance_um : float or None
        Between the two points of a pair, where points were matched.
    tolerance_um : float or None
        Points at this distance or closer could be a pair.
    data_range : float or None
        Range of values that PSNR and SSIM are relative to.
    mean_squared_error, max_difference : float or None
        Of images.
    seams : SeamErrors or None
    notes : tuple of str
        What a reader of the figures should know.
    """

    result: str
    truth: str
    result_kind: str
    truth_kind: str
    region: str | None = None
    dice: float | None = None
    iou: float | None = None
    ap50: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    classes: tuple[ClassScore, ...] = ()
    matched_by: str | None = None
    found: int | None = None
    annotated: int | None = None
    matched: int | None = None
    mean_distance_um: float | None = None
    tolerance_um: float | None = None
    data_range: float | None = None
    mean_squared_error: float | None = None
    max_difference: float | None = None
    seams: SeamErrors | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it: all keys are always there, null where they do not apply.

        JSON has no infinity: `psnr` is null for images without a difference, and `max_difference` is 0.
        """
        values = asdict(self)
        if self.psnr is not None and math.isinf(self.psnr):
            values["psnr"] = None
        if self.seams is not None:
            values["seams"]["ratio"] = self.seams.ratio
        return values

    def lines(self) -> dict[str, str]:
        """The figures that apply, as name and text for a person."""
        lines = {"result": f"{self.result} ({self.result_kind})", "truth": f"{self.truth} ({self.truth_kind})"}
        if self.region:
            lines["region"] = self.region
        if self.found is not None:
            lines["objects"] = (
                f"{self.found} found, {self.annotated} annotated, {self.matched} matched by {self._pairs}"
            )
        scores = {name: getattr(self, name) for name in SCORES}
        lines |= {name: f"{value:.4f}" for name, value in scores.items() if value is not None and name != "psnr"}
        if self.psnr is not None:
            lines["psnr"] = f"{self.psnr:.2f} dB, for a range of {self.data_range:g}"
        if self.max_difference is not None:
            lines["largest difference"] = f"{self.max_difference:g}"
        if self.mean_distance_um is not None:
            lines["mean distance"] = f"{self.mean_distance_um:.2f} um"
        if len(self.classes) > 1:
            lines["classes"] = "\n".join(f"{c.name}: dice {c.dice:.4f}, iou {c.iou:.4f}" for c in self.classes)
        if self.seams is not None:
            lines["seams"] = _seam_line(self.seams)
        return lines | ({"notes": "\n".join(self.notes)} if self.notes else {})

    @property
    def _pairs(self) -> str:
        return f"distance (up to {self.tolerance_um:g} um)" if self.matched_by == "distance" else str(self.matched_by)


def _seam_line(seams: SeamErrors) -> str:
    near, elsewhere = ("-" if value is None else f"{value:.3g}" for value in (seams.near, seams.elsewhere))
    ratio = "" if seams.ratio is None else f", ratio {seams.ratio:.3g}"
    return f"{seams.measure}: {near} near tile faces, {elsewhere} elsewhere{ratio}"
