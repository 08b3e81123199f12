"""The compiled kernel: one library per instruction set, of which this processor's best is loaded."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int, c_int64, c_long, c_void_p
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
VARIANTS = ("avx512", "avx2", "baseline")
"""Instruction sets that the kernel is compiled for, fastest first; what a processor always has is "baseline"."""

KINDS = {"raw": 0, "classes": 1, "probability": 2}  # as `Kind` in src/head.h
NO_MEMORY = 1  # as `Outcome` in src/library.cpp

_INTS, _LONGS, _NUMBERS = POINTER(c_int), POINTER(c_int64), c_void_p
_SIGNATURES = {
    "msd_create": (c_void_p, [c_int] * 6 + [_INTS] + [_NUMBERS] * 5 + [c_int]),
    "msd_destroy": (None, [c_void_p]),
    "msd_bytes": (c_int64, [c_void_p, _INTS, c_int]),
    "msd_run": (c_int, [c_void_p, c_void_p, _LONGS, _INTS, _INTS, c_int, c_int, _NUMBERS]),
    "msd_sweep_bytes": (c_int64, [c_void_p, _INTS, c_int]),
    "msd_sweep_warm_up": (c_int, [c_void_p, c_int]),
    "msd_sweep": (c_void_p, [c_void_p, _INTS, c_int, c_int]),
    "msd_forget_sweep": (None, [c_void_p]),
    "msd_sweep_planes": (None, [c_void_p, c_int, _INTS]),
    "msd_sweep_load": (c_int, [c_void_p, c_void_p, _LONGS]),
    "msd_sweep_run": (c_int, [c_void_p, c_int, c_int, _NUMBERS]),
    "msd_sweep_take": (None, [c_void_p, c_int, c_int, c_int, _NUMBERS]),
    "msd_sweep_put": (None, [c_void_p, c_int, c_int, c_int, _NUMBERS]),
    "msd_sweep_end_step": (None, [c_void_p]),
    "msd_spare": (c_void_p, []),
    "msd_forget_spare": (None, [c_void_p]),
    "msd_record": (c_void_p, [c_void_p, c_void_p, c_void_p, _LONGS, _INTS, c_int, _NUMBERS]),
    "msd_forget": (None, [c_void_p]),
    "msd_backward": (c_int, [c_void_p, _NUMBERS, c_int] + [_NUMBERS] * 5),
    "msd_number_bytes": (c_int, []),
    "msd_peak": (c_double, [c_long]),
    "msd_runs_here": (c_int, []),
}


def library_path(variant: str) -> Path:
    """Where the library of an instruction set lies, if it was built."""
    return FOLDER / f"msd_{variant}.so"


@cache
def load_library(variant: str) -> ctypes.CDLL:
    """Load the library of one instruction set; calls into it leave other Python threads running."""
    return open_library(library_path(variant))


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library from its file."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def usable_variants() -> tuple[str, ...]:
    """Instruction sets that were built and that this processor has, fastest first."""
    built = [variant for variant in VARIANTS if library_path(variant).exists()]
    return tuple(variant for variant in built if load_library(variant).msd_runs_here())


def why_not_built() -> str:
    """What the installation said when it could not compile; "" where it could."""
    if usable_variants():
        return ""
    note = FOLDER / "not_built.txt"
    return note.read_text().strip() if note.exists() else "it was not built; install medhpc where a C++ compiler is"
