"""A sweep gives what the whole block gives, whatever its steps, and needs no more memory for a longer block."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked import on_ranks

from medhpc.engine import TorchEngine
from medhpc.engine.reference import by_definition
from medhpc.nets import MSD
from medhpc.nets.frontiers import Frontiers
from medhpc.nets.sweep import Sweep
from medhpc.ranks.group import Ranks


def network(seed: int = 0, **numbers: Any) -> MSD:
    torch.manual_seed(seed)
    made = MSD(**{"in_channels": 1, "out_channels": 2, "depth": 6, **numbers}).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


def block(channels: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(net: MSD, planes: torch.Tensor) -> torch.Tensor:
    """By the definition, all at once."""
    if net.ndim == 3:
        return by_definition(net, planes[None])[0]
    return torch.stack([by_definition(net, planes[None, :, z])[0] for z in range(planes.shape[1])], 1)


def swept(net: MSD, planes: torch.Tensor, step: int, ranks: Ranks | None = None) -> torch.Tensor:
    z, y, x = planes.shape[1:]
    sweep = Sweep(net, (z, y, x), step, *([ranks] if ranks else []))
    finished, at = [], 0
    while not sweep.is_done:
        finished.append(sweep.advance(planes[:, at : at + step]))
        at += step
    return torch.cat(finished, 1)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


NUMBERS = st.fixed_dictionaries(
    {
        "in_channels": st.integers(1, 2),
        "out_channels": st.integers(1, 3),
        "depth": st.integers(1, 9),
        "width": st.integers(1, 3),
        "ndim": st.sampled_from([2, 3]),
        "dilations": st.lists(st.integers(1, 4), min_size=1, max_size=5),
        "padding": st.sampled_from(["reflect", "zero"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(numbers=NUMBERS, shape=st.tuples(*[st.integers(5, 19)] + [st.integers(5, 7)] * 2), step=st.integers(1, 21))
def test_a_sweep_gives_the_scores_of_the_whole_block(
    numbers: dict[str, Any], shape: tuple[int, int, int], step: int
) -> None:
    net = network(**numbers)
    planes = block(net.in_channels, *shape)
    assert difference(swept(net, planes, step), whole(net, planes)) < 1e-12


def test_zero_padding_takes_a_block_thinner_than_the_dilation() -> None:
    net = network(padding="zero", dilations=[4, 1, 3])
    planes = block(1, 2, 5, 6)
    assert difference(swept(net, planes, 3), whole(net, planes)) < 1e-12


@pytest.mark.parametrize("step", [3, 8])
def test_a_later_start_at_a_whole_step_gives_the_same_bits(step: int) -> None:
    net = network(dilations=[1, 2, 3])
    planes = block(1, 60, 6, 6)
    radius = net.receptive_radius[0]
    wanted_from, start = 40, (40 - radius - step) // step * step
    found = swept(net, planes[:, start:], step)[:, wanted_from - start :]
    assert torch.equal(found, swept(net, planes, step)[:, wanted_from:])


@pytest.mark.parametrize("depth", [1, 5, 12])
def test_each_layer_is_computed_once_and_in_order(depth: int) -> None:
    frontiers = Frontiers.of(network(depth=depth), 7)
    for layer in range(-1, depth):
        ranges = [frontiers.planes(layer, number, 33) for number in range(frontiers.steps(33))]
        assert [z for planes in ranges for z in planes] == list(range(33))
    for before, after in pairwise(range(-1, depth)):  # what a layer reads is complete
        for number in range(frontiers.steps(33)):
            stop = frontiers.planes(after, number, 33).stop
            reach = frontiers.lag(after) - frontiers.lag(before)
            assert frontiers.planes(before, number, 33).stop >= min(stop + reach, 33 if stop else 0)


def test_memory_follows_from_the_plane_not_from_the_length() -> None:
    net = network(depth=30)
    frontiers = Frontiers.of(net, 10)
    assert frontiers.bytes(net, 400, 100) == frontiers.bytes(net, 40_000, 100)
    assert frontiers.bytes(net, 400, 200) == 2 * frontiers.bytes(net, 400, 100)
    assert frontiers.bytes(net, 100_000, 1) < 4 * 250 * (1 + 30 + 2)  # a map's planes are far fewer than the block's


@pytest.mark.parametrize("kind", ["raw", "classes", "probability"])
def test_the_engine_sweeps_blocks_of_any_length(kind: str) -> None:
    net = network(padding="zero").float()
    engine = TorchEngine(net, torch.device("cpu"))
    values = block(1, 23, 9, 8).float().numpy()
    parts = engine.sweep(np.split(values, [4, 5, 17], axis=1), (23, 9, 8), kind, step=5)
    assert np.allclose(np.concatenate(list(parts), axis=1), engine(values, kind), atol=1e-5)
    assert engine.sweeps


RANKED = ({"padding": "reflect"}, {"padding": "zero", "width": 2, "in_channels": 2}, {"ndim": 2})


def sweeps_of_rows(ranks: Ranks, bounds: list[int]) -> list[torch.Tensor]:
    """Each network's sweep of the rows of this rank."""
    rows = slice(bounds[ranks.rank], bounds[ranks.rank + 1])
    found = []
    for numbers in RANKED:
        net = network(dilations=[1, 3, 2], **numbers)
        found.append(swept(net, block(net.in_channels, 21, bounds[-1], 6)[:, :, rows], 4, ranks))
    return found


@pytest.mark.parametrize("bounds", [[0, 3, 11], [0, 5, 8, 11, 16]])
def test_ranks_with_some_rows_each_give_the_whole(bounds: list[int]) -> None:
    parts = on_ranks(len(bounds) - 1, sweeps_of_rows, bounds)
    for numbers, rows in zip(RANKED, zip(*parts, strict=True), strict=True):
        net = network(dilations=[1, 3, 2], **numbers)
        planes = block(net.in_channels, 21, bounds[-1], 6)
        assert difference(torch.cat(rows, 2), whole(net, planes)) < 1e-12
