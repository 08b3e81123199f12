"""A volume and its truth, cut into what is learnt from and what is judged on.

::

    region   |<------------- train ------------->|  gap  |<- validation ->|     along its longest axis
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import blocks
from medhpc.errors import BadOption, BadTruth, NonFinite
from medhpc.geometry import Box, Index, parse_region
from medhpc.train.options import Options
from medhpc.train.truth import Anchors, Targets, Truth, open_truth
from medhpc.volume import Statistics, Volume, open_volume

CACHE_BYTES = 2 * 2**30
"""Regions up to this size (all examples together) are read once and kept."""
VALIDATION_BLOCK = 96
MOST_VALIDATION_BLOCKS = 16

Patch = tuple[NDArray[np.float32], Targets]
"""Normalised image (channels, z, y, x) and targets (z, y, x)."""


class Example:
    """One volume, its truth, and the boxes that training and validation draw from.

    Attributes
    ----------
    train, validation : Box
        Voxels of the whole volume; `validation` is None where nothing is held out.
    anchors, judged : dict
        Class -> voxels, in `train` and in `validation`.
    """

    def __init__(
        self,
        volume: Volume,
        truth: Truth,
        truth_path: str,
        region: Box,
        minimum: Index,
        options: Options,
        cache_bytes: int,
    ) -> None:
        self.volume, self.region = volume, region
        self.truth_path, self._truth = truth_path, truth
        self._image: NDArray[np.generic] | None = None
        self._targets: Targets | None = None
        self.statistics = _sound_statistics(volume)
        self.normalize(self.statistics.mean, self.statistics.std)
        self._keep_if_small(cache_bytes)
        self._hold_out(minimum, options)

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set what images are normalised by, one number per channel."""
        self.mean = np.asarray(mean, np.float32).reshape(-1, 1, 1, 1)
        self.std = np.asarray([deviation or 1.0 for deviation in std], np.float32).reshape(-1, 1, 1, 1)

    def read(self, box: Box) -> Patch:
        """Normalised image and targets of a box inside the region."""
        inside = box.relative_to(self.region).slices
        image = self.volume.read(box) if self._image is None else self._image[(slice(None), *inside)]
        targets = self._truth.targets(box) if self._targets is None else self._targets[inside]
        normalised = (image.astype(np.float32) - self.mean) / self.std
        if not np.isfinite(normalised).all():
            raise NonFinite(f"{self.volume.path}: NaN or infinity in {box} (z, y, x); mend the volume first")
        return normalised, targets

    def validation_boxes(self) -> list[Box]:
        """What is judged: the held-out slab, or blocks of it around objects and background in turn."""
        if self.validation is None:
            return []
        shape = self.validation.shape
        block = _three(min(n, VALIDATION_BLOCK) for n in shape)
        if self.validation.size <= MOST_VALIDATION_BLOCKS * VALIDATION_BLOCK**3 // 4:
            return [self.validation]
        classes = sorted(self.judged)
        each = -(-MOST_VALIDATION_BLOCKS // max(1, len(classes)))
        voxels = [voxel for number in classes for voxel in self.judged[number][:each]]
        return [around(voxel, block, self.validation, (0.5,) * 3) for voxel in voxels]

    def _hold_out(self, minimum: Index, options: Options) -> None:
        """Split the region, at the end that leaves objects in both parts, and more of them to be judged by."""

        def held(at_end: bool) -> tuple[Box, Box | None, Anchors, Anchors]:
            train, validation = split(self.region, options.validation, minimum, self.volume.path, at_end)
            rng = np.random.default_rng(options.seed)
            anchors = self._truth.anchors(train, rng)
            return train, validation, anchors, self._truth.anchors(validation, rng) if validation else {}

        def objects(choice: tuple[Box, Box | None, Anchors, Anchors]) -> tuple[bool, int]:
            _, _, anchors, judged = choice
            return has_objects(anchors), sum(len(voxels) for number, voxels in judged.items() if number)

        choices = [held(True), held(False)] if options.validation else [held(True)]
        self.train, self.validation, self.anchors, self.judged = max(choices, key=objects)
        if not has_objects(self.anchors):
            raise BadTruth(f"{self.volume.path}: no object in {self.train} (z, y, x), the part to learn from")
        if 0 not in self.anchors:
            raise BadTruth(
                f"{self.volume.path}: no background in {self.train} (z, y, x): objects and ignored voxels only"
            )

    def _keep_if_small(self, most: int) -> None:
        """Read the region once, where it fits the memory set aside for it."""
        size = self.region.size * (self.volume.channels * self.volume.dtype.itemsize + 1)
        if size > most:
            if not self.volume.boxes_are_cheap:
                raise BadOption(
                    f"{self.volume.path}: {self.volume.why_expensive}, and its region does not fit {most >> 20} MiB: "
                    "convert it first (medhpc convert VOLUME OUT.ome.zarr), or give a smaller region"
                )
            return
        self._image = self.volume.read(self.region)
        self._targets = np.empty(self.region.shape, np.uint8)
        for box in blocks(self.region):
            self._targets[box.relative_to(self.region).slices] = self._truth.targets(box)


def open_examples(
    pairs: Sequence[tuple[str | Path, str | Path]], options: Options, minimum: Index, files: ExitStack
) -> list[Example]:
    """Open all pairs of volume and truth; `files` closes them.

    Raises
    ------
    BadTruth, BadOption
        Shapes or channels differ, nothing is annotated, or a region is too small.
    """
    if not pairs:
        raise BadOption("no volume to train on; expected pairs of a volume and its truth")
    examples: list[Example] = []
    for path, truth_path in pairs:
        volume = files.enter_context(open_volume(path))
        region = parse_region(options.region, volume.shape) if options.region else Box.whole(volume.shape)
        if examples and volume.channels != examples[0].volume.channels:
            raise BadTruth(
                f"{volume.path}: {volume.channels} channels, {examples[0].volume.path} has "
                f"{examples[0].volume.channels}; one network takes one number of channels"
            )
        truth = open_truth(str(truth_path), volume, region, options, files)
        examples.append(Example(volume, truth, str(truth_path), region, minimum, options, CACHE_BYTES // len(pairs)))
    if options.normalize == "network":
        mean, std = pooled([example.statistics for example in examples])
        for example in examples:
            example.normalize(mean, std)
    return examples


def split(region: Box, fraction: float, minimum: Index, path: str, at_end: bool = True) -> tuple[Box, Box | None]:
    """Hold out one end of the region's longest axis, with a gap so that few objects lie in both parts.

    Raises
    ------
    BadTruth
        One of the parts would be thinner than the network's padding allows.
    """
    axis = int(np.argmax(region.shape))
    length = region.shape[axis]
    held = max(round(length * fraction), minimum[axis]) if fraction else 0
    gap = min(16, max(2, length // 16)) if fraction else 0
    rest = length - held - gap
    train = _cut(region, axis, 0, rest) if at_end else _cut(region, axis, length - rest, length)
    if any(n < least for n, least in zip(train.shape, minimum, strict=True)):
        raise BadTruth(
            f"{path}: region {region} is too small: after holding out {held + gap} planes along {'zyx'[axis]} for "
            f"validation, {' x '.join(map(str, train.shape))} voxels are left; the network needs "
            f"{' x '.join(map(str, minimum))} (a 2D network, --ndim 2, needs one plane; less depth needs less)"
        )
    if not fraction:
        return train, None
    return train, _cut(region, axis, length - held, length) if at_end else _cut(region, axis, 0, held)


def around(voxel: NDArray[np.int64], shape: Index, bounds: Box, place: Sequence[float]) -> Box:
    """Box of a shape inside `bounds` that holds `voxel` at `place` (0 to 1 along each axis) where it can."""
    start = []
    for v, n, low, high, share in zip(voxel, shape, bounds.start, bounds.stop, place, strict=True):
        start.append(min(max(int(v) - int(share * n), low), high - n))
    return Box(_three(start), _three(a + n for a, n in zip(start, shape, strict=True)))


def pooled(statistics: Sequence[Statistics]) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of several volumes taken together, each counting the same."""
    means = np.array([s.mean for s in statistics])
    variances = np.array([s.std for s in statistics]) ** 2
    mean = means.mean(0)
    std = np.sqrt((variances + means**2).mean(0) - mean**2)
    return mean.tolist(), [deviation or 1.0 for deviation in std.tolist()]


def has_objects(anchors: Anchors) -> bool:
    """Whether any class but the background is there."""
    return any(number > 0 for number in anchors)


def _sound_statistics(volume: Volume) -> Statistics:
    statistics = volume.statistics()
    if statistics.nonfinite is not None:
        raise NonFinite(f"{volume.path}: NaN or infinity at {statistics.nonfinite} (z, y, x); mend the volume first")
    return statistics


def _cut(region: Box, axis: int, low: int, high: int) -> Box:
    start, stop = list(region.start), list(region.stop)
    start[axis], stop[axis] = region.start[axis] + low, region.start[axis] + high
    return Box(_three(start), _three(stop))


def _three(values: Iterable[int]) -> Index:
    z, y, x = values
    return z, y, x
