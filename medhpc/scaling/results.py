"""What is known of how a run scales, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medhpc.infer.clock import Spent
from medhpc.scaling.model import Link, Predicted

STARVED = 0.8
"""Of the seconds of computing: who gets less of one core shares it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What so many ranks or tasks took."""

    count: int
    seconds: float  # of the slowest, from when its network is loaded
    difference: int  # to the result of one, in steps of the stored numbers, at most
    spent: tuple[Spent, ...]  # by each

    @property
    def same(self) -> bool:
        """Whether the result is that of one, but for rounding."""
        return self.difference <= 1

    @property
    def memory(self) -> float:
        """Bytes, of the process that took most."""
        return max(one.peak_memory for one in self.spent)

    @property
    def cpu(self) -> float:
        """Seconds of cores, of all processes."""
        return sum(one.cpu for one in self.spent)

    @property
    def starved(self) -> bool:
        """Whether cores were not to be had, most likely because something else kept them busy."""
        return self.cpu < STARVED * sum(one.compute for one in self.spent)

    def part(self, name: str) -> float:
        """Of the time of all processes, what went into a part; "other" includes waiting for the slowest task."""
        parts = ("read", "compute", "exchange", "write")
        shares = {part: sum(getattr(one, part) for one in self.spent) / self.count / self.seconds for part in parts}
        return 1 - sum(shares.values()) if name == "other" else shares[name]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """All that is known of how a run scales."""

    by: str  # "ranks" or "tasks"
    on: str  # "local" or "slurm"
    threads: int  # of each of them
    device: str
    cores: int  # that this machine lets us use
    plan: str  # its digest
    link: Link | None = None
    measured: tuple[Measured, ...] = ()
    predicted: tuple[Predicted, ...] = ()

    @property
    def note(self) -> str:
        """What to know before the figures are believed; "" if there is nothing."""
        crowded = [one.count for one in self.measured if not self.had_cores(one.count)]
        starved = [str(one.count) for one in self.measured if one.starved and self.had_cores(one.count)]
        notes = []
        if crowded:
            threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
            notes.append(
                f"{crowded[-1]} {self.by} of {threads} share {self.cores} cores here: efficiency says nothing where "
                "there are fewer cores than threads"
            )
        if starved and not self.device.startswith("cuda"):
            notes.append(f"something else kept the cores busy while {', '.join(starved)} {self.by} ran: measure again")
        return "; ".join(notes)

    def had_cores(self, count: int) -> bool:
        """Whether so many have a core for each thread."""
        return self.on == "slurm" or self.device.startswith("cuda") or count * self.threads <= self.cores

    @property
    def checks(self) -> list[Measured]:
        """What the model can be checked against."""
        fair = [one for one in self.measured if self.had_cores(one.count) and not one.starved]
        return fair[1:] if fair[:1] == list(self.measured[:1]) else []

    def speed_up(self, seconds: float) -> float:
        """Against one rank or task."""
        return self.measured[0].seconds / seconds

    def of(self, count: int) -> Predicted | None:
        """What was predicted for a count."""
        return next((row for row in self.predicted if row.count == count), None)

    def error(self, one: Measured) -> float:
        """Of the prediction: a tenth if it is ten percent too long."""
        predicted = self.of(one.count)
        assert predicted
        return predicted.seconds / one.seconds - 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with what follows from it."""
        fields = asdict(self) | {"note": self.note}
        for row, one in zip(fields["measured"], self.measured, strict=True):
            row["speed_up"] = self.speed_up(one.seconds)
            row["efficiency"] = row["speed_up"] / one.count
            row["prediction_error"] = self.error(one)
        return fields

    @classmethod
    def read(cls, file: Path) -> Scaling:
        """What was written."""
        found = json.loads(file.read_text())
        rows = []
        for row in found["measured"]:
            spent = tuple(Spent(**one) for one in row["spent"])
            rows.append(Measured(count=row["count"], seconds=row["seconds"], difference=row["difference"], spent=spent))
        return cls(
            by=found["by"],
            on=found["on"],
            threads=found["threads"],
            device=found["device"],
            cores=found["cores"],
            plan=found["plan"],
            link=Link(**found["link"]) if found["link"] else None,
            measured=tuple(rows),
            predicted=tuple(Predicted(**row) for row in found["predicted"]),
        )
