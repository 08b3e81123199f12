"""The tile step: volume and network to a plan."""

from medhpc.tiling.planning import tile
from medhpc.tiling.summary import summarize

__all__ = ["summarize", "tile"]
