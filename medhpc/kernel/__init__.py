"""MS-D networks on CPUs, by a compiled kernel of medhpc's own.

A framework reaches 2 to 10 % of a CPU's peak on an MS-D network, for each layer has one output map. Here dilations
take turns (:mod:`medhpc.nets.visits`), and 3 x 3 taps in (z, y) are computed by Winograd's F(4 x 4, 3 x 3) on the
lattice of each dilation. Its backward pass is the transpose of that, tile by tile. The C++ is in ``src/``:
``convolve.h`` is where to begin, then ``sweep_plan.h`` and ``return_gradients.h``.
"""

from medhpc.kernel.library import (
    VARIANTS,
    library_path,
    load_library,
    open_library,
    usable_variants,
    why_not_built,
)
from medhpc.kernel.network import Architecture, KernelNetwork, Recording, Spare, Weights
from medhpc.kernel.sweep import KernelSweep, SweepShape

__all__ = [
    "VARIANTS",
    "Architecture",
    "KernelNetwork",
    "KernelSweep",
    "Recording",
    "Spare",
    "SweepShape",
    "Weights",
    "library_path",
    "load_library",
    "open_library",
    "usable_variants",
    "why_not_built",
]
