"""One line of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warn", "bad", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, and what it is like.

    Attributes
    ----------
    name : str
    verdict : {"ok", "warn", "bad", "unknown"}
        ``bad``: medhpc does not work so; ``warn``: it works, with the drawback that `means` tells; ``unknown``: it
        could not be looked at.
    found : str
    means : str
        What that is for medhpc.
    mend : str
        What to do; empty where nothing is to be done.
    """

    name: str
    verdict: Verdict
    found: str
    means: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields, for JSON."""
        return asdict(self)
