"""Gradients by the kernel: against autograd on the definition, in float64 and float32, and whatever a training does."""

import copy
import ctypes
import multiprocessing
import os
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_native import SOURCES, lively, networks, noise

import hatch_build
from medhpc.engine.reference import by_definition
from medhpc.kernel import load_library, open_library, usable_variants, why_not_built
from medhpc.nets import MSD
from medhpc.nets.kernel import kernel_scores, kernel_serves, without_kernel

pytestmark = pytest.mark.skipif(not usable_variants(), reason=f"no kernel: {why_not_built()}")

FAR = 1e-5  # of the largest sum: nearer to zero, float32 and float64 may be on different sides of ReLU's kink


@pytest.fixture(scope="module")
def doubles(tmp_path_factory) -> ctypes.CDLL:
    """The kernel in float64: the same code with other numbers."""
    path = tmp_path_factory.mktemp("doubles") / "msd.so"
    flags = [flag for flag in hatch_build.FLAGS if flag != "-O3"] + ["-O1", "-DMSD_DOUBLE"]
    compiler = hatch_build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [str(SOURCES / "library.cpp"), "-o", str(path)]
    subprocess.run([compiler, *flags, *hatch_build.X86[usable_variants()[0]], *sources], check=True)
    return open_library(path)


@st.composite
def cases(draw):
    """A network and a block (channels, z, y, x), as :func:`test_native.networks_and_blocks`, smaller."""
    network = draw(networks())
    planes = [draw(st.integers(1, 3))] if network.ndim == 2 else []
    shape = [least + draw(st.integers(0, 9)) for least in network.minimum_shape]
    return network, torch.from_numpy(noise(network.in_channels, *planes, *shape, seed=draw(st.integers(0, 99))))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def definition(network: MSD, block: torch.Tensor) -> torch.Tensor:
    """Scores of a block, by what autograd knows how to differentiate."""
    if network.ndim == 3:
        return by_definition(network, block[None])[0]
    return by_definition(network, block.transpose(0, 1)).transpose(0, 1)


def gradients(scores: torch.Tensor, wanted: list[torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
    of_scores = torch.from_numpy(noise(*scores.shape, seed=seed)).to(scores.dtype)
    return list(torch.autograd.grad(scores, wanted, of_scores))


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-300))
        for a, b in zip(found, expected, strict=True)
    )


def by_kind(found: list[torch.Tensor], network: MSD) -> list[torch.Tensor]:
    """Gradients of block and parameters; of all kernels together, and of all biases: one bias's may be near zero."""
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, gradient in zip(["block", *dict(network.named_parameters())], found, strict=True):
        kinds.setdefault(name.partition(".")[0], []).append(gradient.flatten())
    return [torch.cat(parts) for parts in kinds.values()]


def is_away_from_kinks(network: MSD, block: torch.Tensor) -> bool:
    """Whether rounding decides for no voxel of a map on which side of zero its sum is; both in float64."""
    sums = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        relu = F.relu
        patch.setattr(F, "relu", lambda x: sums.append(x) or relu(x))
        definition(network, block)
    return all(float(x.abs().min()) > FAR * float(x.abs().max()) for x in sums)


def in_double(network: MSD, block: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Gradients of block and parameters by autograd on the definition in float64."""
    double, x = copy.deepcopy(network).double(), block.double().requires_grad_()
    return gradients(definition(double, x), [x, *double.parameters()], seed)


# --- the same as the definition ------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases(), st.integers(1, 3))
def test_float64_equals_autograd(doubles, case, threads):
    network, block = case[0].double(), case[1].double().requires_grad_()
    wanted = [block, *network.parameters()]
    expected = definition(network, block)
    with torch_threads(threads):
        found = kernel_scores(network, block, doubles)
    assert largest_difference([found], [expected]) < 1e-12
    assert largest_difference(gradients(found, wanted), gradients(expected, wanted)) < 1e-9


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(usable_variants() or ("none",)))
def test_float32_is_near(case, variant):
    network, block = case
    assume(is_away_from_kinks(copy.deepcopy(network).double(), block.double()))
    block.requires_grad_()
    found = gradients(kernel_scores(network, block, load_library(variant)), [block, *network.parameters()])
    expected = in_double(network, block.detach())
    assert largest_difference(by_kind(found, network), by_kind(expected, network)) < 1e-4


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MSD(1, 2, 25), (13, 31, 47)),
        (MSD(2, 3, 12, width=2), (12, 19, 70)),
        (MSD(1, 2, 40, dilations=[1]), (3, 8, 20)),  # more targets and sources than fit the registers
        (MSD(1, 2, 6, dilations=[40, 2], padding="zero"), (4, 50, 90)),  # longer than an axis
        (MSD(1, 2, 30, ndim=2), (2, 33, 270)),
        (MSD(1, 2, 11, ndim=2), (1, 700, 20)),  # several units along y
    ],
    ids=["odd", "wide", "one dilation", "long dilation", "2D", "tall"],
)
def test_deep_and_long_in_float64(doubles, network, shape):
    network = lively(network).double()
    block = torch.from_numpy(noise(network.in_channels, *shape)).double().requires_grad_()
    wanted = [block, *network.parameters()]
    expected = gradients(definition(network, block), wanted)
    with torch_threads(2):
        assert largest_difference(gradients(kernel_scores(network, block, doubles), wanted), expected) < 1e-9


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_gradients_are_as_large_as_those_of_the_scores(size):
    network, block = lively(MSD(1, 2, 12)), torch.from_numpy(noise(1, 12, 13, 14)).requires_grad_()
    wanted = [block, *network.parameters()]
    scores = network(block[None])
    once = torch.autograd.grad(scores, wanted, torch.ones_like(scores), retain_graph=True)
    found = torch.autograd.grad(scores, wanted, torch.full_like(scores, size))
    assert all(
        torch.allclose(a, b * size, rtol=1e-3, atol=1e-5 * size * float(b.abs().max()))
        for a, b in zip(found, once, strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(cases(), st.sampled_from(usable_variants() or ("none",)))
def test_threads_change_no_bit(case, variant):
    network, block = case
    wanted = [block.requires_grad_(), *network.parameters()]
    found = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            found.append(gradients(kernel_scores(network, block, load_library(variant)), wanted))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


# --- what a training does ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [lambda a: a[..., ::2], lambda a: a.transpose(2, 4), lambda a: a[:, :1].expand_as(a), lambda a: a.flip(3)],
    ids=["steps", "turned", "repeated", "mirrored"],
)
def test_any_stride(view):
    network = lively(MSD(2, 2, 5, dilations=[1, 2]))
    x = view(torch.from_numpy(noise(2, 2, 8, 9, 10)))
    ours, theirs = x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()
    (a,), (b,) = (torch.autograd.grad(network(each).sum(), each) for each in (ours, theirs))
    assert torch.equal(a, b)


def test_a_batch_is_its_blocks():
    network, x = lively(MSD(1, 2, 5, dilations=[1, 2])), torch.from_numpy(noise(3, 1, 8, 9, 10))
    whole = gradients(network(x), list(network.parameters()))
    of_scores = torch.from_numpy(noise(3, 2, 8, 9, 10))
    parts = [
        torch.autograd.grad(network(x[k : k + 1]), list(network.parameters()), of_scores[k : k + 1]) for k in range(3)
    ]
    assert all(torch.allclose(w, sum(p), rtol=1e-4, atol=1e-5) for w, *p in zip(whole, *parts, strict=True))


def test_a_result_and_a_network_may_be_used_twice():
    network, x = lively(MSD(1, 2, 8)), torch.from_numpy(noise(1, 1, 12, 13, 14)).requires_grad_()
    wanted = [x, *network.parameters()]
    scores = network(x)
    once = torch.autograd.grad(scores.sum(), wanted, retain_graph=True)
    again = torch.autograd.grad(scores.sum(), wanted, retain_graph=True)
    doubled = torch.autograd.grad(scores.sum() + scores.sum(), wanted)
    twice = torch.autograd.grad((network(x) + network(x)).sum(), wanted)
    for a, b, c, d in zip(once, again, doubled, twice, strict=True):
        assert torch.equal(a, b) and torch.equal(2 * a, c) and torch.equal(2 * a, d)


def test_what_is_frozen_gets_no_gradient():
    network, x = lively(MSD(1, 2, 6)), torch.from_numpy(noise(1, 1, 8, 9, 10))
    network(x).sum().backward()
    all_of_it = {name: p.grad for name, p in network.named_parameters()}
    for frozen in (["weights"], ["biases", "head_bias"], ["weights.0", "weights.3"], ["head_weight"]):
        network.zero_grad()
        for name, p in network.named_parameters():
            p.requires_grad_(not any(name.startswith(part) for part in frozen))
        network(x).sum().backward()
        for name, p in network.named_parameters():
            assert p.grad is None if not p.requires_grad else torch.equal(p.grad, all_of_it[name])
    network.requires_grad_(False)
    assert not network(x).requires_grad
    assert network(x.requires_grad_()).requires_grad


def test_training_follows_the_definition():
    x = torch.from_numpy(noise(1, 1, 12, 16, 17))
    target = (F.avg_pool3d(x, 3, 1, 1)[:, 0] > 0.1).long()
    losses = []
    for evaluate in (lambda network, x: network(x), by_definition):
        torch.manual_seed(0)
        network = MSD(1, 2, 12)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        losses.append([])
        for _ in range(50):
            optimizer.zero_grad()
            loss = F.cross_entropy(evaluate(network, x), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    ours, theirs = losses
    assert theirs[-1] < 0.5 * theirs[0]
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_changed_network_does_not_change_what_was_computed():
    network, x = lively(MSD(1, 2, 4)), torch.from_numpy(noise(1, 1, 6, 7, 8))
    expected = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    scores = network(x).sum()
    copied = copy.deepcopy(network).state_dict()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    found = torch.autograd.grad(scores, list(network.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert list(copied) == list(network.state_dict())


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("width", [5, 16, 33])
def test_a_step_that_failed_leaves_no_trace(width, padding):
    """Memory of the step before is used again: not a number, where this step writes nothing."""
    network = lively(MSD(1, 2, 9, dilations=[1, 4, 3], padding=padding))
    x = torch.from_numpy(noise(1, 1, 5, 6, width)).requires_grad_()

    def found(network: MSD) -> list[torch.Tensor]:
        return list(torch.autograd.grad(network(x).sum(), [x, *network.parameters()]))

    expected = found(copy.deepcopy(network))
    network(torch.full((1, 1, 9, 10, 40), torch.nan, requires_grad=True)).sum().backward()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(found(network), expected, strict=True))


def test_gradients_of_gradients_are_refused():
    network, x = lively(MSD(1, 1, 2)), torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- when the kernel is used ---------------------------------------------------------------------


def test_the_kernel_serves_float32_on_a_cpu_until_it_is_turned_off(monkeypatch):
    network, planes = MSD(1, 2, 3), torch.zeros(1, 4, 5, 6)
    assert kernel_serves(network, planes)
    assert not kernel_serves(network, planes.double()) and not kernel_serves(network, planes[:, :0])
    assert not kernel_serves(network.double(), planes)
    network.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernel_serves(network, planes)
    with without_kernel():
        assert not kernel_serves(network, planes)
    for name, serves in (("reference", False), ("torch", False), ("", True), ("auto", True), ("native", True)):
        monkeypatch.setenv("MEDHPC_ENGINE", name)
        assert kernel_serves(network, planes) == serves
    monkeypatch.delenv("MEDHPC_ENGINE")
    monkeypatch.setattr("medhpc.nets.kernel.usable_variants", lambda: ())
    assert not kernel_serves(network, planes)
    assert network(planes[None]).shape == (1, 2, 4, 5, 6)


def _in_child(network: MSD, x: torch.Tensor, expected: list[torch.Tensor]) -> None:
    torch.set_num_threads(1)
    found = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    os._exit(0 if all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) else 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_in_children_of_a_fork():
    network, x = lively(MSD(1, 2, 12)), torch.from_numpy(noise(1, 1, 20, 24, 30))
    with torch_threads(2):
        expected = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_in_child, args=(network, x, expected)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 2


class _Gradients(torch.utils.data.Dataset):
    def __init__(self, network: MSD) -> None:
        self.network = network

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.from_numpy(noise(1, 1, 6, 7, 8, seed=index)).requires_grad_()
        return torch.autograd.grad(self.network(x).sum(), x)[0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_in_workers_of_a_data_loader():
    found = _Gradients(lively(MSD(1, 2, 5, dilations=[1, 2])))
    loader = torch.utils.data.DataLoader(found, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert all(torch.equal(gradient, found[k]) for k, gradient in enumerate(loader))


def test_several_networks_in_several_threads():
    pairs = [(lively(MSD(1, 2, 5 + k), seed=k), torch.from_numpy(noise(1, 1, 12, 13, 14, seed=k))) for k in range(4)]

    def one(pair):
        return torch.autograd.grad(pair[0](pair[1]).sum(), list(pair[0].parameters()))

    alone = [one(pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(one, pairs * 3), alone * 3, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_hundreds_of_steps_leave_nothing_behind():
    network, x = MSD(1, 2, 11), torch.from_numpy(noise(1, 1, 12, 13, 14))

    def steps(number: int) -> int:
        for _ in range(number):
            network(x).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = steps(50)
    assert steps(300) - before < 4096  # KiB; the maps of one step take 600
