"""Which tensors live, and what they hold."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Tally(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside its block, from birth to death, and their peak.

    What libraries take for themselves while they compute (workspace) is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self.held_by: Counter[str] = Counter()
        """Bytes of each device."""
        self._living: dict[int, tuple[int, tuple[int, ...]]] = {}  # key of a storage -> bytes, shape when it was made

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor)

    def maps(self) -> Iterator[tuple[int, int]]:
        """Of each living tensor (N, channels, space): voxels and bytes; weights have no such shape, N is not 1."""
        for size, shape in self._living.values():
            if len(shape) >= 4 and shape[0] == 1:
                voxels = 1
                for length in shape[2:]:
                    voxels *= length
                if voxels:  # a halo may have none
                    yield voxels, size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._living:
            return
        self._living[key] = (storage.nbytes(), tuple(tensor.shape))
        device = str(tensor.device)
        self.held += storage.nbytes()
        self.held_by[device] += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key, device)

    def _forget(self, key: int, device: str) -> None:
        size = self._living.pop(key)[0]
        self.held -= size
        self.held_by[device] -= size
