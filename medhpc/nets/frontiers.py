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
from collections.abc import Iterator, Sequence
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
    spans : tuple of int
        Planes, besides those of a step, for which the input and the maps of each layer are kept.
    """

    lags: tuple[int, ...]
    step: int
    spans: tuple[int, ...]

    @classmethod
    def of(cls, network: MSD, step: int) -> Frontiers:
        """Those of a network; one in two dimensions has no lag."""
        dilations, width = network.dilations, network.width
        reaches = [max(dilations[m : m + width]) if network.ndim == 3 else 0 for m in range(0, len(dilations), width)]
        lags = tuple(itertools.accumulate(reaches))
        return cls(lags=lags, step=step, spans=tuple(_spans(network, lags, reaches)))

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

    def kept(self, layer: int) -> int:
        """Planes that are kept of a layer's maps, or of the input (-1), at a time."""
        return self.spans[layer + 1] + self.step

    def kept_scores(self) -> int:
        """Planes of scores that are kept at a time: sums over the maps that are complete."""
        return self.lags[-1] + self.step

    def bytes(self, network: MSD, depth: int, pixels: int, itemsize: int = 4) -> int:
        """Memory for all that is kept of a block of `depth` planes of so many pixels."""
        planes = network.in_channels * min(self.kept(-1), depth)
        planes += network.out_channels * min(self.kept_scores(), depth)
        planes += network.width * sum(min(self.kept(layer), depth) for layer in range(network.depth))
        return planes * pixels * itemsize


def _spans(network: MSD, lags: Sequence[int], reaches: Sequence[int]) -> Iterator[int]:
    """Of the input and each layer: from the first sums, or the voxels, to the last visit that reads them."""
    turns = [(layer, visit) for layer, visits in enumerate(network.visits) for visit in visits]
    before = (0, *lags)  # by layer: the lag of its sources
    for layer in range(-1, network.depth):
        stop = network.in_channels + (layer + 1) * network.width
        readers = [before[k] for k, visit in turns if k > layer and visit.first < stop]
        last = max([before[layer + 1], *readers])
        if layer < 0:
            yield last
        else:
            own = network.dilations[layer * network.width : (layer + 1) * network.width]
            yield last - min(before[k] for k, visit in turns if visit.dilation in own) + reaches[layer]
