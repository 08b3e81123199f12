"""How a network is evaluated on a block: arrays in, arrays out.

An engine hides device, threads and dimensions. It knows nothing of tiles, halos or files.
"""

from medhpc.engine.base import BlockTooLarge, Cost, Engine
from medhpc.engine.choice import NAMES, load
from medhpc.engine.pytorch import TorchEngine

__all__ = ["NAMES", "BlockTooLarge", "Cost", "Engine", "TorchEngine", "load"]
