"""Ranks: who they are, who has which planes, and that every exchange has the adjoint that gradients need."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from ranked import on_ranks

from medhpc.errors import BadOption, RankLost, ToldElsewhere
from medhpc.ranks.group import Ranks
from medhpc.ranks.halo import EDGES, Cut, extend
from medhpc.ranks.launch import first_host, launched
from medhpc.ranks.slabs import Slabs, divide
from medhpc.ranks.whole import collect, gather, take

SLABS = {1: Slabs((0, 13)), 2: Slabs((0, 8, 13)), 4: Slabs((0, 3, 5, 10, 13))}  # uneven
SHAPE = (2, 13, 3)
PAD = {"zero": "constant", "reflection": "reflect", "repeat": "replicate"}

# --- who they are --------------------------------------------------------------------------------

SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "2",
}


def test_started_by_nobody_by_torchrun_and_by_slurm():
    assert launched({}) is None
    assert (
        launched({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) is None
    )  # in a job, but not by srun
    assert launched({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    found = launched({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **SRUN})
    assert (found.rank, found.size, found.local, found.meeting) == (5, 8, 1, "env://")
    found = launched({**SRUN, "SLURM_STEP_NODELIST": "localhost", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9"})
    assert (found.rank, found.size, found.local, found.meeting) == (3, 4, 1, "tcp://localhost:20219")
    found = launched({**SRUN, "SLURM_STEP_NODELIST": "no.such.node", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9"})
    assert found.meeting == "tcp://10.0.0.9:20219"
    assert launched({**SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "1"}).meeting == "tcp://a:1"
    with pytest.raises(BadOption, match="SLURM_PROCID is 'x'"):
        launched({**SRUN, "SLURM_PROCID": "x"})


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("", ""),
        ("a", "a"),
        ("a,b", "a"),
        ("node[007-009,12],other", "node007"),
        ("r[2,4]n[1-3]", "r2n1"),
        ("n[3]", "n3"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_host(nodes) == first


# --- who has which planes ------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(1, 6), st.data())
def test_slabs_are_even_whole_and_thick_enough(units, ranks, multiple, least, data):
    length = units * multiple
    own = data.draw(st.integers(1, length))
    options = {"multiple": multiple, "least": least, "own": own, "least_own": 1}
    try:
        slabs = divide(length, ranks, **options)
    except BadOption as error:
        assert str(ranks) in str(error)
        assert ranks * max(multiple, least) > own - 1 - multiple or least > multiple
        return
    assert len(slabs.all()) == ranks and slabs.bounds[0] == 0 and slabs.length == length
    assert all(bound % multiple == 0 for bound in slabs.bounds)
    assert slabs.thinnest >= least and slabs.cut_at(own).thinnest >= 1
    if own == length:
        assert max(map(len, slabs.all())) - slabs.thinnest <= multiple


def test_too_many_ranks_are_told_how_many_fit():
    with pytest.raises(BadOption, match="20 ranks for 48 planes: each needs 4 at least.*use at most 12"):
        divide(48, 20, multiple=4)
    with pytest.raises(BadOption, match="use at most 1"):
        divide(6, 2, multiple=2, least=4)
    assert divide(64, 2, multiple=4, own=33).bounds == (0, 32, 64)
    assert divide(64, 2, multiple=4, own=33, least_own=3).bounds == (0, 28, 64)


# --- what they exchange --------------------------------------------------------------------------


def whole(seed: int) -> torch.Tensor:
    return torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sums_and_words(ranks: Ranks):
    sums = ranks.total(torch.tensor([1.0, ranks.rank]))
    return (
        sums.tolist(),
        ranks.any(ranks.rank == 1),
        ranks.any(False),
        (ranks.from_first(7 + ranks.rank), ranks.most(ranks.rank)),
    )


def extended(ranks: Ranks, low: int, high: int, edge: str):
    """A slab with its halo, and the gradient of a weighted sum of that."""
    cut, mine = Cut(ranks=ranks, axis=1), SLABS[ranks.size].of(ranks.rank)
    slab = whole(0)[:, mine.start : mine.stop].clone().requires_grad_()
    found = extend(slab, cut.halo(low, high, edge))
    start = mine.start + (0 if edge == "none" and ranks.below is None else -low) + low
    (found * whole_weights(low, high)[:, start : start + found.shape[1]]).sum().backward()
    return found.detach(), slab.grad


def whole_weights(low: int, high: int) -> torch.Tensor:
    return torch.rand(2, 13 + low + high, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gathered_and_taken(ranks: Ranks):
    cut, slabs = Cut(ranks=ranks, axis=1), SLABS[ranks.size]
    mine = slabs.of(ranks.rank)
    slab = whole(0)[:, mine.start : mine.stop].clone().requires_grad_()
    everything = gather(slab, slabs, cut)
    back = take(everything.square(), slabs, cut)
    (back * whole(2)[:, mine.start : mine.stop]).sum().backward()
    half = gather(slab.detach().bfloat16(), slabs, cut)
    return everything.detach(), back.detach(), slab.grad, half, collect(slab.detach(), slabs, cut)


@pytest.mark.parametrize("size", [2, 4])
def test_sums_and_words(size):
    for sums, one, none, word in on_ranks(size, sums_and_words):
        assert (sums, one, none, word) == ([size, sum(range(size))], True, False, (7, size - 1))
    assert sums_and_words(Ranks()) == ([1, 0], False, False, (7, 0))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_halo_is_what_lies_beyond_and_its_gradient_goes_back(size):
    for low, high, edge in [(1, 1, "zero"), (2, 1, "reflection"), (2, 2, "repeat"), (1, 0, "none"), (0, 2, "none")]:
        assert edge in EDGES
        x = whole(0).requires_grad_()
        padded = x if edge == "none" else F.pad(x.movedim(1, 2), (low, high), mode=PAD[edge]).movedim(2, 1)
        weights = whole_weights(low, high)
        first = low if edge == "none" else 0
        found = [extended(Ranks(), low, high, edge)] if size == 1 else on_ranks(size, extended, low, high, edge)
        begins = 0
        loss = torch.zeros((), dtype=torch.float64)
        for mine, (slab, _) in zip(SLABS[size].all(), found, strict=True):
            begins = max(0, mine.start - low) if edge == "none" else mine.start
            part = padded[:, begins : begins + slab.shape[1]]
            assert torch.equal(slab, part)
            loss = loss + (part * weights[:, first + begins :][:, : slab.shape[1]]).sum()
        loss.backward()
        assert torch.allclose(torch.cat([gradient for _, gradient in found], 1), x.grad, atol=1e-14)


@pytest.mark.parametrize("size", [2, 4])
def test_slabs_to_a_whole_and_back(size):
    x = whole(0).requires_grad_()
    (x.square() * whole(2)).sum().backward()
    results = on_ranks(size, gathered_and_taken)
    for mine, (everything, back, gradient, half, collected) in zip(SLABS[size].all(), results, strict=True):
        planes = slice(mine.start, mine.stop)
        assert torch.equal(everything, x.detach()) and torch.equal(half, x.detach().bfloat16())
        assert torch.equal(back, x.detach().square()[:, planes])
        assert torch.allclose(gradient, x.grad[:, planes], atol=1e-15)
        assert (collected is None) == (mine.start > 0)
    assert torch.equal(results[0][-1], x.detach())


# --- when one fails ------------------------------------------------------------------------------


def one_fails(ranks: Ranks, wrong: list[int]):
    try:
        with ranks.agreed():
            if ranks.rank in wrong:
                raise BadOption(f"of rank {ranks.rank}")
    except (BadOption, ToldElsewhere) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def one_dies(ranks: Ranks):
    if ranks.rank == 1:
        return "gone"
    try:
        for _ in range(1000):
            ranks.total(torch.ones(1))
    except RankLost as error:
        return str(error)
    return "nothing noticed"


def test_what_fails_on_one_fails_on_all_and_is_told_once():
    assert on_ranks(3, one_fails, []) == ["", "", ""]
    elsewhere = "ToldElsewhere: rank 1 of 3 failed, and says why"
    assert on_ranks(3, one_fails, [1, 2]) == [elsewhere, "BadOption: of rank 1", elsewhere]
    assert one_fails(Ranks(), [0]) == "BadOption: of rank 0"


def test_a_rank_that_ends_is_missed():
    first, _ = on_ranks(2, one_dies)
    assert "rank 0 of 2: another rank has ended" in first
