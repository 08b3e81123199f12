"""What a tile reads: the volume's numbers, checked and normalised."""

from __future__ import annotations

import numpy as np

from medhpc.errors import NonFinite
from medhpc.geometry import Box
from medhpc.run.plan import Normalization
from medhpc.volume import Volume


def read_block(volume: Volume, box: Box, nan: str = "refuse") -> np.ndarray:
    """Read a box, shape (channels, z, y, x), in the volume's own numbers.

    Parameters
    ----------
    nan : {"refuse", "zero"}
        What to do with NaN and infinity: raise, or read them as 0.

    Raises
    ------
    NonFinite
        Names the first such voxel.
    """
    block = volume.read(box)
    if block.dtype.kind != "f" or np.isfinite(block.min()) and np.isfinite(block.max()):
        return block
    strange = ~np.isfinite(block)
    if nan == "zero":
        block[strange] = 0
        return block
    channel, *where = np.argwhere(strange)[0].tolist()
    z, y, x = (a + w for a, w in zip(box.start, where, strict=True))
    raise NonFinite(
        f"{volume.path} holds {block[channel, *where]} at z,y,x = {z},{y},{x} (channel {channel}); "
        "mend the volume, or read such voxels as zero with --nan zero"
    )


def normalize(block: np.ndarray, normalization: Normalization) -> np.ndarray:
    """``(block - mean) / std`` per channel in float32; the block itself where nothing is to be done."""
    if not normalization.mean:
        return block
    normalized = block.astype(np.float32)
    shape = (-1, 1, 1, 1)
    normalized -= np.reshape(np.asarray(normalization.mean, np.float32), shape)
    normalized /= np.reshape(np.asarray(normalization.std, np.float32), shape)
    return normalized
