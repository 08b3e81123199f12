"""Volumes to measure with: uncompressed TIFFs with the content of a light-sheet image, made quickly at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from medhpc.demo_data import make_light_sheet
from medhpc.geometry import Index

CELLS_PER_VOXEL = 400 / (128 * 320 * 320)


def write_cells(path: Path, shape: Index, seed: int = 0) -> Path:
    """A small light-sheet volume of cells, repeated (mirrored, so that no cell is cut) with fresh noise."""
    block = _block_of_cells(shape, seed)
    mirrored = np.pad(block, [(0, n) for n in block.shape], mode="symmetric")
    plane = [np.arange(length) % (2 * n) for length, n in zip(shape, block.shape, strict=True)]
    rng = np.random.default_rng(seed)
    out = tifffile.memmap(path, shape=shape, dtype=np.uint16, photometric="minisblack", bigtiff=True)
    for z in range(shape[0]):
        clean = mirrored[plane[0][z]][np.ix_(plane[1], plane[2])]
        out[z] = np.clip(clean + rng.normal(0, 6, shape[1:]), 0, 65535)
    out.flush()
    return path


def _block_of_cells(shape: Index, seed: int) -> np.ndarray:
    z, y, x = (min(n, most) for n, most in zip(shape, (64, 256, 256), strict=True))
    volume, _, _ = make_light_sheet((z, y, x), max(4, round(z * y * x * CELLS_PER_VOXEL)), seed)
    return volume
