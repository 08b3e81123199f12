"""Memory and operations of a step, counted on tensors without memory: before anything runs, and without a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from medhpc.dip.tally import Tally
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


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory of one way to compute, in bytes.

    Attributes
    ----------
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

    precision: str
    checkpointed: int
    kept: Sequence[int]
    peak: int
    ask: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a denoising takes: floating-point operations of an iteration, without those done twice; memory."""

    volume: str
    shape: tuple[int, ...]
    filled: tuple[int, ...]
    parameters: int
    levels: int
    flops: int
    workspace: int
    needs: Sequence[Need]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return asdict(self)


def plan(path: str | Path, options: Options, channel: int | None = None) -> Plan:
    """Count for a volume, by its header.

    Raises
    ------
    MedhpcError
        Those of volumes.
    """
    with open_volume(path, channel=channel, series=True) as volume:
        flat = volume.shape[0] == 1
        space = volume.shape[1:] if flat else volume.shape
        shape = (1, volume.channels if flat else 1, *space)
    ways = [(precision, levels) for precision in PRECISIONS for levels in CHECKPOINTED]
    needs = [need(shape, options, precision, levels) for precision, levels in ways]
    network, flops = _operations(shape, options)
    fine = tuple(options.factor * n for n in space)
    return Plan(
        volume=str(path),
        shape=fine,
        filled=network.filled_shape(fine),
        parameters=network.n_parameters,
        levels=network.scales,
        flops=flops,
        workspace=WORKSPACE,
        needs=needs,
    )


def need(shape: Sequence[int], options: Options, precision: str, checkpointed: int) -> Need:
    """Memory of a step for an image of shape (1, channels, space)."""
    with FakeTensorMode():
        kept, peak = measured(_imagined(shape), options, precision, checkpointed)
    return Need(precision=precision, checkpointed=checkpointed, kept=kept, peak=peak, ask=_ask(peak))


def levels_to_save(shape: Sequence[int], options: Options, precision: str, free: int) -> int:
    """Find the fewest levels whose insides must be computed twice for `free` bytes; all of them if none suffices."""
    scales = len(options.level_channels)
    for levels in (*CHECKPOINTED, scales):
        if need(shape, options, precision, levels).peak + WORKSPACE <= free:
            return levels
    return scales


def measured(problem: Problem, options: Options, precision: str, checkpointed: int) -> tuple[list[int], int]:
    """Bytes kept per level, and the peak of all tensors, in one forward and backward pass with what lies beside it."""
    state = begin(problem, options, 0, precision, checkpointed)
    draws, weights = Draws(0, problem.image.device), list(state.network.parameters())
    with Tally() as tally:
        tally.adopt((problem.image, problem.known, *weights))
        beside = [torch.zeros_like(weight) for weight in weights for _ in range(MOMENTS)]
        beside += [torch.zeros(problem.result_shape(options.factor)) for _ in range(AVERAGES)]
        code = make_code(problem, options, draws, precision)
        filled = state.network.filled_shape(code.shape[2:])
        levels = [math.prod(n >> level for n in filled) for level in range(state.network.scales)]
        output, fitted, wanted = forward(state, problem, options, draws, code, precision)
        kept = _by_level(tally, levels)
        loss_of(problem, options, output, fitted, wanted, problem.known).backward()
        del beside
    return kept, tally.peak


def _by_level(tally: Tally, voxels: Sequence[int]) -> list[int]:
    """Bytes held by tensors with as many voxels as a level has, or a few more by padding."""
    found = [0] * len(voxels)
    for numbers, size in tally.maps():
        level = min(range(len(voxels)), key=lambda n: abs(math.log(numbers / voxels[n])))
        found[level] += size
    return found


def _imagined(shape: Sequence[int]) -> Problem:
    """A problem of which only the shape matters; made inside a FakeTensorMode."""
    return Problem(
        image=torch.zeros(*shape),
        known=torch.ones(1, 1, *shape[2:]),
        truth=None,
        noise=Noise(kind="gaussian", sigma=0.1),
        data_range=1.0,
        scale=Scale(low=0.0, span=1.0),
    )


def _operations(shape: Sequence[int], options: Options) -> tuple[Any, int]:
    """The network, and floating-point operations of one iteration."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        problem = _imagined(shape)
        network = begin(problem, options, 0, "fp32").network
        draws = Draws(0, problem.image.device)
        network(make_code(problem, options, draws)).sum().backward()
    return network, counter.get_total_flops()


def _ask(peak: int) -> str:
    """The smallest GPU that has room, with a tenth to spare."""
    wanted = (1.1 * peak + WORKSPACE) / 2**30
    fitting = [size for size in GPUS if size >= wanted]
    return f"--nodes 1 --gres gpu:1 ({fitting[0]} GB)" if fitting else "no single GPU"
