"""What one training step sees: a pure function of the seed and the step, so that a resumed training goes on exactly."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from medhpc.geometry import Index
from medhpc.train.examples import Example, Patch, around

SHORTEST = 16  # voxels: no patch is made shorter, the network's padding needs some


def default_patch(ndim: int) -> Index:
    """The patch of the measured recipe, and one of about as many voxels in a plane."""
    return (1, 384, 384) if ndim == 2 else (48, 64, 64)


def patch_of(example: Example, wanted: Index) -> Index:
    """The wanted patch, clipped to what there is to learn from."""
    z, y, x = (min(n, length) for n, length in zip(wanted, example.train.shape, strict=True))
    return z, y, x


def shortened(patch: Index, room: Index, rng: np.random.Generator) -> Index:
    """A patch that can move: up to two fifths shorter along axes where the room is hardly longer than the patch.

    A network learns what it sees beyond a patch, which is the patch mirrored. Where the faces always lie at the same
    places, it learns the mirrored image by heart, and fails where the real one continues.
    """
    plane, across = rng.uniform(0.6, 1.0, 2)  # y and x alike, so that a square stays one
    z, y, x = (
        n if length >= 1.5 * n else max(min(n, SHORTEST), round(n * part))
        for n, length, part in zip(patch, room, (across, plane, plane), strict=True)
    )
    return z, y, x


def draw_patch(examples: Sequence[Example], wanted: Index, seed: int, step: int, sample: int = 0) -> Patch:
    """Draw a patch of a step; the same one, whoever draws it.

    Half of the patches hold a random voxel of an object (of each class equally often), half a random voxel of the
    background, anywhere in their middle half. They are flipped along z, y and x at random, and y and x are exchanged
    where patch and voxels are square.

    Returns
    -------
    image, targets : (channels, z, y, x) float32 and (z, y, x) uint8
    """
    rng = np.random.default_rng([seed, step, sample] if sample else [seed, step])
    example = examples[int(rng.integers(len(examples)))]
    objects = [number for number in example.anchors if number]
    pick_background = rng.random() < 0.5 and 0 in example.anchors
    anchors = example.anchors[0 if pick_background else objects[rng.integers(len(objects))]]
    voxel = anchors[rng.integers(len(anchors))]
    patch = shortened(patch_of(example, wanted), example.train.shape, rng)
    box = around(voxel, patch, example.train, rng.uniform(0.25, 0.75, 3).tolist())
    image, targets = example.read(box)
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in rng.random(3) < 0.5)
    image, targets = image[(slice(None), *flips)], targets[flips]
    if _is_square(example, box.shape) and rng.random() < 0.5:
        image, targets = image.swapaxes(-1, -2), targets.swapaxes(-1, -2)
    return image.copy(), targets.copy()  # torch takes no negative strides


def patches(
    examples: Sequence[Example], wanted: Index, seed: int, step: int, samples: Sequence[int] = (0,)
) -> Generator[Patch]:
    """These samples of `step` and of all later ones; the next is read while the last is learnt from."""
    numbers = ((later, sample) for later in itertools.count(step) for sample in samples)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(draw_patch, examples, wanted, seed, *next(numbers))
        while True:
            patch = ahead.result()
            ahead = reader.submit(draw_patch, examples, wanted, seed, *next(numbers))
            yield patch


def _is_square(example: Example, shape: Index) -> bool:
    size = example.volume.voxel_size or (1.0, 1.0, 1.0)
    return shape[1] == shape[2] and abs(size[1] / size[2] - 1) < 0.02
