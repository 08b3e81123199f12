"""How much context a tile needs, measured: with this network, on this volume.

A core is computed with halo h and with a much larger context; the difference is what a seam would show. It comes from
contrast in the ring just *outside* the halo, so the samples are ranked by that::

        +--------------------------+
        | context of the reference |
        |   +------------------+   |
        |   | ring  +------+   |   |     error(h) = max over the core of
        |   |       | halo |   |   |       | f(core with halo h) - f(core with the context) |
        |   |       | core |   |   |
        |   |       +------+   |   |
        |   +------------------+   |
        +--------------------------+

Samples underestimate the maximum over the volume, hence the safety factor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medhpc.engine import Engine
from medhpc.errors import BadOption
from medhpc.geometry import Box, Index
from medhpc.run.plan import Halo, HaloRow
from medhpc.tiling.choices import spatial

SAFETY = 2.0
HALOS = (0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
RANKED = HALOS[:9]  # halos up to 48 voxels: for these the contrast around a core is looked at
RING = 16  # voxels: the width of the ring, and the least distance between a halo and the reference context
PLACES = 4  # candidate cores along an axis
SAMPLES = 6  # cores measured per halo
SEARCH = 60.0  # seconds for finding a halo
CHECK = 20.0  # seconds for measuring one that was given


@dataclass
class _Core:
    """A candidate: where it is, its contrast around each halo, and the reference once it is computed."""

    box: Box
    contrast: dict[int, float] = field(default_factory=dict)
    reference: np.ndarray | None = None


class HaloProbe:
    """Measures the error of halos.

    Parameters
    ----------
    engine : Engine
    read : callable
        Gives the normalised block (channels, z, y, x) of a box.
    volume : (z, y, x)
    region : Box
        Where cores are taken from.
    kind : {"classes", "raw"}
        What the engine is asked for: probabilities of all classes, or the network's own numbers.
    seconds_per_voxel : float
        Measured; the reference context is chosen by it.
    budget : float
        Seconds.
    """

    def __init__(
        self,
        engine: Engine,
        read: Callable[[Box], np.ndarray],
        volume: Index,
        region: Box,
        *,
        kind: str,
        seconds_per_voxel: float,
        budget: float,
    ) -> None:
        self.engine, self.read, self.kind = engine, read, kind
        self.whole, self.region = Box.whole(volume), region
        self.flat = engine.network.ndim == 2
        self.least, self.stride = spatial(engine.network.minimum_shape), spatial(engine.network.stride)
        self.budget, self.deadline = budget, time.monotonic() + budget
        self.radius = max(engine.network.receptive_radius or (0,)) or None
        self.context = self._affordable_context(seconds_per_voxel, budget / (SAMPLES + 2))
        self.cores = self._candidates()

    @property
    def exact(self) -> bool:
        """Whether the reference sees all that the network can see."""
        return self.radius is not None and self.context >= self.radius

    def spread(self) -> float:
        """Range of the references computed so far: the scale of errors in the network's own numbers."""
        known = [core.reference for core in self.cores if core.reference is not None]
        return float(max(r.max() for r in known) - min(r.min() for r in known))

    def search(self, tolerance: float | None, stride: int) -> Halo:
        """The smallest halo whose error, times the safety factor, is below the tolerance."""
        rows: list[HaloRow] = []
        for halo in self._halos(stride):
            rows.append(self.row(halo))
            limit = self.tolerance(tolerance)
            if rows[-1].max_error * SAFETY < limit:
                return self.result(halo, "measured", limit, rows)
            if time.monotonic() > self.deadline:
                break
        limit = self.tolerance(tolerance)
        halo = self._extrapolated(rows, limit / SAFETY, stride)
        note = (
            f"halo {halo} is not measured: the tolerance is not reached at halo {rows[-1].halo} (error "
            f"{rows[-1].max_error:.2g}), the largest in the time given; it follows from how the error falls"
        )
        return self.result(halo, "extrapolated", limit, rows, note)

    def given(self, halo: int, tolerance: float | None) -> Halo:
        """A halo chosen by hand, with its measured error."""
        row = self.row(halo)
        limit = self.tolerance(tolerance)
        note = ""
        if row.max_error * SAFETY >= limit:
            error = f"the error {row.max_error:.2g}, doubled for safety, is not below the tolerance {limit:.2g}"
            note = f"seams may show: {error}; a larger --halo, or --halo auto, mends that"
        return self.result(halo, "given", limit, [row], note)

    def result(self, halo: int, how: str, tolerance: float, rows: Sequence[HaloRow], note: str = "") -> Halo:
        """Put together what the plan keeps."""
        return Halo(
            size=self.grown(halo),
            how=how,
            tolerance=tolerance,
            samples=sum(core.reference is not None for core in self.cores),
            context=self.context,
            reference_is_exact=self.exact,
            table=tuple(rows),
            note=note,
        )

    def tolerance(self, given: float | None) -> float:
        """The tolerance, by default half a step of the 8-bit output (of the range seen, for raw numbers)."""
        if given is not None:
            return given
        return 0.5 / 255 * (self.spread() if self.kind == "raw" else 1.0)

    def row(self, halo: int) -> HaloRow:
        """Measure one halo on the cores with the most contrast around it."""
        largest = total = 0.0
        flipped = voxels = 0
        ranked = sorted(self.cores, key=lambda core: core.contrast[self._nearest(halo)], reverse=True)
        for count, core in enumerate(ranked[:SAMPLES]):
            if count and time.monotonic() > self.deadline:
                break
            reference = self._reference(core)
            values = self._compute(core.box, halo)
            error = np.abs(values.astype(np.float64) - reference)
            largest = max(largest, float(error.max()))
            total += float(error.mean()) * core.box.size
            flipped += int(np.count_nonzero(_classes(values, self.kind) != _classes(reference, self.kind)))
            voxels += core.box.size
        return HaloRow(halo=halo, max_error=largest, mean_error=total / voxels, flipped=flipped / voxels, work=0.0)

    def grown(self, halo: int) -> Index:
        """A halo along each axis: none across planes for a 2D network."""
        return (0 if self.flat else halo, halo, halo)

    def _affordable_context(self, seconds_per_voxel: float, seconds: float) -> int:
        """The largest context whose reference takes no more than `seconds`."""
        context = 2 * RING
        while self.radius is None or context < self.radius:
            larger = context + RING
            block = Box((0, 0, 0), self._core_shape()).grow(self.grown(larger))
            shape = [min(b, w) for b, w in zip(block.shape, self.whole.shape, strict=True)]
            if np.prod(shape) * seconds_per_voxel > seconds or larger > HALOS[-1] + RING:
                break
            context = larger
        return context if self.radius is None else min(context, self.radius)

    def _extrapolated(self, rows: Sequence[HaloRow], error: float, stride: int) -> int:
        """The halo at which the error would be this small, were it to go on falling exponentially as it did."""
        last = rows[-1]
        first = max(rows, key=lambda row: row.max_error)
        fall = math.log(first.max_error / last.max_error) / max(1, last.halo - first.halo)
        further = math.log(last.max_error / error) / fall if fall > 0 else math.inf
        halo = last.halo + math.ceil(min(further, last.halo + RING))  # beyond twice as far, nothing is known
        return _round_up(halo if self.radius is None else min(halo, self.radius), stride)

    def _core_shape(self) -> Index:
        shape = (1, 96, 96) if self.flat else (24, 24, 24)
        z, y, x = (min(n, length) for n, length in zip(shape, self.region.shape, strict=True))
        return z, y, x

    def _halos(self, stride: int) -> list[int]:
        """Halos to try, growing: far enough inside the reference context to be told from it."""
        most = self.context if self.exact else self.context - RING
        halos = sorted({_round_up(halo, stride) for halo in HALOS})
        below = [halo for halo in halos if halo < most]
        return [*below, _round_up(most, stride)] if self.exact else below

    def _candidates(self) -> list[_Core]:
        """Cores spread over the region, its borders included, with their contrast."""
        shape = self._core_shape()
        along = []
        for start, stop, length in zip(self.region.start, self.region.stop, shape, strict=True):
            places = min(PLACES, math.ceil((stop - start) / length))
            along.append(np.unique(np.linspace(start, stop - length, places).astype(int)).tolist())
        boxes = [
            Box((z, y, x), (z + shape[0], y + shape[1], x + shape[2]))
            for z in along[0]
            for y in along[1]
            for x in along[2]
        ]
        cores = []
        for box in boxes:
            cores.append(_Core(box, self._contrast(box)))
            if time.monotonic() > self.deadline - 0.75 * self.budget:
                break
        return cores

    def _contrast(self, core: Box) -> dict[int, float]:
        """Standard deviation in the ring outside each halo (0 where the volume ends there)."""
        wide = core.grow(self.grown(RANKED[-1] + RING)).intersection(self.whole)
        every = (1 if self.flat else 2, 2, 2)  # a half of the voxels along each axis tells contrast well enough
        block = self.read(wide)[:, :: every[0], :: every[1], :: every[2]].astype(np.float64)

        def moments(halo: int) -> np.ndarray:
            box = core.grow(self.grown(halo)).intersection(wide).relative_to(wide)
            index = (slice(s.start // n, -(-s.stop // n)) for s, n in zip(box.slices, every, strict=True))
            part = block[(slice(None), *index)]
            return np.array([part.size, part.sum(), np.square(part).sum()])

        contrast = {}
        for halo in RANKED:
            count, first, second = moments(halo + RING) - moments(halo)
            contrast[halo] = max(0.0, second / count - (first / count) ** 2) ** 0.5 if count else 0.0
        return contrast

    @staticmethod
    def _nearest(halo: int) -> int:
        return min(RANKED, key=lambda known: abs(known - halo))

    def _reference(self, core: _Core) -> np.ndarray:
        if core.reference is None:
            core.reference = self._compute(core.box, self.context)
        return core.reference

    def _compute(self, core: Box, halo: int) -> np.ndarray:
        read = core.with_context(self.grown(halo), self.least, self.stride, self.whole)
        return self.engine(self.read(read), self.kind, core.relative_to(read))


def _classes(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "raw":
        return np.zeros(1)
    return values.argmax(axis=0) if values.shape[0] > 1 else values[0] >= 0.5


def exact_halo(network: Any, halo: int, note: str = "") -> Halo:
    """A halo that is known to be exact."""
    size = (0, halo, halo) if network.ndim == 2 else (halo, halo, halo)
    return Halo(size=size, how="exact", tolerance=0.0, note=note)


def choose_halo(halo: str | int, tolerance: float | None, network: Any, probe: Callable[[float], HaloProbe]) -> Halo:
    """The halo that ``--halo`` asks for: ``exact``, a number of voxels, or ``auto``.

    Parameters
    ----------
    probe : callable
        Makes a probe that measures for so many seconds.

    Raises
    ------
    BadOption
        Not one of these, or ``exact`` for a network whose receptive radius is unknown.
    """
    stride = max(network.stride)
    radius = None if network.receptive_radius is None else max(network.receptive_radius)
    if halo == "exact":
        if radius is None:
            raise BadOption("halo 'exact': this network does not declare its receptive radius; use auto or a number")
        return exact_halo(network, _round_up(radius, stride))
    if halo == "auto":
        if radius == 0:
            return exact_halo(network, 0)
        return probe(SEARCH).search(tolerance, stride)
    if not str(halo).isdecimal():
        raise BadOption(f"halo '{halo}' is not auto, exact or a whole number of voxels")
    given = _round_up(int(halo), stride)
    if radius is not None and given >= radius:
        return exact_halo(network, given)
    return probe(CHECK).given(given, tolerance)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
