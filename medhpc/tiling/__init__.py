"""The tile step: volume and network to a plan."""

from medhpc.tiling.summary import summarize
from medhpc.tiling.tile import tile

__all__ = ["summarize", "tile"]
