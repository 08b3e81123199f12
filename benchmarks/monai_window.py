"""MONAI's sliding window with a network of medhpc; the only module that imports MONAI.

It gets the normalisation of medhpc's plan, and blends the probability of one class: less memory, and smaller errors,
than blending the scores of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from monai.inferers import sliding_window_inference

from benchmarks.predictions import NETWORK, normalized, probability
from medhpc import nets
from medhpc.run import Plan
from medhpc.volume.codecs import codecs_for


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """A setting of MONAI's sliding window."""

    roi: int
    mode: str
    overlap: float

    def __str__(self) -> str:
        return f"MONAI {self.mode}, window {self.roi}, overlap {self.overlap}"


def predict_sliding(source: Path, network: Path, plan: Plan, setting: Sliding) -> tuple[np.ndarray, float]:
    """MONAI; the prediction, and how many voxels it computed for each voxel of the volume."""
    module = nets.load(network)
    volume = normalized(source, plan)
    computed = 0

    def predictor(window: torch.Tensor) -> torch.Tensor:
        nonlocal computed
        computed += window.numel()
        return probability(module, window)

    roi = [min(setting.roi, length) for length in volume.shape[2:]]
    with torch.inference_mode():
        prediction = sliding_window_inference(
            volume, roi, sw_batch_size=1, predictor=predictor, overlap=setting.overlap, mode=setting.mode
        )
    return np.asarray(prediction)[0, 0], computed / volume.numel()


def slide(source: Path, plan: Plan, setting: Sliding, out: Path) -> None:
    """MONAI, as a user would write it."""
    prediction, _ = predict_sliding(source, NETWORK, plan, setting)
    array = zarr.create_array(
        out,
        shape=prediction.shape,
        dtype="uint8",
        shards=plan.stored.shard,
        chunks=plan.stored.chunk,
        compressors=codecs_for("uint8"),
        overwrite=True,
    )
    array[...] = np.rint(prediction * 255).astype(np.uint8)
