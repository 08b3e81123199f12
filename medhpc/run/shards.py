"""The result array of a run: Zarr v3, written shard by shard, each shard whole or absent.

zarr-python encodes and decodes; only the way a shard reaches the disk is ours: written aside, synced, renamed, its
folder synced. Inner chunks carry a crc32c, so that a reader notices flipped bits; all-zero chunks are written too, so
that an absent shard means "not done" and never "all zero".
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from medhpc.errors import NotARun
from medhpc.geometry import Box, Index
from medhpc.run.durable import write_durably
from medhpc.run.plan import Stored
from medhpc.volume.codecs import codecs_for

EDGE = 128  # default shard edge, voxels
CHUNK = 64  # default chunk edge, voxels


class DurableStore(LocalStore):
    """A Zarr store whose values reach the disk by :func:`medhpc.run.durable.write_durably`.

    Parameters
    ----------
    aside : Path, optional
        Folder, on the same file system, for values that are being written.
    """

    def __init__(self, root: Path, *, aside: Path | None = None, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.aside = aside

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value durably."""
        await asyncio.to_thread(self._commit, key, memoryview(value.as_buffer_like()))

    def _commit(self, key: str, content: memoryview) -> None:
        write_durably(Path(self.root) / key, content, self.aside)


class DigestingStore(DurableStore):
    """Remembers the digest and size of each value set, by key, until they are taken."""

    def __init__(self, root: Path, *, aside: Path | None = None, read_only: bool = False) -> None:
        super().__init__(root, aside=aside, read_only=read_only)
        self.written: dict[str, tuple[str, int]] = {}

    def _commit(self, key: str, content: memoryview) -> None:
        super()._commit(key, content)
        self.written[key] = (hashlib.sha256(content).hexdigest(), len(content))


def create_shards(folder: Path, stored: Stored, shape: Index) -> None:
    """Create the empty result array (channels, z, y, x) in `folder`."""
    zarr.create_array(
        LocalStore(folder),
        shape=(stored.channels, *shape),
        dtype=stored.dtype,
        chunks=(1, *stored.chunk),
        shards=(stored.channels, *stored.shard),
        compressors=codecs_for(stored.dtype, labels=stored.kind == "argmax"),
        fill_value=0,
        dimension_names=("c", "z", "y", "x"),
    )


class Shards:
    """The result array of a run.

    Parameters
    ----------
    folder : Path
        The Zarr array.
    aside : Path
        Folder, on the same file system, for shards that are being written.
    """

    def __init__(self, folder: Path, stored: Stored, aside: Path) -> None:
        self.folder = folder
        self.stored = stored
        self._store = DigestingStore(folder, aside=aside)
        self._array: Any = None

    @property
    def array(self) -> Any:
        """The open zarr array, axes (channels, z, y, x)."""
        if self._array is None:
            self._array = self._open()
        return self._array

    def _open(self) -> Any:
        try:  # `open`, as `open_array` passes over `config` (zarr 3.1)
            return zarr.open(self._store, mode="r+", config={"write_empty_chunks": True})
        except Exception as error:  # of nearly any class, where the metadata is damaged
            reason = str(error).partition("\n")[0]
            raise NotARun(f"{self.folder} is damaged or gone ({reason}); plan a new run") from error

    def paths(self, write: Box) -> list[Path]:
        """Files of the shards that a write box fills, in a fixed order."""
        return [self.folder / key for key in self._keys(write)]

    def write(self, write: Box, values: np.ndarray) -> tuple[str, int]:
        """Write a tile, `values` (channels, z, y, x) of the shape of its write box.

        Returns
        -------
        digest : str
            Of the stored bytes of all its shards.
        size : int
            Stored bytes.
        """
        keys = self._keys(write)
        for key in keys:  # a damaged shard cannot be written over: zarr would try to read it first
            (self.folder / key).unlink(missing_ok=True)
        self.array[(slice(None), *write.slices)] = values
        digests, sizes = zip(*(self._store.written.pop(key) for key in keys), strict=True)
        return _join(digests), sum(sizes)

    def digest(self, write: Box) -> str | None:
        """Digest of the stored bytes of a tile, read back from the disk; None where a shard is absent."""
        digests = []
        for path in self.paths(write):
            try:
                with path.open("rb") as file:
                    digests.append(hashlib.file_digest(file, "sha256").hexdigest())
            except FileNotFoundError:
                return None
        return _join(digests)

    def _keys(self, write: Box) -> list[str]:
        ranges = [range(a // s, -(-b // s)) for a, b, s in zip(write.start, write.stop, self.stored.shard, strict=True)]
        return [f"c/0/{z}/{y}/{x}" for z, y, x in itertools.product(*ranges)]


def shard_shape(tile: Index, volume: Index, edge: int = EDGE, chunk: int = CHUNK) -> tuple[Index, Index]:
    """Shard and chunk that a tile of this shape is a whole number of.

    Per axis a shard is `edge` long where that divides the tile or the tile spans the volume (the last shard is then cut
    off), else a whole part of the tile that is up to half longer, else the tile. A chunk is the shard cut into equal
    parts of at most `chunk` (or left whole where that would make slivers).
    """
    pairs = [_shard_and_chunk(t, v, edge, chunk) for t, v in zip(tile, volume, strict=True)]
    (z, cz), (y, cy), (x, cx) = pairs
    return (z, y, x), (cz, cy, cx)


def _shard_and_chunk(tile: int, volume: int, edge: int, chunk: int) -> tuple[int, int]:
    wholes = (tile // n for n in range(1, tile // (edge // 2 or 1) + 1) if tile % n == 0)
    shard = edge if tile % edge == 0 or tile == volume else next((n for n in wholes if n <= 1.5 * edge), tile)
    shard = min(shard, volume)  # one along this axis: no use in padding it
    parts = next((n for n in range(1, shard + 1) if shard % n == 0 and shard // n <= chunk), 1)
    return (shard, shard // parts) if shard // parts >= chunk // 4 or shard <= chunk else (shard, shard)


def _join(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
