"""What is made of the runs when all are done, plane by plane: volumes, slices to look at, measures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.dip.files import Files, cast, create_like
from medhpc.dip.image import BLOCK
from medhpc.dip.measures import agreement
from medhpc.dip.work import Done, Work

Array = NDArray[np.float32]


def write_volumes(files: Files, work: Work, done: Done) -> Path | None:
    """Write the mean of the runs and, of several, their deviation; the path of that."""
    image, options = work.image, work.options
    deviation = files.beside("std") if options.runs > 1 else None
    with ExitStack() as opened:
        mean = opened.enter_context(create_like(files.clean, image, options.factor))
        std = deviation and opened.enter_context(create_like(deviation, image, options.factor, dtype=np.float32))
        for z0, runs in planes_of(work, done):
            mean.write(z0, cast(runs.mean(0), mean.dtype))
            if std:
                std.write(z0, runs.std(0, ddof=1))
    return deviation


def planes_of(work: Work, done: Done) -> Iterator[tuple[int, Array]]:
    """The first plane, and some planes of all runs as (runs, channels, z, y, x)."""
    length, *others = work.image.fine_shape(work.options.factor)
    step = max(1, BLOCK // (work.options.runs * work.image.channels * math.prod(others)))
    for z0 in range(0, length, step):
        yield z0, done.planes(z0, min(z0 + step, length))


def whole_mean(work: Work, done: Done) -> Array:
    """All of the result: (channels, z, y, x)."""
    return np.concatenate([runs.mean(0) for _, runs in planes_of(work, done)], axis=1)


def slices(work: Work, done: Done) -> dict[str, list[Array]]:
    """Planes (channels, rows, columns) in the middle of each image, of its first channel or in colour."""
    image, factor = work.image, work.options.factor
    of = slice(0, 3 if image.is_photo else 1)
    fine = image.fine_shape(factor)
    with image.part(image.parts()[0], work.mask) as part:
        noisy = (values[of].reshape(-1, *_planes(part.space, values)) for _, values in part.blocks())
        shown = {"noisy": middles(image.shape, noisy)}
    shown["denoised"] = middles(fine, (runs.mean(0)[of] for _, runs in planes_of(work, done)))
    if work.truth is not None:
        truth = work.truth
        shown["truth"] = middles(fine, (truth.read(of, 0, range(z, z + 1)) for z in range(fine[0])))
    if factor == 1:
        pairs = zip(shown["noisy"], shown["denoised"], strict=True)
        shown["taken away"] = [noisy - clean for noisy, clean in pairs]
    return shown


def _planes(space: tuple[int, ...], values: NDArray[Any]) -> tuple[int, int, int]:
    """Rows of a single plane lie in one."""
    return (1, *values.shape[1:]) if len(space) == 2 else values.shape[1:]


def middles(shape: tuple[int, int, int], blocks: Iterable[Array]) -> list[Array]:
    """The middle planes across z, y and x of (channels, z, y, x) that come in order of z; of a single plane, itself."""
    if shape[0] == 1:
        return [np.concatenate([block[:, 0] for block in blocks], axis=1)]
    z, y, x = (length // 2 for length in shape)
    across_z, across_y, across_x, first = [], [], [], 0
    for block in blocks:
        if 0 <= z - first < block.shape[1]:
            across_z.append(block[:, z - first].copy())
        across_y.append(block[:, :, y].copy())
        across_x.append(block[..., x].copy())
        first += block.shape[1]
    return [across_z[0], np.concatenate(across_y, axis=1), np.concatenate(across_x, axis=1)]


def measures(work: Work, done: Done) -> dict[str, float | None]:
    """PSNR and SSIM against the truth, for which images are whole in memory."""
    if work.truth is None:
        return {"psnr": None, "psnr_noisy": None, "ssim": None}
    truth = work.truth.whole()
    psnr, ssim = agreement(whole_mean(work, done), truth, work.data_range)
    noisy = agreement(work.image.whole(work.mask), truth, work.data_range)[0] if work.options.factor == 1 else None
    return {"psnr": psnr, "psnr_noisy": noisy, "ssim": ssim}


def compared(work: Work, done: Done) -> list[dict[str, Any]]:
    """The result, and filters that need no network on the same volume, which must be whole in memory."""
    from medhpc.dip.compare import compare, taken_away

    found, noisy, mean = measures(work, done), work.image.whole(), whole_mean(work, done)
    seconds = sum(record.seconds for record in done.records)
    ours = {"method": "medhpc dip", "setting": None, "seconds": seconds, "psnr": found["psnr"], "ssim": found["ssim"]}
    truth = None if work.truth is None else work.truth.whole()
    sigma = sorted(record.sigma for record in done.records)[len(done.records) // 2]
    return [{**ours, **taken_away(noisy, mean)}, *compare(noisy, sigma, truth, work.data_range)]
