"""Masks and labels, voxel by voxel: overlap tables, classes, centres of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.classes import Classes
from medhpc.errors import BadOption
from medhpc.evaluate.evaluation import ClassScore
from medhpc.evaluate.inputs import read_labels
from medhpc.evaluate.streams import Progress, stream
from medhpc.geometry import Box
from medhpc.metrics import Overlap, dice, iou, overlap, sum_overlaps
from medhpc.points import Points
from medhpc.volume import Volume

PENDING_PAIRS = 2**20


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the voxels of the two volumes become labels that can be compared; see :func:`medhpc.evaluate.evaluate`."""

    ignore: int | None = None
    classes: Classes | None = None
    threshold: float | None = None

    def read(self, result: Volume, truth: Volume, blocks: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Labels of the result, labels of the truth, and which voxels count."""
        found = read_labels(blocks[0], result.path) if self.threshold is None else blocks[0] >= self.threshold
        wanted = read_labels(blocks[1], truth.path)
        counts = np.ones(wanted.shape, bool) if self.ignore is None else wanted != self.ignore
        if self.classes:
            wanted = class_numbers(wanted, self.classes)
            found = found != 0 if len(self.classes) == 1 else found
        return found, wanted, counts


def stream_overlap(
    result: Volume, truth: Volume, region: Box, rules: Rules, progress: Progress | None = None
) -> Overlap:
    """The overlap table of two volumes; memory grows with its pairs only."""
    tables: list[Overlap] = [overlap([], [])]
    for _, _, blocks in stream([result, truth], region, progress=progress):
        found, wanted, counts = rules.read(result, truth, blocks)
        tables.append(overlap(found, wanted) if counts.all() else overlap(found[counts], wanted[counts]))
        if sum(len(table.voxels) for table in tables[1:]) > max(PENDING_PAIRS, len(tables[0].voxels)):
            tables = [sum_overlaps(tables)]
    return sum_overlaps(tables)


def class_numbers(labels: NDArray[Any], classes: Classes) -> NDArray[np.uint8]:
    """Label values as classes 1, 2, ... in the order of `classes`; 0 for all other labels."""
    if len(classes) > 255:
        raise BadOption(f"{len(classes)} classes: expected at most 255")
    numbers = np.zeros(labels.shape, np.uint8)
    for number, ranges in enumerate(classes.values(), 1):
        for low, high in ranges:
            numbers[(labels >= low) & (labels <= high)] = number
    return numbers


def class_scores(table: Overlap, are_classes: bool, names: Sequence[str] = ()) -> tuple[ClassScore, ...]:
    """Dice and IoU of each class, or of the foreground.

    Parameters
    ----------
    table : Overlap
    are_classes : bool
        Whether the values are classes; where neither side has more than one, they are foreground, whatever its value.
    names : sequence of str
        Of class 1, 2, ...; the numbers themselves unless given.
    """
    (in_result, _), (in_truth, _) = table.result_sizes(), table.truth_sizes()
    if not names and (not are_classes or max(len(in_result), len(in_truth)) <= 1):
        return (_score(table.foreground(), 1, "foreground"),)
    numbers = range(1, len(names) + 1) if names else np.union1d(in_result, in_truth).tolist()
    return tuple(_score(table, n, names[n - 1] if names else str(n)) for n in numbers)


def _score(table: Overlap, label: int, name: str) -> ClassScore:
    return ClassScore(
        name=name,
        dice=dice(table, label),
        iou=iou(table, label),
        result_voxels=int(table.voxels[table.result == label].sum()),
        truth_voxels=int(table.voxels[table.truth == label].sum()),
    )


def label_centres(volume: Volume, region: Box, progress: Progress | None = None) -> Points:
    """Centroids of the parts of all labels that lie in `region`, in the order of the labels; streamed."""
    sums = np.empty((0, 5))  # label, voxels, sums of z, y and x
    for box, _, (block,) in stream([volume], region, progress=progress):
        sums = _sum_by_label(np.concatenate([sums, _label_sums(read_labels(block, volume.path), box)]))
    return Points(positions=sums[:, 2:] / sums[:, 1:2])


def _label_sums(labels: NDArray[Any], box: Box) -> NDArray[np.float64]:
    places = np.flatnonzero(labels)
    at = np.stack(np.unravel_index(places, labels.shape), axis=1) + np.array(box.start)
    label = labels.ravel()[places]
    return _sum_by_label(np.column_stack([label, np.ones(len(label)), at]).astype(np.float64))


def _sum_by_label(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up the rows that begin with the same label."""
    names, at = np.unique(rows[:, 0], return_inverse=True)
    columns = [np.bincount(at, weights=column, minlength=len(names)) for column in rows[:, 1:].T]
    return np.column_stack([names, *columns])
