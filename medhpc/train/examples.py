"""A volume and its truth, cut into what is learnt from and what is judged on.

::

    region   |<------------- train ------------->|  gap  |<- validation ->|     along one axis
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.blocks import blocks
from medhpc.errors import BadOption, BadTruth, NonFinite
from medhpc.geometry import Box, Index, parse_region
from medhpc.train.options import Options
from medhpc.train.truth import IGNORE, Anchors, Targets, Truth, open_truth
from medhpc.volume import Statistics, Volume, open_volume

CACHE_BYTES = 2 * 2**30
"""Regions up to this size (all examples together) are read once and kept."""
VALIDATION_BLOCK = 96
MOST_VALIDATION_BLOCKS = 16
MOST_JUDGED = MOST_VALIDATION_BLOCKS * VALIDATION_BLOCK**3 // 4
"""Voxels of a held-out slab that is judged as a whole."""
LEAST_JUDGED = 48
"""Held-out slabs thinner than this many voxels are judged amid what lies beside them, as they will be seen later."""
MOST_HELD_OUT = 1 / 3

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

    def held_out(self) -> list[Patch]:
        """What the network is judged on; voxels outside the held-out slab are context, and ignored."""
        judged = []
        for box in self._validation_boxes():
            around_it = box.at_least((LEAST_JUDGED,) * 3, self.region)
            image, targets = self.read(around_it)
            known = np.full(around_it.shape, IGNORE, np.uint8)
            known[box.relative_to(around_it).slices] = targets[box.relative_to(around_it).slices]
            judged.append((image, known))
        return judged

    def as_json(self) -> dict[str, Any]:
        """What tells this example from others."""
        volume = self.volume
        return {
            "path": volume.path,
            "shape": list(volume.shape),
            "voxel_size_um": volume.voxel_size_um and list(volume.voxel_size_um),
            "fingerprint": volume.fingerprint(),
            "truth": self.truth_path,
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
        }

    def _validation_boxes(self) -> list[Box]:
        """What is judged: the held-out slab, or blocks of it around objects and background in turn."""
        if self.validation is None:
            return []
        shape = self.validation.shape
        block = _three(min(n, VALIDATION_BLOCK) for n in shape)
        if self.validation.size <= MOST_JUDGED:
            return [self.validation]
        classes = sorted(self.judged)
        each = -(-MOST_VALIDATION_BLOCKS // max(1, len(classes)))
        voxels = [voxel for number in classes for voxel in self.judged[number][:each]]
        return [around(voxel, block, self.validation, (0.5,) * 3) for voxel in voxels]

    def _hold_out(self, minimum: Index, options: Options) -> None:
        """Split the region where the held-out part has about its share of the objects."""
        if not options.validation:
            self.train, self.validation = self.region, None
            check_room(self.region, minimum, self.volume.path)
        else:
            choices = splits(self.region, options.validation, minimum, self.volume.path)
            drawn = self._truth.anchors(self.region, np.random.default_rng(options.seed))
            objects = [voxels for number, voxels in drawn.items() if number]
            voxels = np.concatenate([np.empty((0, 3), np.int64), *objects])
            self.train, self.validation = fairest(choices, voxels, options.validation)
        rng = np.random.default_rng(options.seed)
        self.anchors = self._truth.anchors(self.train, rng)
        self.judged = self._truth.anchors(self.validation, rng) if self.validation else {}
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
        if options.voxel_size_um:
            volume.voxel_size, volume.unit = options.voxel_size_um, "um"
        region = region_of(volume, options)
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


def region_of(volume: Volume, options: Options) -> Box:
    """The part of a volume that is learnt from and judged on."""
    return parse_region(options.region, volume.shape) if options.region else Box.whole(volume.shape)


def splits(region: Box, fraction: float, minimum: Index, path: str) -> list[tuple[Box, Box]]:
    """All ways to hold out one end of an axis, as (train, validation), the longest axis and its far end first.

    A gap lies between the two, so that few objects are in both. Other axes than the longest are there only where they
    cost no more than `MOST_HELD_OUT` of the region: on a short axis the network's padding asks for a thick slab.

    Raises
    ------
    BadTruth
        Not even along the longest axis are both parts as long as the network's padding needs.
    """
    choices: list[tuple[Box, Box]] = []
    for axis in sorted(range(3), key=lambda axis: -region.shape[axis]):
        length = region.shape[axis]
        held = max(round(length * fraction), minimum[axis])
        gap = min(16, max(2, length // 16))
        rest = length - held - gap
        if choices and (held + gap > MOST_HELD_OUT * length or rest < minimum[axis]):
            continue
        check_room(_cut(region, axis, 0, rest), minimum, path, {axis: held + gap})
        choices.append((_cut(region, axis, 0, rest), _cut(region, axis, length - held, length)))
        choices.append((_cut(region, axis, length - rest, length), _cut(region, axis, 0, held)))
    return choices


def fairest(choices: Sequence[tuple[Box, Box]], objects: NDArray[np.int64], fraction: float) -> tuple[Box, Box]:
    """The first way to hold out a slab that has its share of the objects' voxels (n, 3), to a factor of two.

    Where there is none, the one that comes nearest. A slab with none of them judges nothing, one with all leaves
    nothing to learn from.
    """

    def unfairness(choice: tuple[Box, Box]) -> float:
        train, validation = (((objects >= box.start) & (objects < box.stop)).all(1).sum() for box in choice)
        if not train or not validation:
            return np.inf
        return max(1.0, abs(float(np.log2(validation / len(objects) / fraction))))

    return min(choices, key=unfairness)


def check_room(train: Box, minimum: Index, path: str, held_out: Mapping[int, int] | None = None) -> None:
    """Refuse to learn from less than the network's padding needs; `held_out` is what was taken away along an axis."""
    lacking = []
    for axis, (n, least) in enumerate(zip(train.shape, minimum, strict=True)):
        if n < least:
            taken = f" (after holding out {held_out[axis]} for validation)" if held_out and axis in held_out else ""
            lacking.append(f"{n} voxels along {'zyx'[axis]}{taken}, and the network needs {least}")
    if not lacking:
        return
    flat = "a 2D network (--ndim 2) needs one plane, " if train.shape[0] < minimum[0] else ""
    raise BadTruth(f"{path}: the region is too thin: {'; '.join(lacking)} ({flat}less --depth needs less)")


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
