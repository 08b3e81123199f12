"""Whether what a denoising writes has room on its file system, before it starts."""

from __future__ import annotations

import math

import torch

from medhpc.dip.files import Files
from medhpc.dip.image import Image
from medhpc.dip.options import Options
from medhpc.dip.state import IMAGES
from medhpc.run.durable import check_room

NUMBER = 4
"""Bytes of a number in float32."""
LEARNT = 6
"""Numbers that a checkpoint holds of each weight: itself and Adam's moments, twice."""


def check_room_for(files: Files, image: Image, options: Options) -> None:
    """Refuse what may not fit beside the result.

    Raises
    ------
    DiskFull
    """
    needed = bytes_of_results(files, image, options) + bytes_kept(image, options) - files.bytes_there()
    check_room(files.folder, needed, "the result and its checkpoints", "choose another folder for CLEAN")


def bytes_of_results(files: Files, image: Image, options: Options) -> int:
    """Of the volumes, before compression; a gzipped one is packed when it is whole, and lies there twice."""
    voxels = image.channels * math.prod(image.fine_shape(options.factor))
    deviation = NUMBER if options.runs > 1 else 0
    return voxels * (image.dtype.itemsize + deviation) * (2 if files.is_packed_last else 1)


def bytes_kept(image: Image, options: Options) -> int:
    """Of the runs that are done, and of a checkpoint and the one before, which goes when the new one is whole."""
    _, channels, *space = image.problem_shape
    with torch.device("meta"):
        weights = options.network(len(space), channels).n_parameters
    voxels = math.prod(image.fine_shape(options.factor))
    done = options.runs * image.channels * voxels
    return NUMBER * (done + 2 * (len(IMAGES) * channels * voxels + LEARNT * weights))
