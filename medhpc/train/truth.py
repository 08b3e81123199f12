"""What the annotations say of each voxel: the number of its class, or that it teaches nothing.

A truth gives, for any box of the volume, targets of shape (z, y, x): 0 background, 1 and up the classes, `IGNORE` for
voxels that the loss leaves out. Labels are looked up, points are drawn as balls; nothing is held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import blocks
from medhpc.errors import BadOption, BadTruth
from medhpc.geometry import Box, Index
from medhpc.points import is_points_path, points_in_volume, read_points
from medhpc.train.options import Options
from medhpc.volume import Volume, open_volume

IGNORE = 255
MARGIN = 1.5
"""From the radius to this many radii around a point nothing is taught: objects differ in size, and a rim that is called
background in one and object in the next only makes the network unsure (measured on the demo: F1 0.88, without 0.14)."""
NEAR = 2.5
"""`background="near"`: a shell around each point, from the margin to this many radii."""
MOST_ANCHORS = 20_000

NEAR_WEIGHT = NEAR**3 - MARGIN**3
"""`background="near"`: what an object's voxel weighs, a shell's being 1. How common objects are, shells do not tell, so
balls and shells count alike; otherwise a few cells that nobody marked, in the shells of others, hide all the rest."""

Targets = NDArray[np.uint8]
Anchors = dict[int, NDArray[np.int64]]
"""Class -> (n, 3) voxels of the whole volume around which patches are drawn."""


class Truth(Protocol):
    """What a kind of annotation implements."""

    def targets(self, box: Box) -> Targets:
        """Class of each voxel of a box."""

    def anchors(self, box: Box, rng: np.random.Generator) -> Anchors:
        """Voxels of each class in a box; at most `MOST_ANCHORS` of each, all equally likely."""


def open_truth(path: str, volume: Volume, region: Box, options: Options, files: ExitStack) -> Truth:
    """Open annotations of any kind; `files` closes them.

    Raises
    ------
    BadTruth, BadOption
        They do not fit the volume, or options were given that do not fit them.
    """
    if is_points_path(path):
        positions = read_points(path).in_voxels(volume.voxel_size_um)
        return _points(path, positions, volume, options)
    marks = files.enter_context(open_volume(path))
    if marks.shape != volume.shape or marks.channels != 1:
        raise BadTruth(
            f"{path}: {marks.channels} x {marks.shape} voxels for the {volume.shape} of {volume.path}; "
            "expected one channel of the same shape"
        )
    if options.truth == "points":
        return _points(path, points_in_volume(marks, region).positions, volume, options)
    return LabelTruth(marks, options)


class LabelTruth:
    """A label volume: any label above zero is the object, or labels are merged into classes."""

    def __init__(self, volume: Volume, options: Options) -> None:
        if options.background == "near":
            raise BadOption(f"background 'near' is for points; {volume.path} holds labels: give all or a label value")
        if options.radius is not None:
            raise BadOption(f"radius is for points, and {volume.path} is read as labels: leave it out, or truth points")
        self._volume = volume
        self._background, self._ignore = options.background, options.ignore
        self._ranges = list(options.classes.values()) if options.classes else None

    def targets(self, box: Box) -> Targets:
        """Class of each voxel of a box."""
        labels = self._volume.read(box)[0]
        if self._ranges is None:
            targets = (labels > 0).astype(np.uint8)
        else:
            targets = np.zeros(labels.shape, np.uint8)
            for number, ranges in enumerate(self._ranges, 1):
                for low, high in ranges:
                    targets[(labels >= low) & (labels <= high)] = number
        if self._background != "all":  # one value is the background; what is neither it nor an object is unknown
            targets[targets == 0] = IGNORE
            targets[labels == self._background] = 0
        if self._ignore is not None:
            targets[labels == self._ignore] = IGNORE
        return targets

    def anchors(self, box: Box, rng: np.random.Generator) -> Anchors:
        """Voxels of each class in a box; the box is read once, block by block."""
        kept: Anchors = {}
        keys: dict[int, NDArray[np.float64]] = {}
        for block in blocks(box, self._volume.chunks):
            targets = self.targets(block)
            present = np.flatnonzero(np.bincount(targets.ravel(), minlength=256)[:IGNORE])
            for number in map(int, present):
                found = np.flatnonzero(targets == number)
                key = rng.random(len(found))
                best = np.argsort(key)[:MOST_ANCHORS] if len(found) > MOST_ANCHORS else np.arange(len(found))
                voxels = np.stack(np.unravel_index(found[best], block.shape), 1) + np.array(block.start)
                key = np.concatenate([keys.get(number, np.empty(0)), key[best]])
                voxels = np.concatenate([kept.get(number, np.empty((0, 3), np.int64)), voxels])
                best = np.argsort(key)[:MOST_ANCHORS]  # the smallest of random keys: a fair draw over all blocks
                keys[number], kept[number] = key[best], voxels[best]
        return kept


class PointTruth:
    """Points, drawn as balls of a radius in micrometres.

    Parameters
    ----------
    positions : (n, 3)
        Centres, z y x in voxels.
    spacing : (3,)
        Voxel size in micrometres.
    radius : float
        Micrometres.
    near : bool
        Only a shell around each point, from `MARGIN` to `NEAR` radii, is background; what is farther away is ignored.
    """

    def __init__(
        self, positions: NDArray[np.float64], spacing: Sequence[float], radius: float, *, near: bool = False
    ) -> None:
        self._positions, self._spacing = positions, np.asarray(spacing)
        self._radius, self._near = radius, near

    def targets(self, box: Box) -> Targets:
        """Class of each voxel of a box; where balls, margins and shells overlap, the first of these counts."""
        targets = np.full(box.shape, IGNORE if self._near else 0, np.uint8)
        if self._near:
            self._draw(targets, box, self._radius * NEAR, 0)
        self._draw(targets, box, self._radius * MARGIN, IGNORE)
        self._draw(targets, box, self._radius, 1)
        return targets

    def anchors(self, box: Box, rng: np.random.Generator) -> Anchors:
        """The points, and for the background any voxel (or the points again, where only a shell is background)."""
        nearest = np.rint(self._positions).astype(np.int64)
        inside = ((nearest >= box.start) & (nearest < box.stop)).all(1)
        points = nearest[inside]
        if not len(points):
            return {}
        anywhere = rng.integers(box.start, box.stop, size=(MOST_ANCHORS, 3))
        return {0: points if self._near else anywhere, 1: points}

    def _draw(self, targets: Targets, box: Box, radius: float, value: int) -> None:
        """Set the voxels within `radius` of a point, and the voxel nearest to it, to `value`."""
        reach = np.maximum(radius / self._spacing, 0.5)
        low = np.ceil(self._positions - reach).astype(np.int64)
        high = np.floor(self._positions + reach).astype(np.int64) + 1
        touching = ((high > box.start) & (low < box.stop)).all(1)
        for point, first, last in zip(self._positions[touching], low[touching], high[touching], strict=True):
            part = Box(_index(first), _index(last)).intersection(box)
            axes = [np.arange(a, b) - p for a, b, p in zip(part.start, part.stop, point, strict=True)]
            z, y, x = (axis * size for axis, size in zip(axes, self._spacing, strict=True))
            squares = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
            ball = squares <= radius**2
            if value == 1:
                nearest = [np.abs(axis) <= 0.5 for axis in axes]
                ball |= nearest[0][:, None, None] & nearest[1][:, None] & nearest[2]
            targets[part.relative_to(box).slices][ball] = value


def _points(path: str, positions: NDArray[np.float64], volume: Volume, options: Options) -> PointTruth:
    """Check points and the options that go with them."""
    if options.radius is None:
        raise BadOption(f"{path} holds points; give the radius of the objects in micrometres (--radius)")
    if options.ignore is not None or options.classes or isinstance(options.background, int):
        raise BadOption(f"{path} holds points; ignore, classes and a background label are for label volumes")
    if volume.voxel_size_um is None:
        raise BadTruth(
            f"{volume.path} has no voxel size, so a radius in micrometres cannot be drawn; "
            "give --voxel-size Z,Y,X in um, or set it with medhpc convert --voxel-size Z,Y,X --unit um"
        )
    outside = ((positions < -1) | (positions > np.array(volume.shape))).any(1)
    if outside.any():
        first = ", ".join(f"{value:g}" for value in positions[outside][0])
        raise BadTruth(
            f"{path}: {outside.sum()} of {len(positions)} points lie outside the volume of {volume.shape} voxels, "
            f"the first at {first} (z, y, x): is the unit, the order of the axes or the voxel size another?"
        )
    return PointTruth(positions, volume.voxel_size_um, options.radius, near=options.background == "near")


def _index(values: NDArray[np.int64]) -> Index:
    z, y, x = (int(value) for value in values)
    return z, y, x
