"""Train a mixed-scale dense network on a few annotations. Reads top to bottom.

The recipe was measured on noisy nuclei with minutes of computing: Adam at 1e-2 with 20 warm-up steps and cosine decay
to zero over the budget, batches of one patch, cross-entropy over the annotated voxels, flips and turns.
"""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

import medhpc
from medhpc import engine as engines
from medhpc.classes import Classes
from medhpc.errors import BadOption
from medhpc.geometry import Box, Index
from medhpc.nets.card import NetworkCard
from medhpc.nets.identity import Identity
from medhpc.nets.msd import MSD
from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.saving import Saving
from medhpc.train.checkpoint import State, checkpoint_path, restore, save_checkpoint, saved_depth
from medhpc.train.examples import Example, open_examples, pooled
from medhpc.train.judge import judge
from medhpc.train.options import Options, check_name, minimum_shape, options_of
from medhpc.train.patches import default_patch, patches
from medhpc.train.pictures import draw_curve, draw_slices, picture_path
from medhpc.train.planning import choose_depth
from medhpc.train.results import Standing, TrainingResult
from medhpc.train.schedule import LEARNING_RATE, end_of, has_stalled, is_judged, set_learning_rate, why_stalled
from medhpc.train.step import take_step
from medhpc.train.truth import NEAR_WEIGHT
from medhpc.train.window import object_window

CHECKPOINT_SECONDS = 30.0
"""At most between two checkpoints."""


def train_msd(
    pairs: Sequence[tuple[str | Path, str | Path]],
    out: str | Path,
    *,
    depth: int | None = None,
    width: int = 1,
    ndim: int | None = None,
    radius: float | None = None,
    truth: str = "auto",
    background: str | int = "all",
    ignore: int | None = None,
    classes: str | Classes | None = None,
    region: str | Box | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    patch: str | Index | None = None,
    normalize: str = "volume",
    minutes: float | None = None,
    steps: int | None = None,
    validation: float = 0.15,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
    patience: int | None = None,
    threads: int | None = None,
    ranks: Ranks = ALONE,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[Standing], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train an MS-D network and write it to `out`; learning curve and validation slices come beside it as PNG.

    Killed at any moment, the same call goes on from the last checkpoint (beside `out`, from the first step on, at
    least every 30 seconds, and on SIGUSR1; on Ctrl-C and SIGTERM nothing is lost). On a CPU and with `steps`, the
    weights are then the same to the last bit as without the kill. Of the judgements on what was held out, the weights
    of the last one in the second half of the budget are kept whose Dice is within 0.005 of the best there.

    Parameters
    ----------
    pairs : sequence of (volume, truth)
        Paths. A truth is a label volume (any label above zero is the object), points (.csv, .xml), or, with
        ``truth="points"``, a volume in which single voxels mark the centres.
    out : path
        ``.safetensors``.
    depth, width : int
        Layers, and maps per layer. By default as deep as this machine trains well in the time given.
    ndim : {2, 3}
        2 looks at each plane by itself; default for volumes of one plane.
    radius : float
        Of the balls drawn around points, in micrometres.
    truth : {"auto", "labels", "points"}
        What a truth volume holds.
    background : {"all", "near"} or int
        What counts as background: all that is no object, a shell around each point (up to 2.5 radii), or the voxels
        of one label value. The rest teaches nothing.
    ignore : int
        Label value that teaches nothing.
    classes : str or mapping
        Several classes of labels: ``"bone=26-50,92-116,liver=5"`` or ``{"bone": [(26, 50), (92, 116)], ...}``.
        Other labels are background.
    region : str or Box
        Train inside this part of every volume only: ``"Z0:Z1,Y0:Y1,X0:X1"``, ends may be empty.
    voxel_size_um : (z, y, x)
        Of all volumes, in place of what their files tell.
    patch : str or (z, y, x)
        Voxels seen by a step; 48, 64, 64 (2D: 1, 384, 384), clipped in each volume to what there is.
    normalize : {"volume", "network"}
        Intensities by each volume's own mean and deviation, or by those of all volumes together. Objects that differ
        from what is around them by much less are looked at through a window (:mod:`medhpc.train.window`); for numbers
        that mean the same in every volume (CT), plan runs with ``normalize="network"`` then, so that it stays in place.
    minutes, steps
        The budget, one of them; 10 minutes by default.
    validation : float
        Share of the region that is held out to judge the network, at that end of an axis (the longest, if it can be)
        which has about the same share of the objects; 0 for none.
    seed : int
        Of the weights and the patches.
    device, threads
        As in :func:`medhpc.engine.load`.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of the convolutions (weights stay float32); "auto" is float32 on a CPU, 16 bit on a GPU.
    batch : int
        Patches of a step, over whose losses the mean is taken; as many as `ranks` by default.
    patience : int
        Judgements (20 in the budget) in a row that may better neither Dice nor loss on what is held out. Then, but not
        in the first half of the budget, the learning rate falls to zero and the training ends; see
        :mod:`medhpc.train.schedule`. By default all of the budget is spent.
    ranks : Ranks
        Processes that share the patches of a step; see :func:`medhpc.ranks.group.joined`. They see the same files, and
        the first one writes; but for rounding, the weights depend on `batch`, not on the number of ranks.
    resume : bool
        False removes a checkpoint that an earlier attempt left.
    progress : callable, optional
        Called with (steps done, steps in all; an estimate, where the budget is a time).
    report : callable, optional
        Called with a :class:`medhpc.train.results.Standing` after each judgement.
    say : callable, optional
        Called with a line for people, where the training goes on from a checkpoint or will end early.

    Raises
    ------
    BadTruth, BadOption, BadNetwork, NonFinite
        Truth, options, name of the network, or volumes that cannot be used.
    """
    if not ranks.is_first:
        progress = report = say = None
    with ExitStack() as files:
        with ranks.agreed():
            out = check_name(out)
            options = options_of(
                pairs,
                depth=depth,
                width=width,
                ndim=ndim,
                radius=radius,
                truth=truth,
                background=background,
                ignore=ignore,
                classes=classes,
                region=region,
                voxel_size_um=voxel_size_um,
                patch=patch,
                normalize=normalize,
                minutes=minutes,
                steps=steps,
                validation=validation,
                seed=seed,
                precision=precision,
                batch=batch or ranks.size,
                patience=patience,
            )
            if options.batch < ranks.size:
                raise BadOption(f"batch {options.batch} for {ranks.size} ranks: each needs a patch; start fewer")
            if not resume and ranks.is_first:
                checkpoint_path(out).unlink(missing_ok=True)
            chosen = engines.load(Identity(), device=device, threads=threads).device
            examples = open_examples(pairs, options, minimum_shape(options), files)
        return _train(examples, options, out, chosen, ranks, progress, report, say)


def _train(
    examples: Sequence[Example],
    options: Options,
    out: Path,
    device: torch.device,
    ranks: Ranks,
    progress: Callable[[int, int], None] | None,
    report: Callable[[Standing], None] | None,
    say: Callable[[str], None] | None,
) -> TrainingResult:
    """The training itself: begin or go on, take steps until the budget is spent, judge and save in between."""
    wanted = options.patch or default_patch(options.ndim)
    identity = {**options.as_json(), "volumes": [example.as_json() for example in examples]}
    known = saved_depth(out, identity)
    depth = known or choose_depth(examples, options, wanted, device)
    depth = ranks.from_first(depth)  # each has measured its own
    state = begin(examples, options, depth, device)
    if known:
        restore(state, out)
        if say:
            say(_resumed(state, options, out))
    resumed_at = state.step
    judging = engines.TorchEngine(state.network, device, kernel=True)  # shares the weights
    held_out = [patch for example in examples for patch in example.held_out()]

    weight = NEAR_WEIGHT if options.background == "near" else 1.0
    began = time.perf_counter() - state.seconds
    mine = range(ranks.rank, options.batch, ranks.size)
    with closing(patches(examples, wanted, options.seed, state.step, mine)) as source, Saving(ranks) as saving:
        while (spent := options.spent(state.step, state.seconds)) < end_of(state):
            set_learning_rate(state, spent)
            part = itertools.islice(source, len(mine))
            state.add_loss(take_step(state, part, computed_in(options, device), weight, options.batch, ranks))
            state.seconds = _seconds_since(began, ranks)
            spent = options.spent(state.step, state.seconds)
            if is_judged(state, spent):
                state.enter(judge(judging, held_out, len(options.class_names)), spent)
                state.seconds = _seconds_since(began, ranks)
                if report:
                    report(_standing(state, options))
                if options.patience and state.stalled_entry < 0 and _has_stalled(state, options.patience, ranks):
                    state.stalled_entry = len(state.history) - 1
                    if say:
                        say(f"ends early: {why_stalled(state)}")
            if progress:
                progress(state.step, options.steps_in_all(state.step, state.seconds, end_of(state)))
            if saving.is_due(_pause(state)):
                if ranks.is_first:
                    save_checkpoint(state, out, identity)
                saving.end_if_told()

    state.network.load_state_dict(state.best)
    result = _result(state, options, out, resumed_at, has_held_out=bool(held_out))
    if not ranks.is_first:
        return result
    state.network.card = _card(state, examples, options, identity)
    state.network.save(out)
    draw_curve(result.curve, state.history, state.best_entry)
    if result.slices:
        draw_slices(result.slices, judging, held_out, options.class_names)
    checkpoint_path(out).unlink(missing_ok=True)
    return result


def begin(examples: Sequence[Example], options: Options, depth: int, device: torch.device) -> State:
    """A network with fresh weights, and its optimizer."""
    torch.manual_seed(options.seed)
    channels, classes = examples[0].volume.channels, len(options.class_names)
    window = object_window(examples, options.seed)
    network = MSD(channels, classes, depth, options.width, options.ndim, window=window).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=computed_in(options, device) == torch.float16)
    return State(network=network, optimizer=optimizer, scaler=scaler)


def computed_in(options: Options, device: torch.device) -> torch.dtype:
    """What convolutions are computed in."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if options.precision == "float16" and device.type == "cpu":
        raise BadOption("precision float16 needs a GPU; on a CPU float32 is exact and fastest")
    if options.precision != "auto":
        return named[options.precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _pause(state: State) -> float:
    """Seconds between two checkpoints: the first comes after the first step, each next one at twice the time."""
    return min(CHECKPOINT_SECONDS, state.seconds / 2)


def _seconds_since(began: float, ranks: Ranks) -> float:
    """By the first rank's clock: all end at the same step."""
    return ranks.from_first(round(1e6 * (time.perf_counter() - began))) / 1e6


def _has_stalled(state: State, patience: int, ranks: Ranks) -> bool:
    """By the first rank's judgements, whose last bits may be others on another processor."""
    return bool(ranks.from_first(int(has_stalled(state.history, patience))))


# --- what is told --------------------------------------------------------------------------------


def _standing(state: State, options: Options) -> Standing:
    entry = state.history[-1]
    spent, end = options.spent(state.step, state.seconds), end_of(state)
    return Standing(
        step=state.step,
        steps=options.steps_in_all(state.step, state.seconds, end),
        seconds=state.seconds,
        seconds_left=max(0.0, state.seconds * end / spent - state.seconds),
        loss=entry["loss"],
        validation_loss=entry["validation_loss"],
        dice=entry["dice"],
    )


def _resumed(state: State, options: Options, out: Path) -> str:
    of = options.steps_in_all(state.step, state.seconds)
    return f"resumed at step {state.step:,} of {of:,} from {checkpoint_path(out)} (--no-resume begins anew)"


def _result(state: State, options: Options, out: Path, resumed_at: int, *, has_held_out: bool) -> TrainingResult:
    network, best = state.network, state.history[state.best_entry]
    device = next(network.parameters()).device
    return TrainingResult(
        network=out,
        curve=picture_path(out, "curve"),
        slices=picture_path(out, "slices") if has_held_out else None,
        depth=network.depth,
        width=network.width,
        ndim=network.ndim,
        parameters=network.n_parameters,
        receptive_radius=max(network.receptive_radius),
        steps=state.step,
        seconds=round(state.seconds, 2),
        seconds_per_step=round(state.seconds / state.step, 4),
        resumed_at=resumed_at,
        best_step=int(best["step"]),
        stalled=why_stalled(state),
        loss=best["loss"],
        validation_loss=best["validation_loss"],
        dice=best["dice"],
        device=str(device),
        precision=str(computed_in(options, device)).removeprefix("torch."),
    )


def _card(state: State, examples: Sequence[Example], options: Options, identity: dict[str, Any]) -> NetworkCard:
    mean, std = pooled([example.statistics for example in examples])
    best = state.history[state.best_entry]
    versions = {"medhpc": medhpc.__version__, "torch": torch.__version__, "numpy": np.__version__}
    training = {
        "kind": "msd",
        **identity,
        "steps_taken": state.step,
        "seconds": round(state.seconds, 2),
        "stalled": why_stalled(state),
        "best": {name: None if math.isnan(value) else value for name, value in best.items()},
        "threads": torch.get_num_threads(),
        "versions": {**versions, "python": platform.python_version()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return NetworkCard(
        normalization={"mean": mean, "std": std},
        classes=options.class_names,
        voxel_size=examples[0].volume.voxel_size_um,
        training=training,
    )
