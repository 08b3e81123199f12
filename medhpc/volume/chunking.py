"""How large chunks and shards are, where nobody says."""

from __future__ import annotations

import math
from collections.abc import Iterable

from medhpc.errors import BadOption
from medhpc.geometry import Index

_SHARD = 128
_CHUNK = 64
_SLAB_BYTES = 2**30  # what a writer holds: planes of one shard's thickness


def chunks_and_shards(
    shape: Index, plane_bytes: int, chunks: Index | None = None, shards: Index | None = None
) -> tuple[Index, Index]:
    """Chunks (decoded at once) and shards (a file each), in voxels along z, y and x.

    64 and 128 voxels along each axis. Where the volume is thinner, or its planes are so large that 128 of them take
    more than 1 GiB, shards get thinner and wider. Neither is larger than the volume needs.

    Raises
    ------
    BadOption
        Shards that are not a whole number of chunks.
    """
    default_chunks, default_shards = _defaults(shape, plane_bytes)
    if chunks is not None and shards is None:
        shards = _three(2 * c for c in chunks)
    if shards is not None and chunks is None:
        chunks = _three(map(_chunk_within, shards))
    wanted = shards or default_shards
    chunk = _three(min(c, n) for c, n in zip(chunks or default_chunks, shape, strict=True))
    shard = _three(min(s, -(-n // c) * c) for s, n, c in zip(wanted, shape, chunk, strict=True))
    if any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise BadOption(f"shards of {wanted} are not a whole number of chunks of {chunk}")
    return chunk, shard


def _defaults(shape: Index, plane_bytes: int) -> tuple[Index, Index]:
    affordable = 2 ** int(math.log2(max(1, _SLAB_BYTES // plane_bytes)))
    thickness = min(_SHARD, affordable)
    thickness = min(thickness, shape[0]) if shape[0] <= _CHUNK else thickness
    side = _SHARD * 2 ** int(math.log2(_SHARD / thickness) / 2)
    return (min(_CHUNK, thickness), side // 2, side // 2), (thickness, side, side)


def _chunk_within(shard: int) -> int:
    """Find the longest chunk up to 64 that divides a shard; the shard itself where that would be tiny."""
    longest = max(n for n in range(1, _CHUNK + 1) if shard % n == 0)
    return longest if longest >= _CHUNK // 4 else shard


def _three(values: Iterable[int]) -> Index:
    z, y, x = values
    return z, y, x
