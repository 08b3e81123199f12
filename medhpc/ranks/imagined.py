"""One rank of several that are not there: what it holds can be counted, what it computes means nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from medhpc.ranks.group import Ranks


class ImaginedRanks(Ranks):
    """Ranks whose messages go nowhere, and from which nothing comes."""

    def total(self, sums: Tensor) -> Tensor:
        """Return what is here."""
        return sums

    def everyones(self, part: Tensor) -> list[Tensor]:
        """As many tensors as there are ranks."""
        return [part.clone() for _ in range(self.size)]

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Callable[[], None]:
        """Nothing, but for the memory of what is sent."""
        sent = [tensor.contiguous() for tensor, _ in sends]
        return sent.clear
