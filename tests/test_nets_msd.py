"""The MS-D network against a direct transcription of its definition."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.engine.memory import peak_growth
from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.kernel import usable_variants, why_not_built
from medhpc.nets import visits
from medhpc.nets.kernel import without_kernel
from medhpc.nets.msd import MSD

torch.set_num_threads(1)


def by_definition(network: MSD, x: torch.Tensor) -> torch.Tensor:
    """Layer by layer, map by map, from all earlier maps, in float64."""
    convolve = F.conv3d if network.ndim == 3 else F.conv2d
    mode = "reflect" if network.padding == "reflect" else "constant"
    maps = x.double()
    for layer in range(network.depth):
        made = []
        for j in range(network.width):
            s = network.dilations[layer * network.width + j]
            padded = F.pad(maps, (s,) * (2 * network.ndim), mode=mode)
            weight = network.weights[layer][j : j + 1].double()
            made.append(F.relu(convolve(padded, weight, network.biases[layer][j : j + 1].double(), dilation=s)))
        maps = torch.cat([maps, *made], 1)
    scores = torch.einsum("oc,nc...->no...", network.head_weight.double(), maps)
    return scores + network.head_bias.double().view(-1, *(1,) * network.ndim)


def lively(network: MSD, seed: int = 0) -> MSD:
    """The network with biases and a last layer that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if p.ndim > 2 else 0.5))
    return network


@st.composite
def networks(draw):
    width = draw(st.integers(1, 3))
    return lively(
        MSD(
            in_channels=draw(st.integers(1, 2)),
            out_channels=draw(st.integers(1, 3)),
            depth=draw(st.integers(1, 7)),
            width=width,
            ndim=draw(st.sampled_from([2, 3])),
            dilations=draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)),
            padding=draw(st.sampled_from(["reflect", "zero"])),
        ),
        draw(st.integers(0, 5)),
    )


@settings(max_examples=40, deadline=None)
@given(
    networks(),
    st.integers(1, 2),
    st.tuples(*[st.integers(5, 9)] * 3),
    st.sampled_from([1, 1 << 13, 1 << 30]),
    st.booleans(),
)
def test_scores_and_gradients_equal_the_definition(network, batch, shape, scratch, kernel):
    """By the kernel where it is, and by torch in slabs of several sizes."""
    x = torch.randn(batch, network.in_channels, *shape[: network.ndim], generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    of_scores = torch.randn(batch, network.out_channels, *x.shape[2:], generator=torch.Generator().manual_seed(3))
    wanted = [x, *network.parameters()]
    expected = by_definition(network, x)
    theirs = torch.autograd.grad((expected * of_scores).sum(), wanted)
    visits.SLAB_BYTES["cpu"], kept = scratch, visits.SLAB_BYTES["cpu"]
    try:
        with nullcontext() if kernel else without_kernel():
            with torch.no_grad():
                inferred = network(x)
            trained = network(x)
            ours = torch.autograd.grad((trained * of_scores).sum(), wanted)
    finally:
        visits.SLAB_BYTES["cpu"] = kept
    assert inferred.shape == expected.shape
    assert torch.equal(inferred, trained)
    assert (inferred - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


@pytest.mark.parametrize("ndim, count", [(3, 136_552), (2, 45_652)])
def test_published_sizes(ndim, count):
    assert MSD(1, 1, depth=100, ndim=ndim).n_parameters == count


def test_dilations_follow_the_paper():
    assert MSD(1, 1, depth=12).dilations == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2)
    network = MSD(1, 2, depth=4, width=3)
    assert network.dilations == tuple((i * 3 + j) % 10 + 1 for i in range(4) for j in range(3))
    assert network.receptive_radius == (3 + 6 + 9 + 10,) * 3
    assert MSD(1, 1, depth=85).receptive_radius == (455,) * 3


def test_initial_weights():
    network = MSD(2, 3, depth=40)
    std = (2 / (27 * (2 + 39) + 3)) ** 0.5
    assert torch.cat([w.flatten() for w in network.weights]).std().item() == pytest.approx(std, rel=0.03)
    assert not any(p.any() for p in (*network.biases, network.head_weight, network.head_bias))


@settings(max_examples=10, deadline=None)
@given(networks())
def test_nothing_beyond_the_receptive_radius_matters(network):
    """Folding at the borders included: reflection only brings voxels nearer than they would be."""
    radius = network.receptive_radius[0]
    length = min(2 * radius + 9, 60)
    x = torch.randn(1, network.in_channels, *(max(5, network.minimum_shape[0]),) * (network.ndim - 1), length)
    y = x.clone()
    y[..., 0] += 10
    with torch.no_grad():
        moved = (network(x) - network(y)).abs().amax(tuple(range(x.ndim - 1)))
    assert not moved[radius + 1 :].any()


def test_inference_memory_is_one_buffer(monkeypatch):
    monkeypatch.setitem(visits.SLAB_BYTES, "cpu", 2**20)
    network = MSD(1, 2, depth=20)
    with without_kernel(), torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        network(torch.zeros(1, 1, 32, 32, 32))
    allocated = [event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 2**20]
    assert len(allocated) == 1
    assert max(allocated) <= 21 * 32**3 * 4 + 2**16


@pytest.mark.parametrize("ndim", [2, 3])
def test_training_in_16_bit_is_near(ndim):
    torch.manual_seed(0)  # a gradient near zero is not near in 16 bit
    network, x = lively(MSD(1, 2, 5, ndim=ndim, dilations=[1, 2])), torch.randn(1, 1, *(9,) * ndim)
    expected = torch.autograd.grad(by_definition(network, x).square().mean(), list(network.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(x).float().square().mean()
    found = torch.autograd.grad(loss, list(network.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.1 * b.abs().max()


def test_training_by_torch_keeps_the_maps_and_nothing_else():
    network, x = MSD(1, 2, 60), torch.randn(1, 1, 16, 17, 18)
    kept = []
    with without_kernel(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        network(x)
    assert sum(t.numel() for t in kept) == (1 + 60) * x.numel() + network.n_parameters


@pytest.mark.skipif(not usable_variants(), reason=why_not_built())
def test_training_memory_of_the_kernel_is_maps_and_gradients():
    network, x = MSD(1, 2, 60), torch.randn(1, 1, 64, 64, 64)
    buffer = (1 + 60) * x.numel() * 4
    network(x[..., :16, :16, :16]).sum().backward()  # libraries and threads
    with peak_growth(x.device) as growth:
        network(x).sum().backward()
    assert buffer < growth.bytes < 2 * 1.6 * buffer + 2**23  # 1.6: its rows and planes are kept off powers of two


@pytest.mark.parametrize(
    "options, word",
    [
        ({"depth": 0}, "depth"),
        ({"depth": 10**9}, "depth"),
        ({"depth": 1000, "width": 100}, "maps"),
        ({"ndim": 4}, "ndim"),
        ({"padding": "edge"}, "padding"),
        ({"dilations": []}, "dilations"),
        ({"dilations": [0]}, "dilations"),
        ({"in_channels": "1"}, "in_channels"),
        ({"window": [(0, 1), None]}, "window"),
        ({"window": [(1, 1)]}, "window"),
        ({"window": [(0, float("nan"))]}, "window"),
        ({"window": ["01"]}, "window"),
    ],
)
def test_impossible_networks_are_refused(options, word):
    with pytest.raises(BadNetwork, match=word):
        MSD(**{"in_channels": 1, "out_channels": 1, "depth": 3, **options})


@pytest.mark.parametrize(
    "shape, word", [((1, 1, 8, 8), "axes"), ((1, 2, 12, 12, 12), "channels"), ((1, 1, 10, 20, 20), "thin")]
)
def test_inputs_that_do_not_fit_are_refused(shape, word):
    with pytest.raises(NetworkMismatch, match=word):
        MSD(1, 1, depth=10)(torch.zeros(shape))


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 4))
def test_a_window_is_clipping_and_stretching_before_the_network(low, length):
    high = low + length
    windowed, plain = (lively(MSD(2, 2, 3, window=window)) for window in ([None, (low, high)], None))
    x = torch.randn(1, 2, 6, 7, 8) * 2
    seen = x.clone()
    seen[:, 1] = (x[:, 1].clamp(low, high) - low) / length * 6 - 3
    with torch.no_grad():
        assert torch.allclose(windowed(x), plain(seen), atol=1e-3, rtol=1e-3)
    assert windowed.n_parameters == plain.n_parameters


def test_thinnest_input_works():
    network = MSD(1, 1, depth=10)
    assert network.minimum_shape == (11, 11, 11)
    assert network(torch.zeros(1, 1, 11, 11, 11)).shape == (1, 1, 11, 11, 11)
    assert np.isfinite(network.n_flops(2304 * 1280 * 1024))
