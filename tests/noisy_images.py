"""Noisy images of known truth, small enough to be denoised in seconds, and how they are stored."""

import numpy as np

from medhpc.geometry import Box
from medhpc.volume import create_volume, open_volume

TINY = {"preset": "small", "scales": 2, "channels": 8}
QUICK = {"threads": 1, "device": "cpu"}


def smooth(shape, seed=0):
    """A few broad waves between 100 and 900."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    points = np.array([grid.ravel() for grid in grids])
    waves = sum(np.sin(2 * np.pi * (rng.uniform(-1, 1, len(shape)) @ points) + p) for p in range(4))
    waves = waves.reshape(shape)
    return (100 + 800 * (waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def noisy(image, sigma=120.0, seed=1):
    return image + np.random.default_rng(seed).normal(0, sigma, image.shape).astype(np.float32)


def store(path, values, **options):
    """Write (z, y, x) or (channels, z, y, x)."""
    channels = len(values) if values.ndim == 4 else 0
    with create_volume(path, values.shape[-3:], values.dtype, channels=channels, **options) as writer:
        for z in range(values.shape[-3]):
            writer.write(z, values[..., z : z + 1, :, :])
    return path


def stored(path):
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))
