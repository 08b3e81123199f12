"""Training on several ranks: the same patches and, but for rounding, the same weights as on one."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from ranked import on_ranks

from medhpc.errors import BadOption, ToldElsewhere
from medhpc.nets import load
from medhpc.ranks.group import ALONE, Ranks
from medhpc.train import msd
from medhpc.train.judge import Judgement
from medhpc.train.msd import train_msd

QUICK = {"depth": 3, "patch": (12, 14, 16), "threads": 1, "device": "cpu", "seed": 3}


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """A volume of balls, and their labels; the first planes of both lie beside them."""
    rng = np.random.default_rng(0)
    volume, labels = rng.normal(100, 10, (20, 40, 40)), np.zeros((20, 40, 40), np.uint8)
    for z, y, x in rng.integers(4, (16, 36, 36), (12, 3)):
        ball = sum((axis - c) ** 2 for axis, c in zip(np.ogrid[:20, :40, :40], (z, y, x), strict=True)) < 12
        volume[ball] += 60
        labels[ball] = 1
    for name, planes in (("", 20), ("thin_", 9)):
        tifffile.imwrite(tmp_path / f"{name}volume.tif", volume[:planes].astype(np.uint16), metadata={"axes": "ZYX"})
        tifffile.imwrite(tmp_path / f"{name}labels.tif", labels[:planes], metadata={"axes": "ZYX"})
    return tmp_path / "volume.tif", tmp_path / "labels.tif"


def train(ranks: Ranks, pair: tuple[Path, Path], out: Path, options: dict) -> tuple[float, int]:
    """On a volume and on a thin one, whose patches are smaller."""
    thin = tuple(path.with_name(f"thin_{path.name}") for path in pair)
    result = train_msd([pair, thin], out, ranks=ranks, **QUICK, **options)
    return result.loss, result.steps


def weights(path: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in load(path).parameters()])


@pytest.mark.slow
def test_ranks_agree(pair, tmp_path):
    """The same losses and weights for any number of ranks; one writes, and all end at the same step."""
    found, options = {}, {"steps": 6, "batch": 4}
    for size in (1, 2, 4):
        out = tmp_path / f"{size}.safetensors"
        losses = on_ranks(size, train, pair, out, options) if size > 1 else [train(ALONE, pair, out, options)]
        assert len(set(losses)) == 1
        found[size] = (losses[0][0], weights(out))
        assert not out.with_name(f"{size}.checkpoint.safetensors").exists()
    loss, expected = found[1]
    for size in (2, 4):
        assert found[size][0] == pytest.approx(loss, rel=1e-4)
        assert (found[size][1] - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_time_ends_on_all_ranks_at_once(pair, tmp_path):
    results = on_ranks(2, train, pair, tmp_path / "net.safetensors", {"minutes": 0.02})
    assert len(set(results)) == 1 and results[0][1] >= 1


def train_judged(ranks: Ranks, pair: tuple[Path, Path], out: Path) -> int:
    """The first rank's judgements stall, those of others get better and better."""
    losses = itertools.repeat(0.5) if ranks.is_first else (1 / n for n in itertools.count(1))
    msd.judge = lambda *_: Judgement(loss=next(losses), dice=0.6)  # of this process alone
    return train_msd([pair], out, ranks=ranks, steps=40, patience=4, **QUICK).steps


def test_a_training_that_stalls_ends_on_all_ranks_at_once(pair, tmp_path):
    assert on_ranks(2, train_judged, pair, tmp_path / "net.safetensors") == [24, 24]


def refused(ranks: Ranks, pair: tuple[Path, Path], out: Path, options: dict) -> str:
    try:
        train(ranks, pair, out, options)
    except (BadOption, ToldElsewhere) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_rank_without_a_patch_is_refused(pair, tmp_path):
    first, second = on_ranks(2, refused, pair, tmp_path / "net.safetensors", {"steps": 2, "batch": 1})
    assert first == "BadOption: batch 1 for 2 ranks: each needs a patch; start fewer"
    assert second.startswith("ToldElsewhere")


def test_a_batch_is_a_mean_over_its_patches(pair, tmp_path):
    """Of two patches, unlike two steps of one; the first step is that of the samples 0 and 1."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for out, batch in ((one, 1), (two, 2)):
        train_msd([pair], out, steps=3, batch=batch, **QUICK)
    assert not torch.equal(weights(one), weights(two))
