"""The engine ``native``: MS-D networks on CPUs, by medhpc's own kernel.

A framework reaches 2 to 10 % of a CPU's peak on an MS-D network, for each layer has one output map. Here dilations
take turns (:mod:`medhpc.nets.visits`), and 3 x 3 taps in (z, y) are computed by Winograd's F(4 x 4, 3 x 3) on the
lattice of each dilation. The C++ is in ``src/``: ``convolve.h`` is where to begin.
"""

from medhpc.engine.native.engine import NativeEngine, why_not_native
from medhpc.engine.native.library import VARIANTS, usable_variants

__all__ = ["VARIANTS", "NativeEngine", "usable_variants", "why_not_native"]
