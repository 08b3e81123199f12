"""What a call of :func:`medhpc.infer.infer` did, and how that adds up."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medhpc.geometry import Tile
from medhpc.infer.clock import Spent

WRITERS = 2


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """What one call of :func:`infer` did."""

    run: str
    tiles: int  # in the range asked for
    computed: int
    skipped: int  # the ledger proved them done
    repaired: int  # of the computed: the ledger said done, the stored bytes were damaged or gone
    failed: int  # ended in an exception
    errors: tuple[str, ...]  # of these, each once
    left: int  # not begun: it was told to stop
    seconds: float
    voxels: int  # written
    ranks: tuple[Spent, ...]  # where the time went, of each rank: one, unless several share the planes

    @property
    def runs(self) -> tuple[InferResult, ...]:
        """Itself, as the result of a task that shares several runs has them."""
        return (self,)

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass
class Tally:
    """What has been done so far."""

    finished: int = 0
    computed: int = 0
    repaired: int = 0
    voxels: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, tile: Tile, *, damaged: bool) -> None:
        """Count a tile that was computed."""
        self.computed += 1
        self.repaired += damaged
        self.voxels += tile.write.size

    def fail(self, error: Exception, tiles: int = 1) -> None:
        """Count tiles that ended in an exception."""
        self.errors += [f"{type(error).__name__}: {error}"] * tiles

    def result(self, run: str | Path, tiles: int, seconds: float, ranks: tuple[Spent, ...]) -> InferResult:
        """The sum, for `tiles` asked for."""
        return InferResult(
            run=str(run),
            tiles=tiles,
            computed=self.computed,
            skipped=self.finished - self.computed - len(self.errors),
            repaired=self.repaired,
            failed=len(self.errors),
            errors=tuple(dict.fromkeys(self.errors)),
            left=tiles - self.finished,
            seconds=seconds,
            voxels=self.voxels,
            ranks=ranks,
        )
