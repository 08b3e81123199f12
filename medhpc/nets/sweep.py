"""A block that streams through an MS-D network along z: memory for a few hundred planes, whatever its length.

Nothing is computed twice, and nothing is left out: the scores are those of the whole block. The order of work is that
of :mod:`medhpc.nets.visits`; which planes each layer is at, :mod:`medhpc.nets.frontiers` says.

Of several ranks each has some rows (y) of every plane. As soon as planes of a map are complete, a rank gives the outer
rows to its neighbours, once, and keeps theirs beside its own ("ghost rows") for as long as the planes live::

    rank 0   | . . . . . . . . . a b |
    rank 1                 [ a b | c d . . . . . |        as many as the largest dilation
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from medhpc.nets.frontiers import Frontiers
from medhpc.nets.visits import Visit, seen_planes, visit_weight
from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.halo import Cut

if TYPE_CHECKING:
    from medhpc.nets.msd import MSD

ROWS = 2  # the axis of maps (maps, planes, y, x) along which ranks share planes
SCRATCH = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""Bytes of one convolution's input and output."""


def scratch_bytes(device: torch.device) -> int:
    """As :data:`SCRATCH` has it; a device that is not named there is taken for a GPU."""
    return SCRATCH.get(device.type, SCRATCH["cuda"])


class Sweep:
    """One block on its way through a network, by torch's convolutions.

    Parameters
    ----------
    network : MSD
        Its device and dtype are those of the computing.
    shape : (z, y, x)
        Of the block; the y of several ranks is this one's.
    step : int
        Planes of a step.
    ranks : Ranks
        Each with at least as many rows as the largest dilation.
    """

    def __init__(self, network: MSD, shape: tuple[int, int, int], step: int, ranks: Ranks = ALONE) -> None:
        self.network, self.depth, self.ranks = network, shape[0], ranks
        self.frontiers = Frontiers.of(network, step)
        ghosts = max(network.dilations) if ranks.size > 1 else 0
        self._halo = Cut(ranks=ranks, axis=ROWS).halo(ghosts, ghosts, "none")
        low, high = self._halo.here
        self._rows = slice(low, low + shape[1])  # our own
        rows = (low + shape[1] + high, shape[2])
        self._inputs = self._ring(network.in_channels, self.frontiers.kept(-1), rows)
        self._maps = [self._ring(network.width, self.frontiers.kept(layer), rows) for layer in range(network.depth)]
        self._scores = self._ring(network.out_channels, self.frontiers.kept_scores(), shape[1:])
        self._begun = [0] * len(network.dilations)  # planes of each map that have sums
        self._number = 0

    @property
    def is_done(self) -> bool:
        """Whether all planes have come out."""
        return self._number == self.frontiers.steps(self.depth)

    @torch.inference_mode()
    def advance(self, planes: Tensor) -> Tensor:
        """Take the next planes, (channels, n, y, x), and return those that are finished, (out_channels, m, y, x).

        There are as many as a step has, then fewer or none.
        """
        network = self.network
        now = self._planes(-1)
        assert len(now) == planes.shape[1], f"{planes.shape[1]} planes given, {len(now)} expected"
        self._scores.clear(now, network.head_bias)
        self._complete(self._inputs, now, network.through_window(planes), 0)
        for layer, visits in enumerate(network.visits):
            for visit in visits:
                self._visit(visit, self._planes(layer - 1))
            if now := self._planes(layer):
                maps = self._maps[layer].read(now)[:, :, self._rows].relu_()
                ring = self._maps[layer] if layer + 1 < network.depth else None  # no later layer reads the last one
                self._complete(ring, now, maps, network.in_channels + layer * network.width)
        finished = self._scores.read(self._planes(network.depth - 1))
        self._number += 1
        return finished

    def _ring(self, maps: int, planes: int, rows: tuple[int, int]) -> Ring:
        return Ring(self.network.head_weight.new_empty(maps, min(planes, self.depth), *rows))

    def _planes(self, layer: int) -> range:
        return self.frontiers.planes(layer, self._number, self.depth)

    def _complete(self, ring: Ring | None, now: range, maps: Tensor, channel: int) -> None:
        """Put in planes of maps that are complete, with the neighbours' rows; add their part to the scores."""
        if not now:
            return
        if ring is not None:
            below, above = self._halo.begin(maps)()
            ring.write(now, torch.cat([below, maps, above], ROWS))
        weight = self.network.head_weight[:, channel : channel + len(maps)]
        self._scores.add(slice(None), now, (weight @ maps.flatten(1)).unflatten(1, maps.shape[1:]))

    def _visit(self, visit: Visit, sources: range) -> None:
        """Add to the sums of a visit's targets what some planes of its sources give."""
        network, s = self.network, visit.dilation if self.network.ndim == 3 else 0
        for m in visit.targets if sources else ():
            self._begin(m, min(sources.stop + s, self.depth))
        step = self._planes_at_once(visit)
        for z in range(sources.start, sources.stop, step):
            part = range(z, min(z + step, sources.stop))
            taps = F.conv2d(self._seen(visit, part), visit_weight(network, visit), dilation=visit.dilation)
            taps = taps.unflatten(1, (-1, len(visit.targets)))  # (planes, z taps, targets, y, x)
            shifts = (-s, 0, s) if network.ndim == 3 else (0,)
            for tap, shift in zip(taps.unbind(1), shifts, strict=True):
                self._add(visit, tap.transpose(0, 1), z, shift)

    def _begin(self, m: int, ahead: int) -> None:
        """Start the sums of a map's next planes at its bias."""
        layer, channel = divmod(m, self.network.width)
        if ahead > self._begun[m]:
            new = range(self._begun[m], ahead)
            self._maps[layer].clear(new, self.network.biases[layer][channel], slice(channel, channel + 1))
            self._begun[m] = ahead

    def _add(self, visit: Visit, part: Tensor, z: int, shift: int) -> None:
        """Add one z tap of all targets, (targets, planes, y, x) of source planes from z on."""
        found = seen_planes(z, part.shape[1], self.depth, shift, self.network.padding)
        for targets, sources, mirrored in found:
            values = part[:, sources].flip(1) if mirrored else part[:, sources]
            for m, value in zip(visit.targets, values, strict=True):
                layer, channel = divmod(m, self.network.width)
                ring = self._maps[layer]
                ring.add(channel, range(targets.start, targets.stop), value, self._rows)

    def _seen(self, visit: Visit, part: range) -> Tensor:
        """What a convolution of our rows reads: (planes, channels, y, x), padded at the borders of the volume."""
        network, s = self.network, visit.dilation
        first = network.in_channels
        rings = [self._inputs] if visit.first < first else []
        layers = range(max(visit.first - first, 0) // network.width, (visit.stop - first) // network.width)
        rings += [self._maps[layer] for layer in layers]
        source = torch.cat([ring.read(part) for ring in rings]).transpose(0, 1)
        low, high = self._halo.here
        rows = source.shape[ROWS]
        start, stop = max(low - s, 0), rows - max(high - s, 0)
        sides = (s, s, 0 if low else s, 0 if high else s)
        return F.pad(source[:, :, start:stop], sides, mode="reflect" if network.padding == "reflect" else "constant")

    def _planes_at_once(self, visit: Visit) -> int:
        """Source planes of one convolution, such that it keeps to the scratch."""
        taps = 3 if self.network.ndim == 3 else 1
        weight = self.network.head_weight
        scratch = scratch_bytes(weight.device)
        numbers = (visit.stop - visit.first + taps * len(visit.targets)) * self._inputs.pixels
        return max(1, scratch // (numbers * weight.element_size()))


class Ring:
    """The latest planes of some maps: plane z lies at z modulo their number."""

    def __init__(self, values: Tensor) -> None:
        self._values = values  # (maps, planes, y, x)

    @property
    def pixels(self) -> int:
        """Of a plane."""
        return self._values.shape[2] * self._values.shape[3]

    def read(self, planes: range) -> Tensor:
        """A copy: (maps, planes, y, x)."""
        return self._values.index_select(1, self._places(planes))

    def write(self, planes: range, values: Tensor) -> None:
        """Put planes in."""
        self._values.index_copy_(1, self._places(planes), values)

    def clear(self, planes: range, to: Tensor, maps: slice = slice(None)) -> None:
        """Begin sums at a number for each of the maps."""
        places = self._places(planes)
        self._values[maps].index_copy_(1, places, to.view(-1, 1, 1, 1).expand(-1, len(places), *self._values.shape[2:]))

    def add(self, maps: int | slice, planes: range, values: Tensor, rows: slice = slice(None)) -> None:
        """Add to planes of one map, or of all; to some rows of them only."""
        part = self._values[maps][..., rows, :]
        part.index_add_(part.ndim - 3, self._places(planes), values)

    def _places(self, planes: range) -> Tensor:
        number = self._values.shape[1]
        return torch.arange(planes.start, planes.stop, device=self._values.device).remainder_(number)
