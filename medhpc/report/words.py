"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable


def duration(seconds: float | None) -> str:
    """Seconds as a person says them; "" where there are none."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.3g} s"
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(seconds)


def lengths(values: Iterable[float]) -> str:
    """Lengths along axes."""
    return " × ".join(f"{value:g}" for value in values)


def gib(count: float) -> str:
    """Memory, in powers of 1024; "" for none."""
    return f"{count / 2**30:.3g} GiB" if count else ""


def size(count: float) -> str:
    """Bytes on disk, in powers of 1000."""
    power = 0
    while count >= 999.5 and power < 5:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def error(value: float | None) -> str:
    """An error of probabilities; "" where none was measured."""
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.2g}"


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
