"""Each rank reads its planes only: what is found block by block is what the whole has."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noisy_images import noisy, smooth, store
from ranked import on_ranks

from medhpc.dip import image as images
from medhpc.dip import share as shares
from medhpc.dip.facts import Facts, find_facts, percentiles
from medhpc.dip.image import Part, open_image
from medhpc.dip.measures import correlation_of_slabs
from medhpc.dip.noise import estimate_noise, neighbour_correlation
from medhpc.dip.options import Options
from medhpc.dip.output import middles
from medhpc.dip.problem import Problem, assemble, pose, scale_of
from medhpc.dip.share import Share
from medhpc.dip.state import write_together
from medhpc.errors import MedhpcError
from medhpc.nets import files as network_files
from medhpc.nets.files import read_part, read_tensors, written_aside
from medhpc.ranks.group import ALONE, Ranks
from medhpc.volume.base import Volume

CPU = torch.device("cpu")
SHAPES = [(21, 14, 12), (5, 40, 12), (3, 9, 33), (1, 40, 27)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(images, "BLOCK", 500)


def image_of(shape: tuple[int, ...]) -> np.ndarray:
    values = noisy(smooth(shape))
    values[: shape[0] // 3] = np.hypot(*np.random.default_rng(0).normal(0, 60, (2, shape[0] // 3, *shape[1:])))
    return np.abs(values)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=400), min_size=1, max_size=8),
    st.floats(0, 40),
    st.floats(60, 100),
)
def test_percentiles_of_blocks_are_those_of_the_whole(parts: list[list[float]], low: float, high: float) -> None:
    blocks = [np.array(part, np.float32) for part in parts]
    whole = np.concatenate(blocks)
    assert percentiles(blocks, whole.size, (low, high)) == tuple(np.percentile(whole, (low, high)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["auto", "gaussian", "rician"])
def test_facts_found_block_by_block_are_those_of_the_whole(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    values = image_of(shape)
    image = open_image(store(tmp_path / "a.tif", values))
    with image.part(slice(0, 1)) as part:
        found = find_facts(part, Options(noise=kind))
    noise = estimate_noise(values[0] if shape[0] == 1 else values, kind)
    assert (found.noise.kind, found.noise.is_seen) == (noise.kind, noise.is_seen)
    assert found.noise.sigma == found.measured == pytest.approx(noise.sigma, rel=1e-12)
    assert found.scale == scale_of(values, keeps_zero=noise.kind == "rician")
    assert Facts.of_numbers(found.as_numbers()) == found


def assembled(part: Part, facts: Facts, share: Share) -> Problem:
    return assemble(
        share,
        lambda planes: np.nan_to_num(part.read(share.axis, planes), nan=facts.fill),
        lambda planes: part.known(share.axis, planes)[None],
        None,
        noise=facts.noise,
        scale=facts.scale,
        data_range=1.0,
        device=CPU,
    )


@pytest.mark.parametrize("shape, size, factor", list(product(SHAPES, (1, 2, 3), (1, 2))))
def test_planes_that_are_read_are_those_of_the_whole(
    tmp_path: Path, shape: tuple[int, ...], size: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, known = image_of(shape), np.random.default_rng(0).random(shape) < 0.8
    image = open_image(store(tmp_path / "a.tif", values))
    mask = store(tmp_path / "m.tif", known.astype(np.uint8))
    options = Options(preset="small", scales=1, channels=2, factor=factor)
    boxes: list[Any] = []
    read = Volume.read
    monkeypatch.setattr(Volume, "read", lambda self, box: boxes.append(box) or read(self, box))
    for rank in range(size):
        with image.part(slice(0, 1), mask) as part:
            facts = find_facts(part, options)
            share = Share.of(Ranks(rank, size), part.space, factor, options.network(len(part.space), 1))
            boxes.clear()
            found = assembled(part, facts, share)
        whole = pose(values[None], facts.noise, CPU, mask=known, share=share)
        assert found.scale == whole.scale and found.noise == whole.noise
        assert torch.equal(found.image * found.known, whole.image * whole.known)
        assert torch.allclose(found.seen, whole.seen, atol=1e-6)  # the mean of the known in the place of the others
        assert torch.equal(found.known, whole.known)
        seen = len(share.seen_planes.numbers) if factor == 1 else len(share.image_planes.numbers)
        axis = share.axis + 3 - len(part.space)
        assert max(box.shape[axis] for box in boxes) <= seen


def gathered(ranks: Ranks, cases: list[tuple[int, ...]], folder: Path) -> list[Any]:
    """What is written of a result that the ranks share, and neighbours' correlation in it."""
    shares.PIECE = 100
    found = []
    for number, space in enumerate(cases):
        whole = torch.arange(float(2 * np.prod(space))).reshape(1, 2, *space).sin()
        share = Share.of(ranks, space, 1, Options(preset="small", scales=1).network(len(space), 1))
        mine, path = share.of_result(whole), folder / f"{ranks.size}-{number}.safetensors"
        write_together(path, {"beside": torch.arange(3)}, {"a": 1}, {"image": share.streamed(mine)}, ranks)
        found.append(correlation_of_slabs(mine, share.cut))
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_result_is_written_piece_by_piece(tmp_path: Path, size: int) -> None:
    cases = [(21, 14, 12), (5, 40, 12), (3, 9, 33), (40, 27)]
    correlations = gathered(ALONE, cases, tmp_path) if size == 1 else on_ranks(size, gathered, cases, tmp_path)[0]
    for number, (space, correlation) in enumerate(zip(cases, correlations, strict=True)):
        whole = torch.arange(float(2 * np.prod(space))).reshape(1, 2, *space).sin()
        path = tmp_path / f"{size}-{number}.safetensors"
        tensors, about = read_tensors(path)
        assert torch.equal(tensors["image"], whole) and torch.equal(tensors["beside"], torch.arange(3))
        assert about == {"a": 1}
        some = (slice(None), slice(None), slice(1, 3))
        assert torch.equal(read_part(path, "image", some), whole[some])
        expected = max(neighbour_correlation(channel.numpy()) for channel in whole[0])
        assert correlation == pytest.approx(expected, rel=1e-5)


class Full:
    """A file that takes two pieces."""

    def __init__(self) -> None:
        self.left = 3  # the header, too

    def write(self, content: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "full")


@contextmanager
def full(path: Path) -> Iterator[Full]:
    with written_aside(path):
        yield Full()


def refused(ranks: Ranks, path: Path) -> str:
    """What a rank says where the disk of the first is full."""
    shares.PIECE, network_files.written_aside = 100, full
    share = Share.of(ranks, (21, 40, 12), 1, Options(preset="small", scales=1).network(3, 1))
    result = share.of_result(torch.zeros(1, 1, 21, 40, 12))
    try:
        write_together(path, {}, {}, {"image": share.streamed(result)}, ranks)
    except MedhpcError as error:
        return f"{type(error).__name__}: {share.mean(result)}"  # they still understand each other
    return "written"


def test_a_full_disk_ends_all_ranks(tmp_path: Path) -> None:
    said = on_ranks(2, refused, tmp_path / "a.safetensors")
    assert said == ["DiskFull: 0.0", "ToldElsewhere: 0.0"]
    assert not list(tmp_path.iterdir())


def test_middle_planes_of_what_comes_in_blocks() -> None:
    whole = np.random.default_rng(0).random((2, 7, 5, 6)).astype(np.float32)
    for step in (1, 3, 7):
        found = middles((7, 5, 6), (whole[:, z : z + step] for z in range(0, 7, step)))
        for one, other in zip(found, (whole[:, 3], whole[:, :, 2], whole[..., 3]), strict=True):
            assert np.array_equal(one, other)
