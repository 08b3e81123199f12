"""A sweep along z in the compiled kernel: planes in, planes of scores out, some planes of each map in memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medhpc.geometry import Index
from medhpc.kernel.arguments import address, check, described, ints, owned

if TYPE_CHECKING:
    from medhpc.kernel.network import KernelNetwork

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class SweepShape:
    """What a sweep goes over.

    Attributes
    ----------
    shape : (z, y, x)
        Of the volume, or of the rows of it that are computed here.
    step : int
        Planes that are computed at a time: more are faster, and take more memory.
    ghosts : (low, high)
        Rows beyond those, in y, that a neighbour computes: none where the volume ends, else the largest dilation.
    """

    shape: Index
    step: int
    ghosts: tuple[int, int] = (0, 0)

    @property
    def numbers(self) -> ctypes.Array[ctypes.c_int]:
        """As the library takes them."""
        return ints([*self.shape, *self.ghosts, self.step])


class KernelSweep:
    """A sweep: step after step, until all planes are finished.

    Without ghost rows, a step is :meth:`advance`. With them, it is :meth:`begin`; for each layer, :meth:`layer`,
    :meth:`edge_rows`, which the neighbours are given, and :meth:`put_ghosts` with what they give; :meth:`finish`.
    The planes of different layers in one step differ: a layer lags behind those before it.

    Attributes
    ----------
    shape : SweepShape
    steps : int
        All of them.
    bytes : int
        Memory that it takes, without input and result.
    """

    def __init__(
        self,
        network: KernelNetwork,
        library: ctypes.CDLL,
        handle: int | None,
        shape: SweepShape,
        kind: str,
        threads: int,
    ) -> None:
        self._network, self._library = network, library  # the library's network must outlive its sweep
        self._handle = owned(self, handle, library.msd_forget_sweep)
        self.shape, self.bytes = shape, network.sweep_bytes(shape, threads)
        architecture = network.architecture
        self.layers = len(architecture.dilations) // architecture.width
        self.steps = -(-(shape.shape[0] + self._lag) // shape.step)
        self._outputs = architecture.out_channels - (kind == "probability" and architecture.out_channels > 1)
        self._result = np.empty(0, network.dtype)

    def planes(self, layer: int) -> tuple[int, int]:
        """First plane and end of what a layer computes in this step; of -1, of what :meth:`begin` takes."""
        found = ints([0, 0])
        self._library.msd_sweep_planes(self._handle, layer, found)
        return found[0], found[1]

    def advance(self, planes: Array | None) -> Array:
        """Compute a step.

        Parameters
        ----------
        planes : ndarray, shape (in_channels, n, y, x)
            The next ones: `step`, or what is left; None once all were given.

        Returns
        -------
        ndarray, shape (outputs, m, y, x)
            The next finished ones; none at all in the first steps.
        """
        self.begin(planes)
        self._run(0, self.layers)
        return self.finish()

    def begin(self, planes: Array | None) -> None:
        """Take the planes of a step, as :meth:`advance` does it; their y with ghost rows."""
        start, stop = self.planes(-1)
        assert stop - start == (0 if planes is None else planes.shape[1]), "not the planes of this step"
        if planes is not None:
            check(self._library.msd_sweep_load(self._handle, *described(planes)[:2]))
        first, end = self.planes(self.layers - 1)
        _, y, x = self.shape.shape
        self._result = np.empty((self._outputs, end - first, y, x), self._network.dtype)

    def layer(self, layer: int) -> None:
        """Compute a layer, after those before it and their ghost rows."""
        self._run(layer, layer + 1)

    def edge_rows(self, layer: int) -> tuple[Array, Array]:
        """Our first and our last rows of what this layer has just computed: (maps, planes, rows, x) each.

        As many as there are ghosts on this side: the neighbour has as many.
        """
        (low, high), y = self.shape.ghosts, self.shape.shape[1]
        return self._taken(layer, low, low), self._taken(layer, low + y - high, high)

    def put_ghosts(self, layer: int, low: Array, high: Array) -> None:
        """Put in rows that the neighbours have computed, shapes as in :meth:`edge_rows`."""
        ghosts, y = self.shape.ghosts, self.shape.shape[1]
        for rows, first in ((low, 0), (high, ghosts[0] + y)):
            rows = np.ascontiguousarray(rows, self._network.dtype)
            self._library.msd_sweep_put(self._handle, layer, first, rows.shape[2], address(rows))

    def finish(self) -> Array:
        """End a step; the planes that it has finished, as :meth:`advance` returns them."""
        self._library.msd_sweep_end_step(self._handle)
        return self._result

    def _run(self, first: int, stop: int) -> None:
        check(self._library.msd_sweep_run(self._handle, first, stop, address(self._result)))

    def _taken(self, layer: int, first: int, rows: int) -> Array:
        start, stop = self.planes(layer)
        maps, x = self._network.architecture.width, self.shape.shape[2]
        taken = np.empty((maps, stop - start, rows, x), self._network.dtype)
        self._library.msd_sweep_take(self._handle, layer, first, rows, address(taken))
        return taken

    @property
    def _lag(self) -> int:
        """Of the last layer behind the input."""
        architecture = self._network.architecture
        if architecture.ndim == 2:
            return 0
        width, dilations = architecture.width, architecture.dilations
        return sum(max(dilations[k : k + width]) for k in range(0, len(dilations), width))
