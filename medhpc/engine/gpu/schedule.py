"""Which kernel runs when over a block, and where maps and partial sums lie: numbers only.

The order is that of :mod:`medhpc.nets.visits`. A map lives in a *ring* of slots while later
visits read it::

    channels   in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 ...        (inputs first, then maps)
    slot        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15  0  1  2 ...       (channel modulo the slots of the ring)
    visit of layer 10 reads [ 1 ........ 10 ]                            (the others of its 16 have weight 0)

Sixteen slots are one *block* of the ring, channels-last: 32 bytes a voxel in 16 bit, what a GPU fetches at once and
what its matrix units take as K = 16. With dilations 1 to 10 in turn one block holds all that is ever needed.

A partial sum lives from its dilation's first visit until its map is complete. The last layer (the *head*) takes the
maps of the ring before they are written over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medhpc.nets import MSD
from medhpc.nets.visits import Visit

LANES = 16
"""Channels of a block of the ring: K of a matrix product."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """One run of the push kernel: some channels into the sums of some maps of one dilation."""

    dilation: int
    first: int
    stop: int  # channels first:stop are read
    targets: tuple[int, ...]  # maps
    own: int  # so many of them, the first, are complete then
    places: tuple[int, ...]  # of the sums of each target; 0 where none is kept

    @property
    def fresh(self) -> bool:
        """Whether these are the first parts of the sums, so that there is nothing to add them to."""
        return self.first == 0


@dataclass(frozen=True, kw_only=True)
class Head:
    """One run of the head kernel: some channels into the scores."""

    first: int
    stop: int

    @property
    def fresh(self) -> bool:
        """Whether there are no scores yet."""
        return self.first == 0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All that is run over a block, in order.

    Attributes
    ----------
    blocks : int
        Of the ring, of 16 slots each.
    sums : int
        Partial sums that are kept at the same time, at most.
    steps : tuple of Push and Head
    """

    blocks: int
    sums: int
    steps: tuple[Push | Head, ...]

    def ring_blocks(self, first: int, stop: int) -> list[int]:
        """The blocks of the ring that hold channels ``first:stop``, in the order of the channels."""
        low, high = first // LANES, (stop - 1) // LANES
        return [block % self.blocks for block in range(low, min(high, low + self.blocks - 1) + 1)]


def schedule_of(network: MSD, most_targets: int) -> Schedule:
    """Plan the runs for a network.

    Parameters
    ----------
    network : MSD
    most_targets : int
        Maps that the push kernel takes at once.
    """
    blocks = -(-_slots_needed(network) // LANES)
    places = _places(network)
    steps: list[Push | Head] = []
    taken = 0  # channels that the head has
    for layer, now in enumerate(network.visits):
        ready = network.in_channels + layer * network.width
        if ready + network.width - taken > blocks * LANES:  # this layer's maps would be written over some of them
            steps.append(Head(first=taken, stop=ready))
            taken = ready
        for visit in now:
            steps.extend(_pushes(visit, (layer + 1) * network.width, places, most_targets))
    steps.append(Head(first=taken, stop=network.in_channels + len(network.dilations)))
    return Schedule(blocks=blocks, sums=max(places.values(), default=-1) + 1, steps=tuple(steps))


def _slots_needed(network: MSD) -> int:
    """Channels that are needed at once, at most: those that a visit still reads, up to those that its layer makes."""
    most, lowest = 0, network.in_channels + len(network.dilations)
    for layer in reversed(range(network.depth)):
        lowest = min(lowest, *(visit.first for visit in network.visits[layer]))
        most = max(most, network.in_channels + (layer + 1) * network.width - lowest)
    return most


def _places(network: MSD) -> dict[int, int]:
    """Where the sum of each map is kept; maps that one visit completes have none."""
    places: dict[int, int] = {}
    free: list[int] = []
    used = 0
    for layer, now in enumerate(network.visits):
        done = (layer + 1) * network.width
        for visit in now:
            for m in visit.targets if visit.first == 0 else ():
                if m >= done:
                    places[m] = free.pop() if free else used
                    used = max(used, places[m] + 1)
        free += [places[m] for m in range(layer * network.width, done) if m in places]
    return places


def _pushes(visit: Visit, done: int, places: dict[int, int], most_targets: int) -> Iterator[Push]:
    """A visit in runs of as many targets as the kernel takes."""
    for targets in _groups(visit.targets, most_targets):
        yield Push(
            dilation=visit.dilation,
            first=visit.first,
            stop=visit.stop,
            targets=targets,
            own=sum(m < done for m in targets),
            places=tuple(places.get(m, 0) for m in targets),
        )


def _groups(targets: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(targets), most):
        yield tuple(targets[start : start + most])
