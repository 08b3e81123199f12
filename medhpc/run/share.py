"""Which tiles of a run one task computes."""

from __future__ import annotations

from medhpc.errors import BadOption


def select(total: int, task: str | None = None, tiles: str | None = None) -> range:
    """The tiles that ``--task K/N`` or ``--tiles A:B`` mean, among `total`.

    Raises
    ------
    BadOption
    """
    if task and tiles:
        raise BadOption("--task and --tiles exclude each other; give one of them")
    text, mark = (task, "/") if task else (tiles or ":", ":")
    low, found, high = text.partition(mark)
    if not found or any(part and not part.isdecimal() for part in (low, high)):
        raise BadOption(f"'{text}' is not K/N (as in --task 3/16) or A:B (as in --tiles 0:100)")
    if not task:
        a, b = int(low or 0), int(high or total)
        if not 0 <= a < b <= total:
            raise BadOption(f"tiles '{text}' are empty or beyond the run's {total} tiles (0:{total})")
        return range(a, b)
    if not (low and high) or not 1 <= int(low) <= int(high):
        raise BadOption(f"task '{text}' is not K/N with K from 1 to N, as in --task 3/16")
    k, n = int(low), int(high)
    return range(total * (k - 1) // n, total * k // n)
