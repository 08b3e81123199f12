"""What a path holds: points, a mask, labels or an image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import BadOption, BadTruth
from medhpc.geometry import Box, Index, parse_region
from medhpc.points import Points, is_points_path, read_points
from medhpc.volume import Volume, open_volume

Kind: TypeAlias = Literal["points", "mask", "labels", "image"]
KINDS = ("auto", "points", "mask", "labels", "image")

SAMPLE: Index = (16, 128, 128)
SAMPLES: Index = (4, 3, 3)
LEAST_EQUAL = 0.75
"""Part of the neighbouring voxels that are equal in labels."""

ENDLESS = 2**40
"""Length of the axes of points that belong to no volume."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """The result, or the truth: a table of points, or a volume.

    Attributes
    ----------
    kind : str
        One of `KINDS`; ``auto`` until :func:`settle_kind`.
    """

    path: str
    kind: str
    points: Points | None = None
    volume: Volume | None = None

    @property
    def voxel_size_um(self) -> Sequence[float] | None:
        """Voxel size (z, y, x), if the file tells it."""
        if self.volume is not None:
            return self.volume.voxel_size_um
        return self.points.voxel_size_um if self.points is not None else None


def open_side(path: str, kind: str, channel: int | None, files: ExitStack) -> Side:
    """Open one of the two; `files` closes it."""
    if kind not in KINDS:
        raise BadOption(f"kind '{kind}' is none of {', '.join(KINDS)}")
    if is_points_path(path):
        if kind not in ("auto", "points"):
            raise BadOption(f"{path} is a table of points, not {kind}: leave the kind out")
        return Side(path=path, kind="points", points=read_points(path))
    volume = files.enter_context(open_volume(path, channel=channel))
    if volume.channels > 1:
        raise BadOption(f"{path} has {volume.channels} channels: choose one to compare (0 to {volume.channels - 1})")
    return Side(path=path, kind=kind, volume=volume)


def common_region(sides: Sequence[Side], region: str | Box | None) -> Box:
    """The voxels that are compared.

    Raises
    ------
    BadTruth
        The volumes have different shapes.
    BadOption
        The region leaves them.
    """
    volumes = [side.volume for side in sides if side.volume is not None]
    shape = volumes[0].shape if volumes else (ENDLESS,) * 3
    for volume in volumes[1:]:
        if volume.shape != shape:
            raise BadTruth(
                f"{volumes[0].path} has {shape} voxels, {volume.path} {volume.shape}: expected the same shape"
            )
    whole = Box.whole(shape)
    box = parse_region(region, shape) if isinstance(region, str) else region or whole
    if not box.size or not whole.contains(box):
        raise BadOption(f"region {box} is empty or leaves the volume of {shape} voxels")
    return box


def settle_kind(side: Side, region: Box, *, is_mask: bool) -> Side:
    """Find out what a volume of kind ``auto`` holds; `is_mask` where options make a mask of whatever it holds."""
    if side.volume is None or side.kind == "points":
        return side
    if is_mask:
        return replace(side, kind="mask")
    return replace(side, kind=guess_kind(side.volume, region)) if side.kind == "auto" else side


def guess_kind(volume: Volume, region: Box) -> Kind:
    """Tell masks, labels and images apart by samples of their voxels.

    Fractions and values below -1 are an image's. One value besides 0 is a mask's. Else, of the neighbours along x that
    are both not zero, nearly all are equal in labels (0.99 in nuclei and organs: they lie in the same object), about
    half in a map of probabilities (0 to 255), and few in an image (below 0.1: there is noise).
    """
    values: set[float] = set()
    pairs = equal = 0
    for box in _samples(region):
        block = volume.read(box)[0]
        if block.min() < -1 or not np.array_equal(block, np.rint(block)):
            return "image"
        left, right = block[:, :, :-1], block[:, :, 1:]
        both = (left != 0) & (right != 0)
        pairs += int(both.sum())
        equal += int((both & (left == right)).sum())
        values |= set(np.unique(block[block != 0])[:2].tolist())
    if not values:
        return "labels" if volume.dtype.itemsize > 1 else "mask"
    if len(values) == 1:
        return "mask"
    return "labels" if equal >= LEAST_EQUAL * pairs else "image"


def read_labels(block: NDArray[Any], path: str) -> NDArray[Any]:
    """Labels as integers: some formats keep them as floats.

    Raises
    ------
    BadTruth
        There are fractions among them.
    """
    if block.dtype.kind != "f":
        return block
    if not np.array_equal(block, np.rint(block)):
        raise BadTruth(f"{path} holds fractions: expected labels or a mask; say kind image, or give a threshold")
    return block.astype(np.int64)


def _samples(region: Box) -> list[Box]:
    """Boxes spread evenly over the region; together all of it, where it is small."""
    axes = []
    for start, length, sample, most in zip(region.start, region.shape, SAMPLE, SAMPLES, strict=True):
        size = min(length, sample)
        count = min(most, -(-length // size))
        axes.append([(int(at), int(at) + size) for at in np.linspace(start, start + length - size, count)])
    return [Box((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*axes)]
