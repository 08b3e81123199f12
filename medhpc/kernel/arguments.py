"""What the kernel's C functions take and give: addresses, lengths, handles."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np

from medhpc.kernel.library import NO_MEMORY

Array = np.ndarray


def owned(owner: object, handle: int | None, destroy: ctypes._NamedFuncPointer) -> ctypes.c_void_p:
    """What the library has made, to be destroyed with its owner."""
    if not handle:
        raise MemoryError
    pointer = ctypes.c_void_p(handle)
    weakref.finalize(owner, destroy, pointer)
    return pointer


def check(outcome: int) -> None:
    """Raise the error that a function tells."""
    if outcome == NO_MEMORY:
        raise MemoryError


def described(block: Array) -> tuple[int, ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_int]]:
    """Address, strides in bytes and shape (z, y, x)."""
    return address(block), (ctypes.c_int64 * 4)(*block.strides), ints(block.shape[1:])


def address(array: Array) -> int:
    """Of the first number."""
    return int(array.ctypes.data)


def ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    """Whole numbers as an array in C."""
    return (ctypes.c_int * len(values))(*values)
