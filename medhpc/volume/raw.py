"""Boxes of uncompressed arrays: the bytes lie in the file as in memory.

Plain reads, not a memory map: pages of a map stay resident until the kernel wants them back (a run over a 6 GB file
would seem to use 6 GB), and a file that is cut or a disk that fails ends the process instead of raising.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.errors import BrokenFile

_SHORT_GAP = 8192  # bytes; reading over a gap this long costs less than a second read


class RawPlanes:
    """An array whose planes (the last three axes: rows, columns, samples) lie uncompressed in a file.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        (..., rows, columns, samples).
    dtype : numpy.dtype
        As stored, byte order included.
    offset : callable
        First byte of plane number n, planes counted in C order over the leading axes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: Callable[[int], int]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._offset = offset
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the volume is)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        ranges = [range(*part.indices(length)) for part, length in zip(index, self.shape, strict=True)]
        out: np.ndarray[Any, Any] = np.empty([len(r) for r in ranges], self.dtype)
        planes = out.reshape(-1, *out.shape[-3:])
        leading = self.shape[:-3]
        for target, position in zip(planes, itertools.product(*ranges[:-3]), strict=True):
            number = int(np.ravel_multi_index(position, leading)) if leading else 0
            self._read_plane(self._offset(number), ranges[-3], ranges[-2], ranges[-1], target)
        return out

    def _read_plane(self, offset: int, rows: range, cols: range, samples: range, target: np.ndarray[Any, Any]) -> None:
        """Read part of one plane: all rows at once where the gaps between them are short, else row by row."""
        _, width, depth = self.shape[-3:]
        pixel = depth * self.dtype.itemsize
        whole_rows = (width - len(cols)) * pixel <= _SHORT_GAP
        columns = range(width) if whole_rows else cols
        step = len(rows) if whole_rows else 1
        for first in range(rows.start, rows.stop, step):
            lines: np.ndarray[Any, Any] = np.empty((step, len(columns), depth), self.dtype)
            self._fill(lines, offset + (first * width + columns.start) * pixel)
            part = lines[:, cols.start - columns.start : cols.stop - columns.start, samples.start : samples.stop]
            target[first - rows.start : first - rows.start + step] = part

    def _fill(self, lines: np.ndarray[Any, Any], offset: int) -> None:
        """Fill an array from the file; one read may give less than was asked for."""
        bytes_left = lines.reshape(-1).view(np.uint8).data
        while bytes_left:
            got = os.preadv(self._file.fileno(), [bytes_left], offset)
            if got == 0:
                raise BrokenFile(
                    f"{self._file.name}: cut short: ends at byte {offset}, expected {len(bytes_left)} more"
                )
            bytes_left = bytes_left[got:]
            offset += got


def contiguous(start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[int], int]:
    """Offsets of planes that follow each other from byte `start`; for :class:`RawPlanes`."""
    size = math.prod(shape[-3:]) * dtype.itemsize
    return lambda number: start + number * size
