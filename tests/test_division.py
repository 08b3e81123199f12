"""An hourglass network over slabs is the same network: outputs and gradients, whatever its options are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranked import on_ranks

from medhpc.errors import BadOption
from medhpc.nets import slabs as layers
from medhpc.nets.division import add_up_gradients, divide, slab_stride, thinnest_slab
from medhpc.nets.resample import fill_by_reflection, lanczos2
from medhpc.nets.skip import Skip
from medhpc.ranks import slabs as divisions
from medhpc.ranks.group import Ranks
from medhpc.ranks.halo import Cut
from medhpc.ranks.slabs import Slabs

torch.set_num_threads(1)
NET = {"sigmoid": False, "in_channels": 2, "out_channels": 1, "down": (3, 4, 4), "skip": (2, 0, 2)}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": "zero", "upsample": "nearest"},
    {"downsample": "avg", "activation": "ELU"},
    {"downsample": "max", "padding": "zero", "up_1x1": False},
    {"downsample": "lanczos2", "upsample": "nearest"},
    {"kernel_down": 5, "kernel_up": (3, 5, 3), "bias": False},
    {"down": (3,), "skip": 0, "kernel_skip": 3},  # no level is whole
    {"checkpointed": 2, "down": (3, 4), "skip": 2},
    {"norm": False},
]
SHAPES = {(37, 6, 7): 0, (5, 6, 52): 2, (43, 12): 0}


def network(options: dict[str, Any], ndim: int) -> Skip:
    net = Skip(**{**NET, **options}, ndim=ndim).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


def numbers(channels: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(1, channels, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slabs_of(net: Skip, shape: tuple[int, ...], axis: int, ranks: int) -> Slabs:
    filled = net.filled_shape(shape)[axis]
    return divisions.divide(filled, ranks, multiple=slab_stride(net), least=thinnest_slab(net), own=shape[axis])


def computed(net: Skip, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of a weighted sum of it."""
    y = net(x)
    (y * weights).sum().backward()
    add_up_gradients(net)
    return [y.detach(), *(p.grad for p in net.parameters())]


def in_slabs(ranks: Ranks, cases: list[tuple[dict[str, Any], tuple[int, ...], int]]) -> list[list[torch.Tensor]]:
    """The same for this rank's slab, without what fills it up."""
    results = []
    for options, shape, axis in cases:
        net = network(options, len(shape))
        slabs = slabs_of(net, shape, axis, ranks.size)
        divide(net, Cut(ranks=ranks, axis=axis + 2), slabs)
        along = [slabs.length if n == axis else length for n, length in enumerate(shape)]
        planes, own = slabs.of(ranks.rank), slabs.cut_at(shape[axis]).of(ranks.rank)
        x = fill_by_reflection(numbers(2, shape, 1), along).narrow(axis + 2, planes.start, len(planes))
        weights = numbers(1, shape, 2).narrow(axis + 2, own.start, len(own))
        fill = [(0, len(planes) - len(own)) if n == axis else (0, 0) for n in reversed(range(len(shape)))]
        y, *gradients = computed(net, x, torch.nn.functional.pad(weights, [n for pair in fill for n in pair]))
        results.append([y.narrow(axis + 2, 0, len(own)), *gradients])
    return results


@pytest.mark.parametrize("size", [2, 4])
def test_slabs_are_the_whole(size):
    cases = [(options, shape, axis) for shape, axis in SHAPES.items() for options in OPTIONS]
    cases = [case for case in cases if fits(*case, size)]
    assert len(cases) > len(OPTIONS)
    found = on_ranks(size, in_slabs, cases)
    for number, (options, shape, axis) in enumerate(cases):
        y, *gradients = computed(network(options, len(shape)), numbers(2, shape, 1), numbers(1, shape, 2))
        assert torch.allclose(torch.cat([each[number][0] for each in found], axis + 2), y, atol=1e-12), options
        scale = max(float(g.abs().max()) for g in gradients)
        for each in found:
            for one, other in zip(each[number][1:], gradients, strict=True):
                assert float((one - other).abs().max()) < 1e-11 * scale, (options, shape)


def fits(options: dict[str, Any], shape: tuple[int, ...], axis: int, size: int) -> bool:
    try:
        slabs_of(network(options, len(shape)), shape, axis, size)
    except BadOption:
        return False
    return True


def parts(ranks: Ranks, reflected: bool) -> list[torch.Tensor]:
    """A convolution in three parts, as on GPUs."""
    x, weight = numbers(2, (20, 5, 4), 1), numbers(2, (2, 5, 5, 5), 2)[0].requires_grad_()
    cut, mine = Cut(ranks=ranks, axis=2), range(20 // ranks.size * ranks.rank, 20 // ranks.size * (ranks.rank + 1))
    slab = x[:, :, mine.start : mine.stop].clone().requires_grad_()
    halo = cut.halo(2, 2, "reflection" if reflected else "zero")
    bias = torch.ones(2, dtype=torch.float64, requires_grad=True)
    how = layers._Filter(stride=1, reach=2, reflected=reflected, biased=True, halo=halo)
    y = layers._InParts.apply(slab, weight, bias, how)
    (y * numbers(2, (20, 5, 4), 3)[:, :, mine.start : mine.stop]).sum().backward()
    return [y.detach(), slab.grad, ranks.total(weight.grad), ranks.total(bias.grad)]


@pytest.mark.parametrize("reflected", [True, False])
def test_a_convolution_in_parts_is_a_convolution(reflected):
    x, weight = numbers(2, (20, 5, 4), 1).requires_grad_(), numbers(2, (2, 5, 5, 5), 2)[0].requires_grad_()
    bias = torch.ones(2, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x, [2] * 6, mode="reflect") if reflected else x
    y = torch.nn.functional.conv3d(padded, weight, bias, padding=0 if reflected else 2)
    (y * numbers(2, (20, 5, 4), 3)).sum().backward()
    for found in ([parts(Ranks(), reflected)], on_ranks(2, parts, reflected)):
        assert torch.allclose(torch.cat([each[0] for each in found], 2), y, atol=1e-12)
        assert torch.allclose(torch.cat([each[1] for each in found], 2), x.grad, atol=1e-12)
        for each in found:
            assert torch.allclose(each[2], weight.grad, atol=1e-11) and torch.allclose(each[3], bias.grad, atol=1e-11)


def lanczos(ranks: Ranks) -> torch.Tensor:
    x = numbers(2, (24, 8), 1)
    start = 24 // ranks.size * ranks.rank
    return layers.lanczos2_of_slab(x[:, :, start : start + 24 // ranks.size], 4, Cut(ranks=ranks, axis=2))


def test_a_lanczos_filter_of_slabs():
    assert torch.allclose(torch.cat(on_ranks(2, lanczos), 2), lanczos2(numbers(2, (24, 8), 1), 4), atol=1e-14)
    assert torch.equal(lanczos(Ranks()), lanczos2(numbers(2, (24, 8), 1), 4))


def test_what_slabs_must_have():
    assert (slab_stride(Skip()), thinnest_slab(Skip())) == (4, 8)
    assert thinnest_slab(Skip(2, 1, down=(4, 4), padding="zero")) == 4
    assert thinnest_slab(Skip(2, 1, down=(4, 4), kernel_down=5)) == 12
    assert thinnest_slab(Skip(2, 1, down=(4, 4), downsample="lanczos2", padding="zero")) == 6
    assert (slab_stride(Skip(2, 1, down=(4,))), thinnest_slab(Skip(2, 1, down=(4,)))) == (2, 4)
