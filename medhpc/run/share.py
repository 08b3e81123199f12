"""Which tiles of a run one task computes."""

from __future__ import annotations

from collections.abc import Sequence

from medhpc.errors import BadOption


def select(total: int, task: str | None = None, tiles: str | None = None) -> range:
    """The tiles that ``--task K/N`` or ``--tiles A:B`` mean, among `total`.

    Raises
    ------
    BadOption
    """
    if task and tiles:
        raise BadOption("--task and --tiles exclude each other; give one of them")
    if task:
        return _part(total, *parse_task(task))
    text = tiles or ":"
    low, found, high = text.partition(":")
    if not found or any(part and not part.isdecimal() for part in (low, high)):
        raise BadOption(f"tiles '{text}' is not A:B, as in --tiles 0:100")
    a, b = int(low or 0), int(high or total)
    if not 0 <= a < b <= total:
        raise BadOption(f"tiles '{text}' are empty or beyond the run's {total} tiles (0:{total})")
    return range(a, b)


def parse_task(text: str) -> tuple[int, int]:
    """K and N of ``K/N``.

    Raises
    ------
    BadOption
    """
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal()) or not 1 <= int(k) <= int(n):
        raise BadOption(f"task '{text}' is not K/N with K from 1 to N, as in --task 3/16")
    return int(k), int(n)


def share(lists: Sequence[list[int]], task: str) -> list[list[int]]:
    """The K-th of N equal shares of lists that are taken one after the other; `task` is ``K/N``."""
    part = _part(sum(map(len, lists)), *parse_task(task))
    shares, before = [], 0
    for tiles in lists:
        shares.append(tiles[max(part.start - before, 0) : max(part.stop - before, 0)])
        before += len(tiles)
    return shares


def _part(total: int, k: int, n: int) -> range:
    return range(total * (k - 1) // n, total * k // n)
