"""The descent for one image: network, code, steps, when to stop. Reads top to bottom.

The recipe is that of Ulyanov et al. (CVPR 2018), measured again on a brain MRI: noise on the input and the running
average of the outputs are worth a decibel each, and 3 % of the voxels held out of the loss tell when to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medhpc.dip import loss as losses
from medhpc.dip.draws import Draws, Purpose
from medhpc.dip.measures import similarity
from medhpc.dip.options import R2R_ITERATIONS, Options
from medhpc.dip.precision import DOUBLE, arithmetic, autocast, dtype_of, float32_up_to
from medhpc.dip.problem import Problem, held_out
from medhpc.dip.state import State
from medhpc.nets.division import add_up_gradients, divide
from medhpc.nets.halves import split
from medhpc.ranks.saving import Saving

LEARNING_RATE = 0.01
WARM_UP = 50
"""Steps in which it rises: full ones at once spoil part of a network for good."""
CODE_SIZE = 0.1
INPUT_NOISE, MOST_INPUT_NOISE = 0.4, 1 / 20
"""Noise on the code, relative to the image's: the paper's 1/30 at a deviation of 25 of 255, and at most its 1/20.
At half that deviation, 1/60 was 1.3 dB better than 1/30 after 1,000 steps on a brain MRI."""
RECORRUPTION = 0.5
"""How much of the noise drawn is added to the input of r2r; twice of it, 1 / 0.5, is taken from the target."""

R2R_EFFORT = 30
"""Iterations of r2r times the noise's deviation, where the image's range is about one: in the end it learns the noise.
Inside a brain at 0.08 it was best after 360 iterations, 1 dB worse after 600; at 0.045 it still got better."""

LOOK_EVERY = 10
"""Iterations between two entries of the history, and between two decisions whether to stop."""
SIMILARITY_EVERY = 50
CHECKPOINT_SECONDS = 60.0
PATIENCE = {"held-out": 200, "emv": 1000}
"""Iterations after the best one before the descent stops."""
EMV_WARM_UP = 30
"""Iterations in which the variance means nothing yet."""
KEEP_EVERY = 100
DROP_DB = 5.0
"""A fit to the image that is so much worse than the one kept is a collapse, not learning."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a descent is kept: its file, and what tells it from another's."""

    path: Path
    identity: Mapping[str, Any]


def descend(
    problem: Problem,
    options: Options,
    seed: int,
    *,
    precision: str,
    checkpointed: int = 0,
    way_up: torch.device | None = None,
    place: Place | None = None,
    progress: Callable[[int, int, State], None] | None = None,
) -> State:
    """Denoise one image, or the planes of it that this rank has.

    Parameters
    ----------
    precision : {"fp32", "tf32", "bf16", "fp16"}
    checkpointed : int
        Levels of the network whose insides are computed twice rather than kept.
    way_up : torch.device, optional
        Where the second half of the network is computed, if elsewhere.
    place : Place, optional
        Where to go on from, and to keep what is done every minute and when a signal asks for it; all ranks see the
        same files.
    progress : callable, optional
        Called after each iteration with (iterations done, their bound, the state).

    Returns
    -------
    State
        Its `best` (by the stopping rule) or `average` is the result.
    """
    state = begin(problem, options, seed, precision, checkpointed, way_up)
    ranks = problem.share.ranks
    if place and ranks.from_first(int(place.path.exists())):
        state.restore(place.path)
    device = problem.image.device
    state.network.float32_up_to = ranks.most(float32_up_to(precision, device, problem.ndim))
    draws = Draws(seed, device)
    out = held_out(problem, options, draws)
    code = make_code(problem, options, draws, precision)
    began = time.perf_counter() - state.seconds
    iterations = bound(problem, options)
    with Saving(ranks) as saving:
        while state.iteration < iterations and not has_stopped(state, options):
            with arithmetic(precision):
                take_step(state, problem, options, draws, code, problem.known - out, precision)
            if state.iteration % LOOK_EVERY == 0 or state.iteration == iterations:
                look(state, problem, options, out)
            state.seconds = time.perf_counter() - began
            if saving.is_due(CHECKPOINT_SECONDS):
                if place:
                    state.save(place.path, place.identity)
                saving.end_if_told()
            if progress:
                progress(state.iteration, iterations, state)
    return state


def begin(
    problem: Problem,
    options: Options,
    seed: int,
    precision: str,
    checkpointed: int = 0,
    way_up: torch.device | None = None,
) -> State:
    """A network with fresh weights, and its optimizer."""
    device = problem.image.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = options.network(problem.ndim, problem.image.shape[1])  # drawn on the CPU, the same for every device
    if device.type != "cpu":  # the imagined tensors of a plan cannot be moved, not even to where they are
        network = network.to(device)
    if precision == DOUBLE:
        network = network.double()
    if way_up is not None:
        split(network, device, way_up)
    network.checkpointed = checkpointed
    share = problem.share
    if share.ranks.size > 1:
        divide(network, replace(share.cut, overlaps=not checkpointed), share.seen)  # else memory is dear
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return State(network=network, optimizer=optimizer, scaler=scaler, share=share)


def make_code(problem: Problem, options: Options, draws: Draws, precision: str = "fp32") -> Tensor:
    """What the network makes the image of: (1, channels, fine space), no finer than it sees. Of r2r, the image."""
    if options.method == "r2r":
        return problem.seen
    channels = options.input_channels(problem.image.shape[1])
    shape = (1, channels, *problem.code_shape[2:])
    code = draws.uniform(Purpose.CODE, shape, planes=problem.share.seen_planes).mul_(CODE_SIZE)
    return code.to(dtype_of(precision))


def take_step(
    state: State,
    problem: Problem,
    options: Options,
    draws: Draws,
    code: Tensor,
    weights: Tensor,
    precision: str,
) -> None:
    """One iteration; where the fit has collapsed, back to where it had not in place of a step.

    Parameters
    ----------
    code : Tensor (1, channels, fine space)
    weights : Tensor (1, 1, space)
        1 for the voxels that the loss counts.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(problem, options, state.iteration)
    output, fitted, wanted = forward(state, problem, options, draws, code, precision)
    state.loss = losses.mean_over(losses.squared(fitted, problem.image), weights, problem.share.ranks).item()
    fit = losses.decibels(state.loss)
    state.iteration += 1
    if state.kept and not fit > state.kept_fit - DROP_DB:
        state.go_back()
        return
    if (state.iteration - 1) % KEEP_EVERY == 0 and math.isfinite(fit):
        state.keep(fit)
    loss = loss_of(problem, options, output, fitted, wanted, weights)
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    add_up_gradients(state.network)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.add(output.detach())


def bound(problem: Problem, options: Options) -> int:
    """Iterations, where nothing stops earlier; of r2r fewer where there is more noise, unless told how many."""
    if options.iterations or options.method != "r2r":
        return options.n_iterations
    least, most = R2R_ITERATIONS
    return round(min(max(R2R_EFFORT / max(problem.noise.sigma, R2R_EFFORT / most), least), most))


def learning_rate(problem: Problem, options: Options, iteration: int) -> float:
    """It rises at first; that of r2r then falls to zero by half a cosine, for it ends where it was told to.

    On the edge of a brain MRI, 400 steps of r2r were 1.2 dB better for the rise, and 0.5 dB for the fall.
    """
    warmth = min(1.0, (iteration + 1) / WARM_UP)
    if options.method != "r2r":
        return LEARNING_RATE * warmth
    return LEARNING_RATE * warmth * 0.5 * (1 + math.cos(math.pi * iteration / bound(problem, options)))


def forward(
    state: State, problem: Problem, options: Options, draws: Draws, code: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network makes of its input, that at the resolution of the image, and what it should be.

    The input is not returned: the network keeps what it needs of it, and it is as large as many images.
    """
    seen, wanted = inputs_of(problem, options, draws, code, state.iteration, precision)
    with autocast(precision, seen.device):
        output = state.share.own_of(state.network(seen))  # (1, channels, fine space), float32
    return output, state.share.coarser(output), wanted


def loss_of(
    problem: Problem, options: Options, output: Tensor, fitted: Tensor, wanted: Tensor, weights: Tensor
) -> Tensor:
    """What the step makes smaller: this rank's part of it."""
    loss = losses.part_of_mean(errors_of(problem, options, fitted, wanted), weights, problem.share.ranks)
    if options.tv:
        loss = loss + options.tv * losses.total_variation(output, problem.share.cut)
    return loss


def inputs_of(
    problem: Problem, options: Options, draws: Draws, code: Tensor, iteration: int, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """What the network sees in this iteration, and what it should make of it.

    ``r2r`` is recorrupted-to-recorrupted (Pang et al., CVPR 2021): of an image y with noise of deviation s, the pair
    y + a n and y - n / a with fresh n ~ N(0, s^2) has independent noise, so that the first can teach the second.
    """
    dtype = dtype_of(precision)  # in 16 bit, what autocast would make of it, and keep beside it
    share = problem.share
    if options.method == "r2r":
        drawn = draws.normal(Purpose.RECORRUPTION, code.shape, iteration, share.seen_planes).mul_(problem.noise.sigma)
        return (code + RECORRUPTION * drawn).to(dtype), problem.image - share.own_of(drawn) / RECORRUPTION
    drawn = draws.normal(Purpose.INPUT_NOISE, code.shape, iteration, share.seen_planes)
    noise = min(INPUT_NOISE * problem.noise.sigma, MOST_INPUT_NOISE)
    return drawn.mul_(noise).add_(code).to(dtype), problem.image


def errors_of(problem: Problem, options: Options, found: Tensor, wanted: Tensor) -> Tensor:
    """Per voxel: by the likelihood of the noise; r2r has normal noise, its image was transformed for it."""
    if problem.noise.kind == "rician" and options.method == "dip" and problem.noise.sigma > 0:
        return losses.rician(found, wanted, problem.noise.sigma)
    return losses.squared(found, wanted)


@torch.no_grad()
def look(state: State, problem: Problem, options: Options, out: Tensor) -> None:
    """Enter how it stands into the history, and prefer this average if the stopping rule does."""
    if state.average is None:
        return
    fitted, ranks = state.share.coarser(state.average), state.share.ranks
    entry: dict[str, Any] = {
        "iteration": state.iteration,
        "seconds": state.seconds,
        "loss": losses.mean_over(losses.squared(fitted, problem.image), problem.known - out, ranks).item(),
        "emv": state.emv,
        "held_out": None,
        "psnr": None,
        "ssim": None,
    }
    if options.stops_by == "held-out":
        entry["held_out"] = losses.mean_over(errors_of(problem, options, fitted, problem.image), out, ranks).item()
        state.prefer(entry["held_out"])
    elif options.stops_by == "emv" and state.iteration >= EMV_WARM_UP:
        state.prefer(state.emv)
    if problem.truth is not None:
        error = state.share.mean(losses.squared(state.average, problem.truth))
        entry["psnr"] = losses.decibels(error / problem.data_range**2)
        if state.iteration % SIMILARITY_EVERY == 0 or state.iteration == bound(problem, options):
            entry["ssim"] = _similarity(state.average, problem)
    state.history.append(entry)


def _similarity(average: Tensor, problem: Problem) -> float | None:
    """The first rank knows it."""
    assert problem.truth is not None
    found, truth = problem.share.whole(average), problem.share.whole(problem.truth)
    return None if found is None or truth is None else similarity(found, truth, problem.data_range)


def has_stopped(state: State, options: Options) -> bool:
    """Whether the best average is long ago."""
    patience = PATIENCE.get(options.stops_by, math.inf)
    return state.best is not None and state.iteration - state.best_iteration >= patience


def result_of(state: State) -> Tensor:
    """(1, channels, fine space): the average that the stopping rule chose, or the last one."""
    result = state.average if state.best is None else state.best
    assert result is not None
    return result
