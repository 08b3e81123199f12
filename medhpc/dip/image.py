"""The volume that is denoised, read plane by plane: nobody holds more of it than its share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import BadOption, BadTruth, NonFinite
from medhpc.geometry import Box, Index
from medhpc.volume import open_volume
from medhpc.volume.base import Volume

BLOCK = 2**20
"""Voxels read at once, where the whole is looked through."""
STEP = 8
"""Of which the rows of a block are a multiple: blocks in which noise is measured."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a file says of the volume that is denoised; (z, y, x) of `shape`."""

    path: str
    channel: int | None
    channels: int
    shape: Index
    axes: str
    are_colours: bool
    dtype: np.dtype[Any]
    voxel_size: tuple[float, float, float] | None
    unit: str
    affine: NDArray[Any] | None
    nifti_header: bytes
    time_step: float | None
    fingerprint: dict[str, Any]

    @property
    def problem_shape(self) -> tuple[int, ...]:
        """(1, channels, space) of what is denoised at once; a plane has two axes."""
        flat = self.shape[0] == 1
        return (1, self.channels, *self.shape[1:]) if flat else (1, 1, *self.shape)

    @property
    def is_photo(self) -> bool:
        """Whether it is one plane in colour."""
        return self.are_colours and self.shape[0] == 1

    def fine_shape(self, factor: int) -> Index:
        """(z, y, x) of the result; a single plane stays one."""
        z, y, x = self.shape
        return z if z == 1 else factor * z, factor * y, factor * x

    def parts(self) -> list[slice]:
        """Channels that are denoised together: the colours of a plane, each volume of a series."""
        if self.shape[0] == 1:
            return [slice(0, self.channels)]
        return [slice(n, n + 1) for n in range(self.channels)]

    def whole(self, mask: str | Path | None = None) -> NDArray[np.float32]:
        """All voxels (channels, z, y, x), with the mean of a part's known ones in the place of others."""
        found = []
        for channels in self.parts():
            with self.part(channels, mask) as part:
                values = part.read(0, range(part.space[0]))
                found.append(values if mask is None else np.nan_to_num(values, nan=float(np.nanmean(values))))
        return np.concatenate(found)

    def part(self, channels: slice, mask: str | Path | None = None) -> Part:
        """Open these channels, and the mask of what is known of them."""
        one = self.channel if self.channels == 1 else channels.start if self.shape[0] > 1 else None
        with ExitStack() as opened:
            volume = opened.enter_context(open_volume(self.path, channel=one, series=True))
            known = None if mask is None else opened.enter_context(open_mask(mask, self.shape))
            return Part(volume, known, opened.pop_all())


def open_image(path: str | Path, channel: int | None = None) -> Image:
    """Read the header of a volume."""
    with open_volume(path, channel=channel, series=True) as volume:
        return Image(
            path=str(path),
            channel=channel,
            channels=volume.channels,
            shape=volume.shape,
            axes=volume.axes,
            are_colours=volume.are_colours,
            dtype=volume.dtype,
            voxel_size=volume.voxel_size,
            unit=volume.unit,
            affine=volume.affine,
            nifti_header=volume.nifti_header,
            time_step=volume.time_step,
            fingerprint=volume.fingerprint(),
        )


class Part:
    """What is denoised together; voxels that a mask does not know are NaN.

    Rows are counted along the first axis of space: z, or y of a single plane.
    """

    def __init__(self, volume: Volume, mask: Volume | None, opened: ExitStack) -> None:
        self._volume, self._mask, self._opened = volume, mask, opened
        self.path = volume.path
        self.channels, self.shape = volume.channels, volume.shape

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def space(self) -> tuple[int, ...]:
        """Of which a single plane has two axes."""
        return self.shape[1:] if self.shape[0] == 1 else self.shape

    def read(self, axis: int, planes: range) -> NDArray[np.float32]:
        """Voxels (channels, z, y, x) of planes across an axis of space."""
        values = self._volume.read(self._box(axis, planes)).astype(np.float32)
        known = self.known(axis, planes)
        return values if known is None else np.where(known, values, np.float32(np.nan))

    def known(self, axis: int, planes: range) -> NDArray[np.bool_] | None:
        """Which of them count: (z, y, x); None where all do."""
        return None if self._mask is None else self._mask.read(self._box(axis, planes))[0] > 0

    def blocks(self, overlap: int = 0) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """All rows, block by block as (channels, rows, ...): which they are, and `overlap` more behind them."""
        length = self.space[0]
        step = max(1, BLOCK // (self.channels * math.prod(self.space[1:])) // STEP) * STEP
        for first in range(0, length, step):
            rows = range(first, min(first + step, length))
            values = self.read(0, range(first, min(first + step + overlap, length)))
            yield rows, values[:, 0] if len(self.space) == 2 else values

    def digest(self) -> str | None:
        """Of the mask."""
        if self._mask is None:
            return None
        found = hashlib.sha256()
        for rows, _ in self.blocks():
            found.update(np.packbits(self.known(0, rows)).tobytes())  # type: ignore[arg-type]
        return found.hexdigest()

    def check(self) -> None:
        """Refuse voxels that are no numbers, and a mask that is wrong.

        Raises
        ------
        NonFinite, BadOption
        """
        wrong = voxels = known = 0
        for rows, values in self.blocks():
            inside = self.known(0, rows)
            counted = values if inside is None else values[:, inside.reshape(values.shape[1:])]
            voxels, known = voxels + values.size, known + counted.size
            wrong += counted.size - int(np.count_nonzero(np.isfinite(counted)))
        if not known:
            raise BadOption("the mask is zero everywhere: expected the voxels that are known to be above zero")
        if wrong:
            raise NonFinite(
                f"{self.path}: {wrong:,} of {voxels:,} voxels are NaN or infinite: mend them, or give a mask (--mask) "
                "that leaves them out"
            )

    def _box(self, axis: int, planes: range) -> Box:
        start, stop = [0, 0, 0], list(self.shape)
        axis += 3 - len(self.space)
        start[axis], stop[axis] = planes.start, planes.stop
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def open_mask(path: str | Path, shape: Index) -> Volume:
    """Open a mask of (z, y, x).

    Raises
    ------
    BadOption
        Another shape than the image has.
    """
    volume = open_volume(path, series=True)
    if volume.shape != shape:
        volume.close()
        raise BadOption(f"{path}: a mask of {spoken(volume.shape)} voxels (z, y, x), expected {spoken(shape)}")
    return volume


def check_mask(path: str | Path, shape: Index) -> None:
    """Refuse a mask with voxels that are no numbers.

    Raises
    ------
    BadOption
    """
    with open_mask(path, shape) as volume:
        for z in range(shape[0]):
            if not np.isfinite(volume.read(Box((z, 0, 0), (z + 1, *shape[1:])))).all():
                raise BadOption(f"{path}: NaN or infinity in the mask, expected 0 for voxels that are not known")


class Truth:
    """What the result should be, read plane by plane."""

    def __init__(self, path: str | Path, image: Image, factor: int) -> None:
        """Open it.

        Raises
        ------
        BadTruth
            Another shape than the result has.
        """
        expected = (image.channels, *image.fine_shape(factor))
        self.path = str(path)
        self._volume = open_volume(path, series=True)
        several = self._volume.channels > 1 and image.channel is not None and image.channel < self._volume.channels
        if several:
            self._volume.close()
            self._volume = open_volume(path, channel=image.channel, series=True)
        found = (self._volume.channels, *self._volume.shape)
        if found != expected:
            self._volume.close()
            raise BadTruth(f"{path}: {_misfit(found, expected, factor)}")

    def __enter__(self) -> Truth:
        return self

    def __exit__(self, *_: object) -> None:
        self._volume.close()

    def read(self, channels: slice, axis: int, planes: range) -> NDArray[np.float32]:
        """Voxels (channels, z, y, x) of planes across an axis of (z, y, x)."""
        start, stop = [0, 0, 0], list(self._volume.shape)
        start[axis], stop[axis] = planes.start, planes.stop
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return self._volume.read(box)[channels].astype(np.float32)

    def whole(self) -> NDArray[np.float32]:
        """All of it."""
        return self.read(slice(None), 0, range(self._volume.shape[0]))

    def range_of(self, channels: slice) -> float:
        """The largest value less the smallest.

        Raises
        ------
        BadTruth
            Voxels that are no numbers.
        """
        low, high = math.inf, -math.inf
        for z in range(self._volume.shape[0]):
            plane = self.read(channels, 0, range(z, z + 1))
            if not np.isfinite(plane).all():
                raise BadTruth(f"{self.path}: NaN or infinity in the truth; mend it first")
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        return high - low


def _misfit(found: tuple[int, ...], expected: tuple[int, ...], factor: int) -> str:
    """What is wrong with a truth of (channels, z, y, x)."""
    if found[1:] == expected[1:] and found[0] == 1:
        return (
            f"a truth of one volume, but NOISY has {expected[0]} (channels, or a series): give as many, or denoise "
            "one of them (--channel N)"
        )
    finer = f", {factor} times as fine as NOISY" if factor > 1 else ""
    return (
        f"a truth of {spoken(found[1:])} voxels (z, y, x) and {found[0]} channels, expected {spoken(expected[1:])} "
        f"and {expected[0]}{finer}: give one of that shape, or leave --truth out"
    )


def spoken(shape: tuple[int, ...]) -> str:
    """Lengths for people."""
    return " x ".join(map(str, shape))
