"""Normalisation and activation in one step: what torch makes of both, also of a block held in parts."""

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.nets import normalise as module
from medhpc.nets.normalise import normalise

shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.lists(st.integers(1, 6), min_size=2, max_size=3))


def drawn(shape, dtype=torch.float64):
    """A block and weights that are no multiples of anything."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 2
    weight, bias, gradient = (
        torch.randn(n, generator=generator, dtype=torch.float64) for n in (*shape[1:2] * 2, shape)
    )
    wide = torch.promote_types(dtype, torch.float32)
    return x.to(dtype), weight.to(wide), bias.to(wide), gradient.to(dtype)


def by_torch(x, weight, bias, slope):
    return F.leaky_relu(torch.batch_norm(x, weight, bias, None, None, True, 0.0, module.EPSILON, False), slope)


def by_us(x, weight, bias, slope):
    return normalise(x, weight, bias, slope=slope)


def result_and_gradients(function, x, weight, bias, gradient, slope):
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    result = function(*leaves, slope)
    result.backward(gradient)
    return [result.detach(), *(leaf.grad for leaf in leaves)]


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from([0.2, 1.0]), st.sampled_from([1, 7, 2**17]), st.booleans())
def test_it_is_what_torch_makes_of_both(shape, slope, at_once, channels_last):
    batch, channels, space = shape
    x, weight, bias, gradient = drawn((batch, channels, *space))
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", {"cpu": at_once})
        found = result_and_gradients(by_us, x, weight, bias, gradient, slope)
    expected = result_and_gradients(by_torch, x, weight, bias, gradient, slope)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_wide_whatever_the_block(dtype):
    """A mean of 1000 deviations: sums of squares in 16 bit, or in one pass, would leave nothing of it."""
    x, weight, bias, gradient = drawn((1, 3, 12, 12, 12), dtype)
    shifted = (x.double() * 0.01 + 30).to(dtype)
    found = result_and_gradients(by_us, shifted, weight, bias, gradient, 0.2)
    exact = [tensor.double() for tensor in (shifted, weight, bias, gradient)]
    expected = result_and_gradients(by_torch, *exact, 0.2)
    assert found[0].dtype == found[1].dtype == dtype
    step = torch.finfo(dtype).eps
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).abs().max() < max(2 * step, 1e-3) * theirs.abs().max()


def test_one_voxel_becomes_the_bias():
    found = normalise(torch.full((1, 2, 1, 1), 7.0), torch.ones(2), torch.tensor([0.5, -0.5]), slope=0.2)
    assert found.flatten().tolist() == pytest.approx([0.5, -0.1])


def test_nothing_but_the_input_is_kept():
    kept = []
    x, weight, bias, _ = drawn((1, 2, 8, 8, 8))
    x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        normalise(x, weight, bias, slope=0.2)
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() > 2] == [x.data_ptr()]


@pytest.mark.parametrize("cut", [1, 4])
def test_a_block_in_two_parts_is_normalised_as_one(cut):
    x, weight, bias, gradient = drawn((1, 3, 6, 5, 4))
    whole = result_and_gradients(by_us, x, weight, bias, gradient, 0.2)
    meeting, sums, found = threading.Barrier(2, timeout=20), [None, None], [None, None]

    def part(rank: int) -> None:
        def total(mine):
            sums[rank] = mine.clone()
            meeting.wait()
            mine.copy_(sums[0] + sums[1])
            meeting.wait()
            return mine

        mine = (slice(None), slice(None), slice(0, cut) if rank == 0 else slice(cut, None))
        found[rank] = result_and_gradients(
            lambda *leaves: normalise(*leaves[:3], slope=leaves[3], total=total),
            x[mine],
            weight,
            bias,
            gradient[mine],
            0.2,
        )

    ranks = [threading.Thread(target=part, args=(rank,)) for rank in range(2)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    for axis, (one, other, expected) in enumerate(zip(*found, whole, strict=True)):
        both = torch.cat([one, other], 2) if axis < 2 else one + other
        assert torch.allclose(both, expected, atol=1e-12)
