"""Which planes of an image a rank has.

::

    planes of the image      0 . . . . . . . . . . . . 17
    as the network sees it   0 . . . . . . . . . . . . 17 16 15 14 13 12 11 ...    reflected, up to what its levels need
    seen by rank 0 and 1     [ . . . . . . . . ][ . . . . . . . . . . . . . ]
    own planes of these      [ . . . . . . . . ][ . . . . ]

One rank alone sees the image as it is; its network fills it up by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medhpc.dip.draws import Planes
from medhpc.nets.division import slab_stride, thinnest_slab
from medhpc.nets.files import Streamed
from medhpc.nets.resample import lanczos2_reach
from medhpc.nets.skip import Skip
from medhpc.nets.slabs import lanczos2_of_slab
from medhpc.ranks.group import ALONE, Ranks
from medhpc.ranks.halo import Cut
from medhpc.ranks.slabs import Slabs, divide
from medhpc.ranks.whole import collect, collect_rows

PIECE = 2**22
"""Voxels that are gathered at once."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The planes of this rank.

    Attributes
    ----------
    ranks : Ranks
    axis : int
        Of space, along which planes are counted: the longest.
    seen : Slabs
        Of what the networks see, at the resolution of the result.
    length : int
        Of the result.
    factor : int
        How many planes of the result become one of the image.
    """

    ranks: Ranks
    axis: int
    seen: Slabs
    length: int
    factor: int

    @classmethod
    def alone(cls, space: Sequence[int], factor: int = 1) -> Share:
        """All of an image."""
        axis = longest(space)
        length = factor * space[axis]
        return cls(ranks=ALONE, axis=axis, seen=Slabs((0, length)), length=length, factor=factor)

    @classmethod
    def of(cls, ranks: Ranks, space: Sequence[int], factor: int, network: Skip) -> Share:
        """What a rank has of an image that has `space` before it is made `factor` times finer.

        Raises
        ------
        BadOption
            More ranks than there are slabs.
        """
        if ranks.size == 1:
            return cls.alone(space, factor)
        axis, fine = longest(space), [factor * n for n in space]
        seen = divide(
            network.filled_shape(fine)[axis],
            ranks.size,
            multiple=max(slab_stride(network), factor),
            least=thinnest_slab(network),
            own=fine[axis],
            least_own=lanczos2_reach(factor) if factor > 1 else 1,
        )
        return cls(ranks=ranks, axis=axis, seen=seen, length=fine[axis], factor=factor)

    @property
    def cut(self) -> Cut:
        """How images (1, channels, space) are cut."""
        return Cut(ranks=self.ranks, axis=self.axis + 2)

    @property
    def own(self) -> Slabs:
        """Of the result, who has which planes."""
        return self.seen.cut_at(self.length)

    @property
    def seen_planes(self) -> Planes:
        """Those of the result that the network sees here; behind its end, it is reflected."""
        period = max(1, 2 * (self.length - 1))
        folded = [plane % period for plane in self.seen.of(self.ranks.rank)]
        return Planes(axis=self.axis, numbers=[min(plane, period - plane) if period > 1 else 0 for plane in folded])

    @property
    def image_planes(self) -> Planes:
        """Those of the image that are here."""
        return Planes(axis=self.axis, numbers=self.own.coarser(self.factor).of(self.ranks.rank))

    def of_image(self, whole: Tensor) -> Tensor:
        """Our planes of something at the resolution of the image."""
        return _planes(whole, self.axis, self.own.coarser(self.factor).of(self.ranks.rank))

    def of_result(self, whole: Tensor) -> Tensor:
        """Our planes of something at the resolution of the result."""
        return _planes(whole, self.axis, self.own.of(self.ranks.rank))

    def as_seen(self, whole: Tensor) -> Tensor:
        """The planes of something at the resolution of the result that the network sees here."""
        return whole.index_select(self.axis + 2, torch.tensor(self.seen_planes.numbers))

    def own_of(self, seen: Tensor) -> Tensor:
        """What the network makes, without what only filled it up."""
        return seen.narrow(self.axis + 2, 0, len(self.own.of(self.ranks.rank)))

    def coarser(self, result: Tensor) -> Tensor:
        """Ours of the result at the resolution of the image."""
        return result if self.factor == 1 else lanczos2_of_slab(result, self.factor, self.cut)

    def mean(self, values: Tensor) -> float:
        """Over the planes of all ranks."""
        sum_and_count = torch.stack([values.sum(), values.new_tensor(values.numel())])
        total, count = self.ranks.total(sum_and_count).tolist()
        return float(total / count)

    def pieces(self, result: Tensor) -> Iterator[Tensor | None]:
        """All of something at the resolution of the result, piece by piece as it lies in memory, for the first rank.

        All ranks must ask for all pieces; those of the others are None.
        """
        length = self.length if self.axis == 0 else result.shape[2]
        step = max(1, PIECE // max(1, result[0, 0, 0].numel() * self.ranks.size))
        for channel in result.split(1, dim=1):
            for first in range(0, length, step):
                yield collect_rows(channel, self.own, self.cut, range(first, min(first + step, length)))

    def streamed(self, result: Tensor) -> Streamed:
        """All of it, for a file that the first rank writes."""
        shape = [self.length if n == self.axis + 2 else length for n, length in enumerate(result.shape)]
        pieces = (piece for piece in self.pieces(result) if piece is not None)
        return Streamed(shape=shape, dtype=result.dtype, pieces=pieces)

    def whole(self, result: Tensor) -> Tensor | None:
        """All planes of something at the resolution of the result, on the CPU of the first rank."""
        return collect(result, self.own, self.cut)


def longest(space: Sequence[int]) -> int:
    """The axis that is divided."""
    return max(range(len(space)), key=lambda axis: (space[axis], -axis))


def _planes(whole: Tensor, axis: int, planes: range) -> Tensor:
    return whole.narrow(axis + 2, planes.start, len(planes)).clone()
