"""What one stitch is to do, in plain values: all that a process on another machine needs to work on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from medhpc.stitch.request import Request


@dataclass(frozen=True, kw_only=True)
class Order:
    """A stitch. Paths are absolute, and the same on all machines."""

    run: str
    out: str
    result: str  # stands for OUT by whatever name, 16 hexadecimal digits
    request: Request
    plan: str  # digest
    thickness: int  # planes of a slab that is labelled at once
    threads: int | None = None  # with which a unit is done; None for all cores

    @property
    def digest(self) -> str:
        """Stands for everything that the result depends on, 16 hexadecimal digits."""
        return short_digest(json.dumps([self.out, asdict(self.request), self.plan, self.thickness]))

    def to_json(self) -> str:
        """One line; equal orders make equal lines."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"request": Request(**fields["request"])})


def short_digest(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
