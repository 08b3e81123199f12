"""How a network is evaluated on a block: arrays in, arrays out.

An engine hides device, threads and dimensions. It knows nothing of tiles, halos or files.
"""

from medhpc.engine.reference import BlockTooLarge, TorchEngine, load

__all__ = ["BlockTooLarge", "TorchEngine", "load"]
