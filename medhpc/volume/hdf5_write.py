"""Write a dataset of an HDF5 file: chunked, deflated, with ``element_size_um``."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from medhpc.errors import BadOption
from medhpc.geometry import Index
from medhpc.volume.chunking import chunks_and_shards
from medhpc.volume.units import MICROMETRES
from medhpc.volume.writer import Specification

DEFAULT_DATASET = "/volume"


class Hdf5Target:
    """One dataset; others of a file that is there already are kept.

    Parameters
    ----------
    path : Path
        The file to make.
    present : Path or None
        The file whose other datasets are kept.
    name : str
        The dataset, which is replaced if `present` has it.
    """

    def __init__(
        self,
        path: Path,
        specification: Specification,
        *,
        present: Path | None,
        name: str,
        chunks: Index | None,
        compression: bool,
    ) -> None:
        if present is not None:
            shutil.copyfile(present, path)
        self._disk = Disk(path)
        self._file = h5py.File(self._disk, "a" if present else "w")
        if isinstance(self._file.get(name), h5py.Group):
            raise BadOption(f"'{name}' is a group in it, expected a dataset or a name that is free")
        if name in self._file:
            del self._file[name]
        self._has_channels = specification.channels > 0
        chunk, _ = chunks_and_shards(specification.shape, specification.plane_bytes, chunks)
        self.slab = chunk[0]
        packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression else {}
        self._dataset = self._file.create_dataset(
            name,
            shape=specification.blocks if self._has_channels else specification.shape,
            dtype=specification.dtype,
            chunks=(1, *chunk) if self._has_channels else chunk,
            **packing,
        )
        for dimension, axis in zip(self._dataset.dims, "czyx" if self._has_channels else "zyx", strict=True):
            dimension.label = axis
        if specification.voxel_size is not None:
            factor = MICROMETRES[specification.unit]
            self._dataset.attrs["element_size_um"] = [size * factor for size in specification.voxel_size]

    def write(self, z0: int, block: np.ndarray[Any, Any]) -> None:
        """Write planes from `z0` on."""
        planes = slice(z0, z0 + block.shape[1])
        if self._has_channels:
            self._dataset[:, planes] = block
        else:
            self._dataset[planes] = block[0]
        self._disk.check()

    def finish(self) -> None:
        """Write what HDF5 still holds."""
        self._file.close()
        self._disk.check()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._disk.close()


class Disk(io.FileIO):
    """A file that remembers why a write failed where it should raise.

    HDF5 insists on writing what it holds when it closes a file, and ends the process where it cannot.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+b" if path.exists() else "x+b")
        self._failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write everything, or remember why not."""
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and not self._failure:
                left = left[super().write(left) :]
        except OSError as error:
            self._failure = error
        return size

    def check(self) -> None:
        """Raise what went wrong."""
        if self._failure:
            raise self._failure
