"""The line from stored numbers to physical ones, as NIfTI and DICOM define it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rescale:
    """``physical = slope * stored + intercept``.

    Integers stay integers where slope and intercept are whole numbers; otherwise 8 and 16 bit become float32 and
    everything wider float64.
    """

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether stored numbers are the physical ones."""
        return self.slope == 1 and self.intercept == 0

    @property
    def is_whole(self) -> bool:
        """Whether integers stay integers."""
        return float(self.slope).is_integer() and float(self.intercept).is_integer()

    def dtype(self, stored: np.dtype[Any], bits: int = 0) -> np.dtype[Any]:
        """Choose the dtype that holds the physical value of every stored one, of which `bits` are in use (0: all)."""
        if self.is_identity:
            return stored
        if stored.kind in "iu" and self.is_whole:
            unused = 8 * stored.itemsize - bits if bits else 0
            limits = np.iinfo(stored)
            stored_ends = int(limits.min) >> unused, int(limits.max) >> unused
            ends = sorted(int(self.slope) * n + int(self.intercept) for n in stored_ends)
            for name in ("int16", "int32", "int64"):
                if np.iinfo(name).min <= ends[0] and ends[1] <= np.iinfo(name).max:
                    return np.dtype(name)
        return np.dtype("float32" if stored.itemsize <= 2 or stored == np.float32 else "float64")

    def apply(self, stored: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Physical values of `stored` in `dtype`."""
        if self.is_identity:
            return stored.astype(dtype, copy=False)
        physical = stored.astype(dtype)
        physical *= dtype.type(self.slope)
        physical += dtype.type(self.intercept)
        return physical
