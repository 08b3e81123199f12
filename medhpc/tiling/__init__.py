"""The tile step: volume and network to a plan."""

from medhpc.tiling.summary import summarize
from medhpc.tiling.planning import tile

__all__ = ["summarize", "tile"]
