"""What a stitch is asked for, checked before any work is done for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medhpc.errors import BadOption, NotInPlan
from medhpc.run import Plan

KINDS = ("mask", "labels", "probability", "raw")
DEFAULT_THRESHOLD = 0.5
# Fraction of an object's largest distance to its border. Measured on the instance labels of two real volumes of nuclei,
# clean and noisy, 0.05 finds more of them than 0.1 (AP at IoU 0.5: 0.87 on average, not 0.78), and hardly cuts more
# rough ellipsoids in two (1 of 60, not 0).
SPLIT_DEPTH = 0.05
SPLIT_LIMIT = 2**24  # voxels of a bounding box


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of :func:`medhpc.stitch.stitch`."""

    kind: str = "mask"
    threshold: float | None = None
    smooth: float = 0.0
    min_size: int = 0
    split: bool = False
    split_depth: float = SPLIT_DEPTH
    split_limit: int = SPLIT_LIMIT
    objects: str | None = None
    levels: int | None = None

    @property
    def level(self) -> float:
        """The threshold in force."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    def check(self, plan: Plan) -> None:
        """Refuse what the stored tiles cannot give, and options without a meaning.

        Raises
        ------
        NotInPlan, BadOption
        """
        if self.kind not in KINDS:
            raise BadOption(f"'{self.kind}' is not one of {', '.join(KINDS)}")
        if self.kind in ("probability", "raw"):
            self._check_stored_as_it_is(plan)
        else:
            self._check_threshold(plan)
        self._check_numbers()
        self._check_meant_for_labels()

    def _check_stored_as_it_is(self, plan: Plan) -> None:
        stored, kind = plan.stored.kind, self.kind
        if stored != kind:
            raise NotInPlan(f"the run stores {stored}, not {kind}; plan one with 'medhpc tile --store {kind}'")
        if self.threshold is not None:
            raise BadOption(f"--threshold has no meaning for {kind}; leave it out, or ask for mask or labels")

    def _check_threshold(self, plan: Plan) -> None:
        stored, threshold = plan.stored, self.threshold
        if stored.kind == "argmax" and (threshold is not None or self.smooth):
            option = "smooth" if threshold is None else "threshold"
            raise NotInPlan(f"the run stores classes, --{option} needs probabilities; plan one that stores these")
        if stored.kind == "raw" and threshold is None:
            raise NotInPlan(f"the run stores raw numbers; give the --threshold from which they are {self.kind}")
        if stored.kind == "raw" and stored.channels > 1:
            raise NotInPlan(
                f"the run stores {stored.channels} raw channels, {self.kind} needs one; use --store probability"
            )
        if stored.kind == "probability" and not 0 < self.level <= 1:
            raise BadOption(f"threshold {threshold} is not a probability above 0 and up to 1")
        if not math.isfinite(self.level):
            raise BadOption(f"threshold {threshold} is not a number")

    def _check_meant_for_labels(self) -> None:
        asked = {"smooth": self.smooth, "min-size": self.min_size, "split": self.split, "objects": self.objects}
        given = [option for option, value in asked.items() if value]
        if self.kind != "labels" and given:
            raise BadOption(f"--{given[0]} needs objects: use it with --as labels")

    def _check_numbers(self) -> None:
        if not 0 <= self.smooth < math.inf:
            raise BadOption(f"smooth {self.smooth} is not a number of voxels, 0 or more")
        if self.min_size < 0:
            raise BadOption(f"min-size {self.min_size} is not a number of voxels, 0 or more")
        if self.split and not 0 < self.split_depth < 1:
            raise BadOption(f"split depth {self.split_depth} is not a fraction between 0 and 1")
        if self.levels is not None and self.levels < 1:
            raise BadOption(f"{self.levels} levels, expected at least one")
