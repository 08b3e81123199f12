"""Small volumes, networks and runs, made when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from medhpc.nets import MSD
from medhpc.run import Run


def cells(shape: tuple[int, int, int], seed: int = 0, count: int = 12) -> np.ndarray:
    """Bright balls on noise: a uint16 volume (z, y, x) with structure at several scales."""
    random = np.random.default_rng(seed)
    volume = random.normal(1000, 60, shape)
    places = np.indices(shape).astype(np.float32)
    for _ in range(count):
        centre = np.reshape([random.uniform(0, n) for n in shape], (3, 1, 1, 1))
        distance = np.sqrt(((places - centre) ** 2).sum(axis=0))
        volume += random.uniform(500, 3000) * (distance < random.uniform(2, 6))
    return volume.clip(0, 65535).astype(np.uint16)


def write_tiff(path: Path, values: np.ndarray, **options: Any) -> Path:
    """Write (z, y, x) or (c, z, y, x); ImageJ's order of axes is z c y x."""
    if values.ndim == 4:
        tifffile.imwrite(path, values.swapaxes(0, 1), metadata={"axes": "ZCYX"}, photometric="minisblack", **options)
    else:
        tifffile.imwrite(path, values, metadata={"axes": "ZYX"}, photometric="minisblack", **options)
    return path


def msd(
    depth: int = 3,
    *,
    ndim: int = 3,
    inputs: int = 1,
    outputs: int = 2,
    dilations: tuple[int, ...] = (1, 2, 3),
    seed: int = 0,
    gain: float = 1.0,
) -> MSD:
    """An MS-D network whose last layer is not zero; `gain` scales its scores."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = MSD(inputs, outputs, depth, ndim=ndim, dilations=dilations).eval()
    with torch.no_grad():
        network.head_weight.normal_(0, gain)
        network.head_bias.normal_(0, 0.1)
    torch.random.set_rng_state(state)
    return network


def whole(network: torch.nn.Module, volume: np.ndarray) -> np.ndarray:
    """Scores (outputs, z, y, x) of the whole volume at once, normalised by its own mean and deviation."""
    block = volume.reshape(-1, *volume.shape[-3:]).astype(np.float64)
    mean, std = (f(block, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    x = torch.from_numpy(block.astype(np.float32) - mean.astype(np.float32)) / torch.from_numpy(std.astype(np.float32))
    with torch.inference_mode():
        if network.ndim == 3:
            return network(x[None])[0].numpy()
        return torch.stack([network(x[None, :, z])[0] for z in range(x.shape[1])], dim=1).numpy()


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Foreground probabilities of scores (outputs, z, y, x)."""
    tensor = torch.from_numpy(scores)
    return (tensor.sigmoid() if len(tensor) == 1 else tensor.softmax(0)[1:]).numpy()


def stored(run: str | Path) -> np.ndarray:
    """All that a run has stored, (channels, z, y, x)."""
    return Run(run).shards.array[:]


def shard_files(run: str | Path) -> dict[str, bytes]:
    """The bytes of every shard, by its place."""
    folder = Path(run) / "prediction.zarr" / "c"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
