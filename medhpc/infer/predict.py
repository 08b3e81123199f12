"""From the numbers of a read box to the stored numbers of its write box."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from medhpc.engine import BlockTooLarge, Engine
from medhpc.errors import BadOption
from medhpc.geometry import Box, Index, Tile
from medhpc.run.blocks import normalize
from medhpc.run.parts import SMALLEST, halve
from medhpc.run.plan import Plan

# What the engine is asked for, by what is stored.
ENGINE_KIND = {"probability": "probability", "argmax": "classes", "raw": "raw"}


def predict(engine: Engine, plan: Plan, tile: Tile, block: np.ndarray) -> np.ndarray:
    """Compute one tile.

    Parameters
    ----------
    block : ndarray, shape (channels, z, y, x)
        The volume's numbers in ``plan.read_box(tile)``.

    Returns
    -------
    ndarray, shape (stored channels, z, y, x)
        Of the write box, in the stored dtype.
    """
    normalized = normalize(block, plan.normalization)
    core = tile.write.relative_to(plan.read_box(tile))
    if plan.blend.mode == "none":
        return _predict_core(engine, plan, normalized, core)
    return _predict_blended(engine, plan, tile, normalized)


def encode(values: np.ndarray, kind: str, dtype: str) -> np.ndarray:
    """Reduce the engine's numbers (outputs, z, y, x) to what is stored.

    A probability p becomes ``round(255 p)`` in uint8, or p itself in float16; ``argmax`` becomes the class of the
    largest probability (class 1 from 0.5 up, where the network has one output); ``raw`` stays as it is (a mean of
    windows of whole numbers is rounded to one).
    """
    if kind == "argmax":
        best = values.argmax(axis=0, keepdims=True) if values.shape[0] > 1 else values >= 0.5
        return best.astype(dtype)
    if kind == "probability" and dtype == "uint8":
        return np.rint(values * 255).astype(np.uint8)
    if np.dtype(dtype).kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    return values.astype(dtype, copy=False)


def _predict_core(engine: Engine, plan: Plan, block: np.ndarray, core: Box) -> np.ndarray:
    """Compute a core with its halo; in halves where memory does not suffice.

    ::

        +------------------+        +---------+             +----------+
        |  halo            |        |         |             |          |
        |  +------------+  |        |  +------+..         ..+-------+  |
        |  |   core     |  |  --->  |  |  1   | :         : |   2   |  |
        |  +------------+  |        |  +------+..         ..+-------+  |
        |                  |        |         |             |          |
        +------------------+        +---------+             +----------+
    """
    whole = Box.whole(block.shape[1:])
    read = core.with_context(plan.halo.size, plan.network.minimum_shape, plan.network.stride, whole)
    smallest = max(core.shape) < 2 * SMALLEST
    if read.size <= plan.cost.block_voxels or smallest:
        try:
            given = np.ascontiguousarray(block[(slice(None), *read.slices)])
            values = engine(given, ENGINE_KIND[plan.stored.kind], core.relative_to(read))
            return encode(values, plan.stored.kind, plan.stored.dtype)
        except BlockTooLarge:
            if smallest:
                raise BadOption(
                    f"a block of {read.shape} voxels does not fit in memory, and cannot be split further; "
                    "plan with a smaller --halo, or use a machine with more memory"
                ) from None
    axis = int(np.argmax(core.shape))
    halves = [_predict_core(engine, plan, block, half) for half in halve(core, axis)]
    return np.concatenate(halves, axis=axis + 1)


def _predict_blended(engine: Engine, plan: Plan, tile: Tile, block: np.ndarray) -> np.ndarray:
    """The weighted mean of all windows that meet the write box, added in the order of their places.

    Equal to sliding-window inference over the whole volume: the windows are the same, and so is the order.
    """
    kind = ENGINE_KIND[plan.stored.kind]
    hull = plan.read_box(tile)
    total = weights = np.empty(0)
    for window in plan.windows.touching(tile.write):
        values = _predict_window(engine, block[(slice(None), *window.relative_to(hull).slices)], kind)
        shared = window.intersection(tile.write)
        weight = window_weights(plan.blend.mode, window.shape)[shared.relative_to(window).slices]
        if not total.size:
            total = np.zeros((values.shape[0], *tile.write.shape), np.result_type(values, np.float32))
            weights = np.zeros_like(total[0])
        target = shared.relative_to(tile.write).slices
        total[(slice(None), *target)] += weight * values[(slice(None), *shared.relative_to(window).slices)]
        weights[target] += weight
    return encode(total / weights, plan.stored.kind, plan.stored.dtype)


def _predict_window(engine: Engine, block: np.ndarray, kind: str) -> np.ndarray:
    try:
        return engine(np.ascontiguousarray(block), kind)
    except BlockTooLarge:
        raise BadOption(
            f"a window of {block.shape[1:]} voxels does not fit in memory; plan with a smaller --window"
        ) from None


@lru_cache(maxsize=16)
def window_weights(mode: str, shape: Index) -> np.ndarray:
    """Weights of a window (z, y, x), largest in its middle, never zero.

    ``gaussian``: standard deviation an eighth of the window, cut off below at 0.001, as nnU-Net and MONAI have it;
    ``linear``: falls linearly to the borders.
    """
    weights = np.ones((), np.float32)
    for length in shape:
        along = (np.arange(length) + 0.5) / length * 2 - 1  # -1 .. 1
        profile = np.exp(-0.5 * (along * 4) ** 2) if mode == "gaussian" else 1 - np.abs(along)
        weights = weights[..., None] * profile.astype(np.float32)
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
