"""Runs whose tiles hold given numbers: no network, no input."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from medhpc.geometry import Box
from medhpc.run import Plan, Run
from medhpc.run.folder import claimed, create_run
from medhpc.run.plan import Blend, Cost, Halo, NetworkUsed, Normalization, Source, Stored
from medhpc.run.shards import shard_shape

COST = Cost(
    seconds_per_voxel=1e-6,
    bytes_per_voxel=4.0,
    memory=2**30,
    block_voxels=10**6,
    engine="torch",
    device="cpu",
    threads=1,
)


def plan_of(
    stored: np.ndarray,
    tile: tuple[int, int, int],
    *,
    kind: str = "probability",
    region: Box | None = None,
    voxel_size: tuple[float, float, float] | None = (2.0, 0.5, 0.25),
    unit: str = "um",
    affine: np.ndarray | None = None,
) -> Plan:
    """A plan that stores numbers like `stored` (channels, z, y, x)."""
    channels, *shape = stored.shape
    z, y, x = shape
    shard, chunk = shard_shape(tile, (z, y, x))
    return Plan(
        source=Source(
            path="/nowhere/volume.tif",
            channel=None,
            level=0,
            copy="",
            fingerprint={},
            shape=(z, y, x),
            channels=1,
            dtype="uint16",
            voxel_size=voxel_size,
            unit=unit if voxel_size else "",
            affine=None if affine is None else tuple(tuple(row) for row in affine.tolist()),
        ),
        network=NetworkUsed(
            path="",
            digest="0" * 64,
            name="none",
            classes=(),
            receptive_radius=None,
            minimum_shape=(1, 1, 1),
            stride=(1, 1, 1),
        ),
        normalization=Normalization(source="none"),
        halo=Halo(size=(0, 0, 0), how="exact", tolerance=0.0),
        blend=Blend(mode="none"),
        stored=Stored(kind=kind, dtype=stored.dtype.name, channels=channels, chunk=chunk, shard=shard),
        cost=COST,
        tile=tile,
        region=region or Box.whole((z, y, x)),
    )


def run_of(folder: Path, stored: np.ndarray, tile: tuple[int, int, int] = (16, 16, 16), **options) -> Run:
    """A finished run whose tiles hold `stored`, (z, y, x) or (channels, z, y, x)."""
    stored = stored.reshape(-1, *stored.shape[-3:])
    with claimed(folder):
        run = create_run(folder, plan_of(stored, tile, **options))
    for each in run.plan.grid:
        run.commit(each, stored[(slice(None), *each.write.slices)], time.monotonic())
    run.ledger.close()
    return run


def blobs(shape: tuple[int, int, int], count: int, seed: int = 0, radius: tuple[float, float] = (2, 5)) -> np.ndarray:
    """Probability (uint8) of a volume of balls, some of which touch."""
    random = np.random.default_rng(seed)
    volume = np.zeros(shape, np.uint8)
    for _ in range(count):
        centre, size = [random.uniform(0, n) for n in shape], random.uniform(*radius)
        box = tuple(slice(max(0, int(c - size)), min(n, int(c + size) + 2)) for c, n in zip(centre, shape, strict=True))
        places = np.ogrid[box]
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)))
        np.maximum(volume[box], np.clip(255 * (size - distance) / 3 + 128, 0, 255).astype(np.uint8), out=volume[box])
    return volume
