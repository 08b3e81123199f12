"""Memory and operations of a step, counted on tensors without memory: before anything runs, and without a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from medhpc.dip.descent import begin, forward, loss_of, make_code
from medhpc.dip.draws import Draws
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.dip.problem import Problem, Scale
from medhpc.dip.share import Share
from medhpc.dip.tally import Tally
from medhpc.nets.division import WHOLE_FROM
from medhpc.nets.halves import split
from medhpc.nets.skip import Skip
from medhpc.ranks.imagined import ImaginedRanks
from medhpc.volume import open_volume

PRECISIONS = ("fp32", "bf16")
CHECKPOINTED = (0, 2)
"""Levels computed twice: a third one would hold an eighth of what the second does."""
WORKSPACE = 2 * 2**30
"""Allowed for beside the tensors: CUDA itself and the buffers of cuDNN."""
MOMENTS = 5
"""Per weight: Adam's two, and those of the last good weights with themselves."""
AVERAGES = 4
"""Images that are kept beside the network: running mean, that of EMV, the best one, that of the last good weights."""
GPUS = (16, 24, 32, 40, 48, 80, 96, 141, 192)
"""GiB of memory that GPUs are sold with."""
GPUS_OF_A_NODE = 4
"""As most clusters have them."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory of one way to compute, in bytes; of several ranks, for the one that has the most planes.

    Attributes
    ----------
    ranks : int
    precision : str
    checkpointed : int
        Levels whose insides are not kept.
    kept : sequence of int
        Per level of the network, from the finest on: held at the end of the forward pass for the backward pass.
    peak : int
        Most that tensors hold at any moment of a step.
    ask : str
        For SLURM.
    """

    ranks: int
    precision: str
    checkpointed: int
    kept: Sequence[int]
    peak: int
    ask: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a denoising takes: floating-point operations of an iteration, without those done twice; memory.

    `parts` are denoised one after the other: the volumes of a series, and each run of each. `halves` are bytes that the
    two devices of ``parallel="layers"`` keep for the backward pass, in fp32.
    """

    volume: str
    shape: tuple[int, ...]
    filled: tuple[int, ...]
    parameters: int
    levels: int
    flops: int
    iterations: int
    parts: int
    workspace: int
    needs: Sequence[Need]
    halves: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return asdict(self)


def plan(
    path: str | Path,
    options: Options,
    channel: int | None = None,
    ranks: Sequence[int] = (1,),
    checkpointed: Sequence[int] | None = None,
) -> Plan:
    """Count for a volume, by its header, and for each of these numbers of ranks.

    Several precisions are counted unless the options name one, and several numbers of levels computed twice unless
    `checkpointed` does.

    Raises
    ------
    MedhpcError
        Those of volumes; BadOption for more ranks than there are slabs.
    """
    shape, parts = image_shape(path, channel)
    precisions = PRECISIONS if options.precision == "auto" else (options.precision,)
    ways = product(ranks, precisions, CHECKPOINTED if checkpointed is None else checkpointed)
    needs = [need(shape, options, precision, levels, number) for number, precision, levels in ways]
    network, flops = _operations(shape, options)
    fine = tuple(options.factor * n for n in shape[2:])
    return Plan(
        volume=str(path),
        shape=fine,
        filled=network.filled_shape(fine),
        parameters=network.n_parameters,
        levels=network.scales,
        flops=flops,
        iterations=options.n_iterations,
        parts=parts * options.runs,
        workspace=WORKSPACE,
        needs=needs,
        halves=halves(shape, options),
    )


def image_shape(path: str | Path, channel: int | None = None) -> tuple[tuple[int, ...], int]:
    """(1, channels, space) of what is denoised together, a plane's colours or one volume of a series; of how many."""
    with open_volume(path, channel=channel, series=True) as volume:
        if volume.shape[0] == 1:
            return (1, volume.channels, *volume.shape[1:]), 1
        return (1, 1, *volume.shape), volume.channels


def need(shape: Sequence[int], options: Options, precision: str, checkpointed: int, ranks: int = 1) -> Need:
    """Memory of a step for an image of shape (1, channels, space).

    Raises
    ------
    BadOption
        More ranks than there are slabs.
    """
    with FakeTensorMode():
        share = largest_share(shape, options, ranks)
        kept, peak = measured(_imagined(shape, options, share), options, precision, checkpointed)
    return Need(
        ranks=ranks,
        precision=precision,
        checkpointed=checkpointed,
        kept=kept,
        peak=peak,
        ask=_ask(peak, ranks),
    )


def largest_share(shape: Sequence[int], options: Options, ranks: int) -> Share:
    """That of the rank with the most planes; among those, of one with two neighbours. Messages go nowhere."""
    space, factor = shape[2:], options.factor
    if ranks == 1:
        return Share.alone(space, factor)
    with torch.device("meta"):
        network = options.network(len(space), shape[1])
    shares = [Share.of(ImaginedRanks(rank, ranks), space, factor, network) for rank in range(ranks)]
    middle = shares[1:-1] + [shares[0], shares[-1]]
    return max(middle, key=lambda share: len(share.seen.of(share.ranks.rank)))


def halves(shape: Sequence[int], options: Options) -> tuple[int, int]:
    """Bytes that each of two devices keeps for the backward pass of an image (1, channels, space), in fp32."""
    devices = torch.device("cuda:0"), torch.device("cuda:1")
    with FakeTensorMode():
        network = options.network(len(shape) - 2, shape[1])
        split(network, *devices)
        with Tally() as tally:
            fine = (options.factor * n for n in shape[2:])
            result = network(torch.zeros(1, network.in_channels, *fine, device=devices[0]))
            down, up = (tally.held_by[str(device)] for device in devices)
            del result
    return down, up


def levels_to_save(shape: Sequence[int], options: Options, precision: str, free: float, ranks: int = 1) -> int:
    """Find the fewest levels whose insides must be computed twice for `free` bytes; all of them if that does not do."""
    scales = len(options.level_channels)
    for levels in (*CHECKPOINTED, scales):
        if need(shape, options, precision, levels, ranks).peak <= free:
            return levels
    return scales


def measured(problem: Problem, options: Options, precision: str, checkpointed: int) -> tuple[list[int], int]:
    """Bytes kept per level, and the peak of all tensors, in one forward and backward pass with what lies beside it."""
    state = begin(problem, options, 0, precision, checkpointed)
    draws, weights = Draws(0, problem.image.device), list(state.network.parameters())
    with Tally() as tally:
        tally.adopt((problem.image, problem.known, *weights))
        beside = [torch.zeros_like(weight) for weight in weights for _ in range(MOMENTS)]
        beside += [torch.zeros(_result_shape(problem)) for _ in range(AVERAGES)]
        code = make_code(problem, options, draws, precision)
        levels = _voxels(state.network, code.shape[2:])
        output, fitted, wanted = forward(state, problem, options, draws, code, precision)
        kept = _by_level(tally, levels)
        loss_of(problem, options, output, fitted, wanted, problem.known).backward()
        del beside
    return kept, tally.peak


def _result_shape(problem: Problem) -> tuple[int, ...]:
    """Of what this rank makes."""
    shape = list(problem.code_shape)
    shape[problem.share.axis + 2] = len(problem.share.own.of(problem.share.ranks.rank))
    return tuple(shape)


def _voxels(network: Skip, space: Sequence[int]) -> list[int]:
    """Of each level here: of a slab, and of the whole where levels are that."""
    if network.division is None:
        here = whole = network.filled_shape(space)
    else:
        here = network.division.filled_shape(network, tuple(space))
        whole = (*here[: (axis := network.division.cut.axis - 2)], network.division.slabs.length, *here[axis + 1 :])
    levels = [here if level < WHOLE_FROM else whole for level in range(network.scales)]
    return [math.prod(n >> level for n in lengths) for level, lengths in enumerate(levels)]


def _by_level(tally: Tally, voxels: Sequence[int]) -> list[int]:
    """Bytes held by tensors with as many voxels as a level has, or a few more by padding."""
    found = [0] * len(voxels)
    for numbers, size in tally.maps():
        level = min(range(len(voxels)), key=lambda n: abs(math.log(numbers / voxels[n])))
        found[level] += size
    return found


def _imagined(shape: Sequence[int], options: Options, share: Share) -> Problem:
    """A problem of which only the shape matters; made inside a FakeTensorMode."""
    lengths = list(shape)
    lengths[share.axis + 2] = len(share.seen.of(share.ranks.rank)) // options.factor
    seen = torch.zeros(*lengths)
    image = seen.narrow(share.axis + 2, 0, len(share.own.of(share.ranks.rank)) // options.factor)
    return Problem(
        share=share,
        image=image,
        seen=seen,
        known=torch.ones(1, 1, *image.shape[2:]),
        truth=None,
        noise=Noise(kind="gaussian", sigma=0.1),
        data_range=1.0,
        scale=Scale(low=0.0, span=1.0),
    )


def _operations(shape: Sequence[int], options: Options) -> tuple[Any, int]:
    """The network, and floating-point operations of one iteration."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        problem = _imagined(shape, options, Share.alone(shape[2:], options.factor))
        network = begin(problem, options, 0, "fp32").network
        draws = Draws(0, problem.image.device)
        network(make_code(problem, options, draws)).sum().backward()
    return network, counter.get_total_flops()


def _ask(peak: int, ranks: int) -> str:
    """The smallest GPUs that have room, with a tenth to spare: one for each rank."""
    wanted = (1.1 * peak + WORKSPACE) / 2**30
    fitting = [size for size in GPUS if size >= wanted]
    if not fitting:
        return "no GPU is that large: more --ranks, fewer --channels, or --preset small"
    nodes = math.ceil(ranks / GPUS_OF_A_NODE)
    return f"--nodes {nodes} --gres gpu:{math.ceil(ranks / nodes)} ({fitting[0]} GB)"
