"""Times as SLURM writes them."""

from __future__ import annotations

import re

ENDLESS = {"UNLIMITED", "INFINITE", "NONE", "N/A", "NOT_SET", "(NULL)", ""}


def seconds_of(text: str) -> int | None:
    """Seconds of a time as SLURM writes it: ``30`` (minutes), ``10:00``, ``1:00:00``, ``1-02:03:04``; None if endless.

    Raises
    ------
    ValueError
        The text is no time.
    """
    if text.strip().upper() in ENDLESS:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not found:
        raise ValueError(f"'{text}' is not a time such as 30 (minutes), 1:30:00 or 2-00:00:00")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:
        hours, minutes, seconds = 0, *numbers, *(0,) * (2 - len(numbers))
    else:
        hours, minutes, seconds = *numbers, *(0,) * (3 - len(numbers))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def as_time(seconds: float | None) -> str:
    """A time as ``--time`` takes it: ``1-02:03:04``, ``00:30:00``; ``UNLIMITED`` for None; rounded up."""
    if seconds is None:
        return "UNLIMITED"
    whole = -int(-seconds // 1)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock
