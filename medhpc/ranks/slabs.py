"""Who has which planes of an axis: integers only.

::

    plane       0        12        24        32  36
                |  rank 0 |  rank 1 |  rank 2   |        bounds 0, 12, 24, 36
                |<----------- own ------->|fill |

The planes behind `own` only fill the axis up to a length that a network needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from medhpc.errors import BadOption


@dataclass(frozen=True)
class Slabs:
    """Rank r has the planes from ``bounds[r]`` to ``bounds[r + 1]``."""

    bounds: tuple[int, ...]

    @property
    def length(self) -> int:
        """Planes of all."""
        return self.bounds[-1]

    @property
    def thinnest(self) -> int:
        """Planes of the rank that has the fewest."""
        return min(map(len, self.all()))

    def all(self) -> list[range]:
        """The planes of each."""
        return [range(start, stop) for start, stop in zip(self.bounds, self.bounds[1:], strict=False)]

    def of(self, rank: int) -> range:
        """The planes of one."""
        return range(self.bounds[rank], self.bounds[rank + 1])

    def coarser(self, factor: int) -> Slabs:
        """The same at a resolution that is `factor` times coarser."""
        return Slabs(tuple(bound // factor for bound in self.bounds))

    def cut_at(self, length: int) -> Slabs:
        """The same, without what lies behind `length`."""
        return Slabs(tuple(min(bound, length) for bound in self.bounds))


def divide(
    length: int,
    ranks: int,
    *,
    multiple: int = 1,
    least: int = 1,
    own: int | None = None,
    least_own: int = 1,
    what: str = "planes",
) -> Slabs:
    """Divide an axis as evenly as it goes.

    Parameters
    ----------
    length : int
        Of the axis, a multiple of `multiple`.
    multiple : int
        Of which all bounds are multiples.
    least : int
        Planes that each rank must have: a halo comes from the neighbour alone.
    own : int, optional
        The first planes of the axis that are no filling; all, unless given.
    least_own : int
        How many of those each rank must have.
    what : str
        Names them in errors.

    Raises
    ------
    BadOption
        Too many ranks.
    """
    own = length if own is None else own
    slabs = _divided(length, ranks, multiple, own, least_own)
    if _fits(slabs, least, own, least_own):
        return slabs
    fewer = (_divided(length, n, multiple, own, least_own) for n in range(ranks - 1, 0, -1))
    most = next((len(each.all()) for each in fewer if _fits(each, least, own, least_own)), 1)
    need = max(multiple, least, least_own)
    raise BadOption(
        f"{ranks} ranks for {own} {what}: each needs {need} at least, as halos come from the neighbours alone; use at "
        f"most {most}"
    )


def _divided(length: int, ranks: int, multiple: int, own: int, least_own: int) -> Slabs:
    """Evenly, but the last rank has some of its own."""
    last = _even(length, ranks, multiple)[-2]
    latest = (own - least_own) // multiple * multiple
    if ranks > 1 and last > latest:
        return Slabs((*_even(max(latest, 0), ranks - 1, multiple), length))
    return Slabs(_even(length, ranks, multiple))


def _even(length: int, ranks: int, multiple: int) -> tuple[int, ...]:
    units = length // multiple
    return tuple(units * rank // ranks * multiple for rank in range(ranks + 1))


def _fits(slabs: Slabs, least: int, own: int, least_own: int) -> bool:
    return slabs.thinnest >= least and slabs.cut_at(own).thinnest >= least_own
