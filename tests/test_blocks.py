"""Blocks: every voxel of the region in exactly one block, and no chunk in two."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medhpc.blocks import blocks
from medhpc.geometry import Box

lengths = st.tuples(*[st.integers(1, 12)] * 3)


@st.composite
def regions(draw):
    start = draw(st.tuples(*[st.integers(0, 9)] * 3))
    return Box(start, tuple(a + n for a, n in zip(start, draw(lengths), strict=True)))


@given(region=regions(), chunks=st.none() | lengths, voxels=st.integers(1, 500))
def test_blocks_cover_the_region_once_and_keep_their_size(region, chunks, voxels):
    seen = np.zeros(region.stop, int)
    for box in blocks(region, chunks, voxels):
        seen[box.slices] += 1
        assert 0 < box.size <= max(voxels, np.prod(chunks or 1))
    assert seen[region.slices].all()
    assert seen.max() == 1 and seen.sum() == region.size


@given(region=regions(), chunks=lengths, voxels=st.integers(1, 500))
def test_no_chunk_is_decoded_twice(region, chunks, voxels):
    decoded = [chunk for box in blocks(region, chunks, voxels) for chunk in chunks_of(box, chunks)]
    assert len(decoded) == len(set(decoded))


def chunks_of(box, chunks):
    ranges = [range(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, chunks, strict=True)]
    return itertools.product(*ranges)


@given(at=st.tuples(*[st.integers(0, 9)] * 3), chunks=st.none() | lengths)
def test_an_empty_region_has_no_blocks(at, chunks):
    assert not list(blocks(Box(at, at), chunks))


def test_planes_are_read_whole_and_in_order():
    found = list(blocks(Box.whole((5, 10, 10)), None, 200))
    assert [(b.start[0], b.stop[0]) for b in found] == [(0, 2), (2, 4), (4, 5)]
    assert all(b.shape[1:] == (10, 10) for b in found)
