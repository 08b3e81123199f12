"""Which label values make a class: ``bone=26-50,92-116,liver=5``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from medhpc.errors import BadOption

Classes: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
"""Name -> ranges of label values, both ends included."""


def parse_classes(text: str) -> dict[str, list[tuple[int, int]]]:
    """Read ``bone=26-50,92-116,liver=5``: names, each with label values and ranges of them (both ends included).

    A plus sign may stand in place of the comma between the values of one name.

    Raises
    ------
    BadOption
        A value without a name, something else than numbers, or a value that two classes claim.
    """
    classes: dict[str, list[tuple[int, int]]] = {}
    name = ""
    for part in re.split(r"[,+]", text):
        if "=" in part:
            name, part = (piece.strip() for piece in part.split("=", 1))
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not name or not match:
            raise BadOption(f"classes '{text}': '{part}' is not NAME=LABEL or NAME=FIRST-LAST, as in bone=26-50,92-116")
        low, high = int(match[1]), int(match[2] or match[1])
        _check_range(text, low, high, classes)
        classes.setdefault(name, []).append((low, high))
    return classes


def _check_range(text: str, low: int, high: int, classes: Classes) -> None:
    if low > high:
        raise BadOption(f"classes '{text}': the range {low}-{high} runs backwards")
    for name, ranges in classes.items():
        if any(low <= b and a <= high for a, b in ranges):
            raise BadOption(f"classes '{text}': labels of {low}-{high} belong to {name} already")
