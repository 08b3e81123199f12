"""The same network on the same volume, un-tiled and tiled: foreground probabilities, and their error."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from medhpc import nets
from medhpc.geometry import Index
from medhpc.infer import infer
from medhpc.run import Plan, Run
from medhpc.tiling import tile

NETWORK = Path(__file__).with_name("network.safetensors")  # made by benchmarks/network.py


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far a prediction is from the un-tiled one."""

    maximum: float  # of the probability
    mean: float
    flipped: float  # fraction of voxels on the other side of 0.5

    def cells(self) -> list[str]:
        """For a table."""
        return [f"{self.maximum:.2g}", f"{self.mean:.1e}", f"{100 * self.flipped:.2g} %"]


def errors_of(prediction: np.ndarray, reference: np.ndarray) -> Errors:
    """Compare two arrays (z, y, x) of probabilities."""
    difference = np.abs(prediction - reference)
    flipped = np.count_nonzero((prediction >= 0.5) != (reference >= 0.5))
    return Errors(maximum=float(difference.max()), mean=float(difference.mean()), flipped=flipped / reference.size)


def predict_whole(source: Path, network: Path, plan: Plan) -> np.ndarray:
    """The network on the whole volume at once."""
    module = nets.load(network)
    with torch.inference_mode():
        return probability(module, normalized(source, plan))[0, 0].numpy()


def predict_tiled(
    source: Path, run: Path, network: Path, tile_shape: Index, halo: int | str
) -> tuple[np.ndarray, Plan]:
    """medhpc, with the network's own numbers stored so that no rounding hides a seam."""
    shutil.rmtree(run, ignore_errors=True)
    plan = tile(source, run, network=network, tile=tile_shape, halo=halo, store="raw")
    infer(run)
    scores = torch.from_numpy(np.asarray(Run(run).shards.array[...]))  # (2, z, y, x)
    return scores.softmax(0)[1].numpy(), plan


def infer_anew(run: Path) -> None:
    """All tiles, also those that an earlier round has computed."""
    for record in (run / "ledger").iterdir():
        record.unlink()
    infer(run)


def normalized(source: Path, plan: Plan) -> torch.Tensor:
    """The whole volume, (1, 1, z, y, x) in float32."""
    volume = torch.from_numpy(tifffile.imread(source).astype(np.float32))
    return volume.sub_(plan.normalization.mean[0]).div_(plan.normalization.std[0])[None, None]


def probability(module: Any, block: torch.Tensor) -> torch.Tensor:
    # (1, 1, z, y, x) -> (1, 1, z, y, x): the foreground class of two
    return module(block).softmax(dim=1)[:, 1:]


def clip(shape: Sequence[int], volume: Index) -> Index:
    """A shape no longer than the volume."""
    z, y, x = (min(n, length) for n, length in zip(shape, volume, strict=True))
    return z, y, x
