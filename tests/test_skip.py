"""Hourglass networks: the published architecture, any size, and what decides memory but not results."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medhpc import nets
from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.resample import (
    fill_by_reflection,
    fold_by_reflection,
    join_by_reflection,
    lanczos2,
    lanczos2_taps,
    pad_by_reflection,
)
from medhpc.nets.skip import Skip

torch.set_num_threads(1)
SMALL = {"down": (4, 6), "skip": (2, 3)}


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter at random, norms too: what starts as zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


def test_parameters_of_the_published_networks():
    assert Skip().n_parameters == 6_466_149
    assert Skip(32, 3, ndim=2).n_parameters == 2_217_831  # the photos' network


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("downsample", ["stride", "avg", "max", "lanczos2"])
@pytest.mark.parametrize("upsample", ["linear", "nearest"])
def test_one_level_is_what_the_paper_draws(ndim, downsample, upsample):
    net = drawn(Skip(3, 2, ndim=ndim, down=(4,), skip=2, downsample=downsample, upsample=upsample)).double()
    level = net.levels[0]
    conv, pool = (
        (F.conv2d, F.conv3d)[ndim - 2],
        {
            "avg": (F.avg_pool2d, F.avg_pool3d)[ndim - 2],
            "max": (F.max_pool2d, F.max_pool3d)[ndim - 2],
            "lanczos2": lanczos2,
        },
    )

    def convolve(x, layer, stride=1):
        reach = layer.weight.shape[-1] // 2
        x = F.pad(x, (reach, reach) * ndim, mode="reflect") if reach else x
        return conv(x, layer.weight, layer.bias, stride)

    def norm(x, layer):
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)

    def activated(x, layers):
        return F.leaky_relu(norm(x, layers), 0.2)

    x = torch.rand((1, 3, 8, 10, 6)[: ndim + 2], dtype=torch.float64)
    aside = activated(convolve(x, level.skip), level.skip_norm)
    deeper = convolve(x, level.narrow[0], 2 if downsample == "stride" else 1)
    deeper = pool[downsample](deeper, 2) if downsample != "stride" else deeper
    deeper = activated(convolve(activated(deeper, level.narrow_norm), level.conv), level.conv_norm)
    smooth = {"mode": ("bilinear", "trilinear")[ndim - 2], "align_corners": False}
    deeper = F.interpolate(deeper, scale_factor=2, **(smooth if upsample == "linear" else {"mode": "nearest"}))
    y = activated(convolve(norm(torch.cat([aside, deeper], 1), level.cat_norm), level.merge), level.merge_norm)
    y = activated(convolve(y, level.mix), level.mix_norm)
    assert torch.allclose(net(x), convolve(y, net.end).sigmoid(), atol=1e-12)


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(1, 13), min_size=2, max_size=3),
    padding=st.sampled_from(["reflection", "zero"]),
)
def test_any_size_is_filled_up_and_cut_back(shape, padding):
    net = drawn(Skip(2, 1, ndim=len(shape), padding=padding, **SMALL))
    x = torch.rand(1, 2, *shape)
    filled = net.filled_shape(shape)
    assert all(f >= n and f % 4 == 0 for f, n in zip(filled, shape, strict=True))
    assert net.filled_shape(filled) == filled
    y = net(x)
    assert y.shape == (1, 1, *shape) and bool(y.isfinite().all())
    whole = net(fill_by_reflection(x, filled))
    assert torch.allclose(y, whole[(..., *(slice(n) for n in shape))], atol=1e-6)


@given(st.integers(1, 9), st.integers(0, 40))
def test_filling_is_reflection_again_and_again(length, more):
    row = np.arange(float(length))
    found = fill_by_reflection(torch.from_numpy(row)[None, None], [length + more])
    assert np.array_equal(found[0, 0].numpy(), np.pad(row, (0, more), mode="reflect"))


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)])
@pytest.mark.parametrize("reach", [1, 2])
def test_own_padding_is_that_of_torch_with_its_gradient(shape, reach):
    x = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 2, *(n + 2 * reach for n in shape), dtype=torch.float64)
    gradients = []
    for padded in (pad_by_reflection(x, reach), F.pad(x, (reach, reach) * len(shape), mode="reflect")):
        gradients.append((padded, *torch.autograd.grad((padded * weights).sum(), x)))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("reach", [(1, 1, 1), (2, 0, 1), (0, 2, 0)])
def test_folding_is_the_gradient_of_padding(reach):
    x = torch.rand(1, 2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    padded = pad_by_reflection(x, reach)
    weights = torch.rand_like(padded)
    (expected,) = torch.autograd.grad((padded * weights).sum(), x)
    assert torch.allclose(fold_by_reflection(weights.clone(), reach), expected, atol=1e-14)
    assert torch.equal(join_by_reflection([x[..., :1, :], x[..., 1:, :]], 3, reach), padded)


def test_lanczos_keeps_constants_and_ramps():
    assert lanczos2_taps(2).numpy() == pytest.approx(lanczos2_taps(2).numpy()[::-1])
    assert math.isclose(lanczos2_taps(2).sum(), 1, rel_tol=1e-6)
    assert torch.allclose(lanczos2(torch.full((1, 2, 8, 8), 3.0), 2), torch.tensor(3.0))
    ramp = torch.arange(40.0).expand(1, 1, 8, 40)
    assert torch.allclose(lanczos2(ramp, 2)[..., 3:-3], torch.arange(0.5, 40, 2)[3:-3], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"activation": "Swish"}, {"norm": False}, {"up_1x1": False}, {"skip": 0}])
@pytest.mark.parametrize("padding", ["reflection", "zero"])
def test_checkpointing_changes_no_gradient(options, padding):
    plain = drawn(Skip(2, 1, down=(4, 6), padding=padding, **options)).double()
    frugal = copy.deepcopy(plain)
    frugal.checkpointed = 2
    x = torch.rand(1, 2, 8, 8, 12, dtype=torch.float64)
    for net in (plain, frugal):
        net(x).square().sum().backward()
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_coarse_levels_are_kept_in_float32():
    net = Skip(2, 1, **SMALL)
    x = torch.rand(1, 2, 8, 8, 8)
    seen = []
    net.levels[1].conv.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    for limit in (0, 4):
        net.float32_up_to = limit
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ndim": 2, "skip": (0, 3), "activation": "ELU"},
        {"padding": "zero", "upsample": "nearest", "downsample": "lanczos2", "bias": False},
        {"kernel_down": 5, "kernel_up": (3, 5), "norm": False, "sigmoid": False, "activation": "none"},
    ],
)
def test_saved_and_loaded(tmp_path, options):
    net = drawn(Skip(2, 1, **{**SMALL, **options}))
    net.save(tmp_path / "net.safetensors")
    loaded = nets.load(tmp_path / "net.safetensors")
    assert loaded.architecture() == net.architecture()
    assert nets.digest(loaded) == nets.digest(net) != nets.digest(Skip(2, 1, **{**SMALL, **options}))
    x = torch.rand(1, 2, *(9, 8, 7)[: net.ndim])
    assert torch.equal(loaded(x), net(x))


def test_an_activation_of_ones_own_works_and_is_not_saved(tmp_path):
    net = Skip(2, 1, activation=nn.ReLU, **SMALL)
    assert net(torch.rand(1, 2, 8, 8, 8)).shape == (1, 1, 8, 8, 8)
    with pytest.raises(BadNetwork, match="cannot be saved"):
        net.save(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "options, word",
    [
        ({"ndim": 4}, "4D"),
        ({"down": ()}, "levels"),
        ({"down": (4, 0)}, "down"),
        ({"up": (4,)}, "up"),
        ({"down": (10**9,)}, "down"),
        ({"kernel_up": 2}, "kernel_up"),
        ({"padding": "reflect"}, "padding"),
        ({"upsample": "cubic"}, "upsample"),
        ({"downsample": 2}, "downsample"),
        ({"activation": "relu"}, "activation"),
        ({"in_channels": 0}, "channels"),
    ],
)
def test_impossible_networks_are_refused(options, word):
    with pytest.raises(BadNetwork, match=word):
        Skip(**{"down": (4, 6), **options})


def test_another_input_is_refused():
    with pytest.raises(NetworkMismatch, match="3 channels"):
        Skip(2, 1, **SMALL)(torch.rand(1, 3, 8, 8, 8))
    with pytest.raises(NetworkMismatch, match="2 axes"):
        Skip(2, 1, **SMALL)(torch.rand(1, 2, 8, 8))
