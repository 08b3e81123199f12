"""What there is of each map while a block streams along z: integers only.

A layer of dilation s needs the maps before it up to s planes ahead. So it lags the input by its own dilation and those
of all layers before it, summed; behind the last layer, planes of scores are finished::

    input               . . . . . . . . . . . . . . . . . . |  t
    layer 0, s = 1      . . . . . . . . . . . . . . . . . |    t - 1
    layer 1, s = 2      . . . . . . . . . . . . . . . |        t - 3
    layer 2, s = 3      . . . . . . . . . |                    t - 6      -> scores

In a step the input moves on by some planes, and each layer in turn moves as many. A plane of a map is kept from its
first partial sum (:mod:`medhpc.nets.visits`) to the last visit that reads it. So the memory follows from the plane and
the dilations, not from the length of the block: 300 planes a map at depth 85.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medhpc.nets.msd import MSD


@dataclass(frozen=True, kw_only=True)
class Frontiers:
    """The planes of one network, in steps of so many.

    Attributes
    ----------
    lags : tuple of int
        Planes by which each layer lags the input.
    step : int
        Planes by which a step moves on.
    """

    lags: tuple[int, ...]
    step: int

    @classmethod
    def of(cls, network: MSD, step: int) -> Frontiers:
        """Those of a network; one in two dimensions has no lag."""
        if network.ndim == 2:
            return cls(lags=(0,) * network.depth, step=step)
        dilations, width = network.dilations, network.width
        reaches = (max(dilations[m : m + width]) for m in range(0, len(dilations), width))
        return cls(lags=tuple(itertools.accumulate(reaches)), step=step)

    def lag(self, layer: int) -> int:
        """Of a layer; the input is layer -1."""
        return self.lags[layer] if layer >= 0 else 0

    def steps(self, depth: int) -> int:
        """Steps until the last plane of a block is finished."""
        return -(-(depth + self.lags[-1]) // self.step)

    def planes(self, layer: int, number: int, depth: int) -> range:
        """What a layer, or the input (-1), is computed of in a step, counted from 0."""
        start, stop = (min(max(n * self.step - self.lag(layer), 0), depth) for n in (number, number + 1))
        return range(start, stop)

    def kept(self, network: MSD, layer: int) -> int:
        """Planes that are kept of a layer's maps, or of the input (-1), at a time."""
        last = max(self.lag(layer), self.lag(_last_reader(network, layer) - 1))
        if layer < 0:
            return last + self.step
        first, reach = _first_sums(network, layer)
        return last - self.lag(first - 1) + (reach if network.ndim == 3 else 0) + self.step

    def kept_scores(self) -> int:
        """Planes of scores that are kept at a time: sums over the maps that are complete."""
        return self.lags[-1] + self.step

    def bytes(self, network: MSD, depth: int, pixels: int, itemsize: int = 4) -> int:
        """Memory for all that is kept of a block of `depth` planes of so many pixels."""
        planes = network.in_channels * min(self.kept(network, -1), depth)
        planes += network.out_channels * min(self.kept_scores(), depth)
        planes += network.width * sum(min(self.kept(network, layer), depth) for layer in range(network.depth))
        return planes * pixels * itemsize


def _last_reader(network: MSD, layer: int) -> int:
    """The layer whose visit is the last that reads a layer's maps; 0 where there is none."""
    stop = network.in_channels + (layer + 1) * network.width
    readers = [k for k, now in enumerate(network.visits) for visit in now if visit.first < stop and k > layer]
    return max(readers, default=0)


def _first_sums(network: MSD, layer: int) -> tuple[int, int]:
    """The layer at whose turn a layer's maps get their first sums, and how far ahead of its sources these are."""
    own = network.dilations[layer * network.width : (layer + 1) * network.width]
    turns = [(k, visit.dilation) for k, now in enumerate(network.visits) for visit in now if visit.dilation in own]
    first = min(k for k, _ in turns)
    return first, max(own)
