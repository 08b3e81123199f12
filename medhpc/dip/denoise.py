"""Volumes in, volumes out: each volume of a series by itself, one or several runs, and what is known about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from medhpc import engine as engines
from medhpc.dip.files import Files
from medhpc.dip.image import Image, Truth, open_image
from medhpc.dip.memory import levels_that_fit
from medhpc.dip.noise import WHITE
from medhpc.dip.options import Options
from medhpc.dip.output import compared, measures, slices, write_volumes
from medhpc.dip.pictures import draw
from medhpc.dip.precision import settle
from medhpc.dip.results import DipResult, Standing
from medhpc.dip.room import check_room_for
from medhpc.dip.work import Done, Work
from medhpc.errors import BadOption, NoDevice
from medhpc.nets.identity import Identity
from medhpc.ranks.group import ALONE, Ranks
from medhpc.run.durable import write_durably

NEAR = 0.15
"""A noise level that is given differs from what is measured by less than this share, or the user is told."""


def denoise(
    noisy: str | Path,
    clean: str | Path,
    *,
    options: Options | None = None,
    mask: str | Path | None = None,
    truth: str | Path | None = None,
    data_range: float | None = None,
    channel: int | None = None,
    checkpointed: int | None = None,
    compare: bool = False,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = True,
    parallel: str = "spatial",
    ranks: Ranks = ALONE,
    progress: Callable[[Standing], None] | None = None,
) -> DipResult | None:
    """Denoise a volume by a network that learns from nothing else, and write it to `clean`.

    Killed at any moment, the same call goes on from its last checkpoint (in a hidden folder beside `clean`, every
    minute and on SIGUSR1), also with another number of ranks; on a CPU of one rank the result is then the same to the
    last bit. All ranks must see the same files; the first one writes them.

    Parameters
    ----------
    noisy, clean : path
        Volumes of any format. Voxel type, voxel size and affine travel along. Channels of an image of one plane (a
        photo) are denoised together, those of a volume one by one.
    options : Options
    mask : path, optional
        Volume of the same shape: voxels where it is zero are not believed, and restored. Method ``dip`` only.
    truth : path, optional
        Noise-free volume of the shape of `clean`, for curves of PSNR and SSIM; nothing is learnt from it.
    data_range : float, optional
        What PSNR is relative to; the range of the truth unless given.
    channel : int, optional
        Denoise this channel only.
    checkpointed : int, optional
        Levels of the network, from the finest on, whose insides are computed twice rather than kept; as few as fit
        into the GPU's free memory unless given, and none on a CPU.
    compare : bool
        Also run filters that need no network, tuned by the truth if there is one; see :mod:`medhpc.dip.compare`.
    device, threads
        As in :func:`medhpc.engine.load`.
    resume : bool
        False removes what an earlier attempt left.
    parallel : {"spatial", "layers"}
        How the work is shared: each rank has a slab of the image; or, without ranks, one GPU computes the network's way
        down and another its way up (see :mod:`medhpc.nets.halves`).
    ranks : Ranks
        Processes that share the image; see :func:`medhpc.ranks.group.joined`. The result does not depend on their
        number, but for rounding.
    progress : callable, optional
        Called with a :class:`medhpc.dip.results.Standing` after each iteration.

    Returns
    -------
    DipResult or None
        None on all ranks but the first.

    Raises
    ------
    MedhpcError
        BadOption, NonFinite, NotEnoughMemory, DiskFull and those of volumes.
    """
    options = options or Options()
    with ExitStack() as until_done:
        with ranks.agreed():
            files = Files(clean, noisy)
            _check(options, mask, truth, data_range, compare, checkpointed)
            image = open_image(noisy, channel)
            files.check_holds(image, options.factor)
            chosen = engines.load(Identity(), device=device, threads=threads).device
            precision = settle(options.precision, chosen)
            work = Work(
                image=image,
                options=options,
                mask=mask,
                truth=None if truth is None else until_done.enter_context(Truth(truth, image, options.factor)),
                data_range=data_range,
                device=chosen,
                precision=precision,
                checkpointed=levels_that_fit(image.problem_shape, options, precision, chosen, ranks.size, checkpointed),
                folder=files.work,
                way_up=_other_device(chosen, ranks) if parallel == "layers" else None,
                ranks=ranks,
                progress=progress,
            )
            if ranks.is_first:
                work.check()
                check_room_for(files, image, options)
                until_done.enter_context(files.held(anew=not resume))
        work.checkpointed = ranks.most(work.checkpointed)  # all compute alike, whatever is free on their GPUs
        done = work.all_runs()
        return None if done is None else _write(files, work, done, compare)


def _check(
    options: Options,
    mask: str | Path | None,
    truth: str | Path | None,
    data_range: float | None,
    compare: bool,
    checkpointed: int | None,
) -> None:
    """Refuse what does not go together."""
    levels = len(options.level_channels)
    if mask is not None and options.method == "r2r":
        raise BadOption("mask needs method dip: the input of r2r holds the voxels that are to be restored")
    if compare and (mask is not None or options.factor > 1):
        raise BadOption("compare works without mask and factor: filters do not restore voxels")
    if truth is None and data_range is not None:
        raise BadOption("data range needs a truth: PSNR is taken by it")
    if checkpointed is not None and checkpointed > levels:
        raise BadOption(f"checkpoint {checkpointed}: the network has {levels} levels")


def _other_device(device: torch.device, ranks: Ranks) -> torch.device:
    """For the second half of a network: the next GPU, or the same CPU."""
    if ranks.size > 1:
        raise BadOption(
            "parallel layers is for one process with two GPUs, not for several ranks: start it without srun"
        )
    if device.type == "cpu":
        return device
    number = (device.index or 0) + 1
    if number >= torch.cuda.device_count():
        raise NoDevice(f"parallel layers needs another GPU behind {device}, and there is none: use ranks, or one GPU")
    return torch.device(device.type, number)


def _write(files: Files, work: Work, done: Done, compare: bool) -> DipResult:
    """The volumes, the picture, the history."""
    image, options = work.image, work.options
    result = DipResult(
        clean=Path(files.clean),
        deviation=write_volumes(files, work, done),
        picture=files.picture,
        history=files.history,
        shape=image.fine_shape(options.factor),
        parameters=done.parameters,
        device=str(work.device),
        ranks=work.ranks.size,
        precision=work.precision,
        runs=done.records,
        **measures(work, done),
        compared=compared(work, done) if compare else (),
        notes=[],
    )
    result = replace(result, notes=_notes(result, options))
    draw(files.picture, result.runs, slices(work, done), _shown_of(image))
    write_durably(files.history, json.dumps({"options": options.as_json(), **result.as_dict()}, indent=1).encode())
    files.forget()
    return result


def _shown_of(image: Image) -> str:
    """What of several is drawn."""
    if image.channels == 1 or image.is_photo:
        return ""
    return f"volume 0 of the {image.channels} of the series" if image.time_step else f"channel 0 of {image.channels}"


def _notes(result: DipResult, options: Options) -> list[str]:
    """What the user should know."""
    records, notes = result.runs, []
    if result.precision == "fp16" and result.device == "cpu":
        notes.append("fp16 on a CPU is slow: fp32 is exact and faster there")
    wrong = next((record for record in records if abs(record.sigma - record.measured) > NEAR * record.measured), None)
    if wrong:
        notes.append(
            f"sigma {wrong.sigma:.4g} was given, {wrong.measured:.4g} is measured"
            + (": r2r loses some 3 dB where it is 20 % off" if options.method == "r2r" else "")
        )
    if not all(record.noise_is_seen for record in records):
        notes.append(
            "Rician noise was asked for, but there is no air (a dark background above zero) by which it is told: its "
            "level is that of Gaussian noise, and a background that was cut away looks brighter than it is"
        )
    unfinished = options.stops_by != "none" and any(record.iterations == record.chosen for record in records)
    if unfinished:
        notes.append("the fit was still getting better at the last iteration: allow more (--iterations)")
    elif max(record.residual_correlation for record in records) > WHITE:
        notes.append(
            "what was taken away does not look like white noise: the fit may want more iterations (--iterations), or "
            "the noise is not white" + (", which r2r relies on" if options.method == "r2r" else "")
        )
    if any(record.restores for record in records):
        notes.append(f"{sum(record.restores for record in records)} times the fit collapsed and was taken back")
    if result.psnr is not None and result.psnr_noisy is not None and result.psnr < result.psnr_noisy:
        notes.append("the result is further from the truth than NOISY is")
    return notes
