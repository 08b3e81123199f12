"""Where the axes of a volume lie in an array as it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from medhpc.errors import NotAVolume
from medhpc.geometry import Box

Number = TypeVar("Number")

_CHANNEL_NAMES = "CS"  # S: the samples of an RGB pixel
_PLANE_NAMES = "QI"  # tifffile's names for an axis that the file does not name


@dataclass(frozen=True)
class Layout:
    """The axes of a stored array: ``C Z Y X``, each at most once, and ``_`` for an axis of length one without meaning.

    ``Layout("_ZYX_", (1, 30, 20, 10, 1))`` is a volume of 30 x 20 x 10 voxels. Axes that are not there have length one.
    """

    axes: str
    stored: tuple[int, ...]

    @classmethod
    def named(cls, axes: str, stored: Sequence[int]) -> Layout:
        """Read the axis names of the file: ``T`` must be of length one, ``S`` is a channel, unnamed axes are planes.

        Raises
        ------
        NotAVolume
            A time series, an empty array, or axes beyond channel, z, y and x.
        """
        axes = axes.upper()
        check_not_empty(stored)
        if "T" in axes and stored[axes.index("T")] > 1:
            raise NotAVolume(
                f"a time series of {stored[axes.index('T')]} frames, expected one volume; "
                "save one time point (or, if T is really z, swap the two axes) first"
            )
        long = [name for name, length in zip(axes, stored, strict=True) if length > 1]
        meaning = {name: "C" for name in _CHANNEL_NAMES}
        meaning |= {name: "Z" for name in _PLANE_NAMES if "Z" not in long}
        letters = "".join(
            meaning.get(name, name) if length > 1 else "_" for name, length in zip(axes, stored, strict=True)
        )
        if any(letters.count(name) > 1 for name in "CZYX") or set(letters) - set("CZYX_"):
            raise NotAVolume(f"axes {axes} of {_times(stored)}, expected z, y, x and at most one channel axis")
        return cls(letters, tuple(stored))

    @classmethod
    def unnamed(cls, stored: Sequence[int]) -> Layout:
        """Guess the axes of an array that names none.

        Axes of length one at either end are dropped until three are left. Of four axes, the channels are the first or
        the last, whichever is shorter (the first where they are equal).
        """
        check_not_empty(stored)
        first, last = 0, len(stored)
        while last - first > 3 and 1 in (stored[first], stored[last - 1]):
            first, last = (first + 1, last) if stored[first] == 1 else (first, last - 1)
        lengths = stored[first:last]
        if len(lengths) == 3 and lengths[2] == 1 < lengths[0]:
            names = "YX_"  # one plane with a trailing channel axis
        elif len(lengths) == 4:
            names = "CZYX" if lengths[0] <= lengths[3] else "ZYXC"
        elif len(lengths) in (2, 3):
            names = "ZYX"[-len(lengths) :]
        else:
            raise NotAVolume(f"an array of {_times(stored)}, expected 2, 3 or (with channels) 4 axes")
        return cls("_" * first + names + "_" * (len(stored) - last), tuple(stored))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Length along z, y and x."""
        return self.spatial(self.stored, missing=1)

    @property
    def channels(self) -> int:
        """Number of channels; one where there is no such axis."""
        return self.stored[self.axes.index("C")] if "C" in self.axes else 1

    def spatial(self, values: Sequence[Number], *, missing: Number) -> tuple[Number, Number, Number]:
        """Of one value per stored axis, those of z, y and x; `missing` where the axis is not stored."""
        z, y, x = (values[self.axes.index(name)] if name in self.axes else missing for name in "ZYX")
        return z, y, x

    def index(self, channels: slice, box: Box) -> tuple[slice, ...]:
        """Index of a box of some channels in the stored array."""
        wanted = dict(zip("ZYX", box.slices, strict=True)) | {"C": channels, "_": slice(0, 1)}
        return tuple(wanted[name] for name in self.axes)

    def arrange(self, block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """View a block of the stored array as (channels, z, y, x)."""
        block = block.reshape([n for n, name in zip(block.shape, self.axes, strict=True) if name != "_"])
        stored = self.axes.replace("_", "")
        block = block.transpose([stored.index(name) for name in "CZYX" if name in stored])
        return np.expand_dims(block, tuple(n for n, name in enumerate("CZYX") if name not in stored))


def check_not_empty(stored: Sequence[int]) -> None:
    """Refuse an array without voxels.

    Raises
    ------
    NotAVolume
    """
    if math.prod(stored) == 0:
        raise NotAVolume(f"an empty array of {_times(stored)}, expected at least one voxel")


def _times(stored: Sequence[int]) -> str:
    return " x ".join(map(str, stored)) or "no axes"
