"""The kernels for GPUs against the definition of the network in float64, on tiny volumes.

Collected only where it is named: :mod:`test_triton` runs it by Triton's interpreter, in a process of its own, and once
more on a GPU where there is one.
"""

import numpy as np
import pytest
import torch
from samples import cells, stored, whole, write_tiff
from test_native import difference, lively, noise, truth

from medhpc import engine as engines
from medhpc.engine import BlockTooLarge, triton
from medhpc.engine.gpu import evaluate
from medhpc.engine.gpu.evaluate import GpuNetwork, Tile
from medhpc.errors import NetworkMismatch, OutOfRange
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.nets import MSD
from medhpc.tiling import tile

DEVICE = torch.device("cpu" if triton.interpreted() else "cuda")
TOLERANCE = {"triton": 3e-3, "triton-f32": 2e-6}  # of the largest score
both = pytest.mark.parametrize("name", list(TOLERANCE))

# Each a network and the shape of a block.
CASES = {
    "volume": (MSD(1, 2, 3, dilations=[1, 2]), (5, 6, 7)),
    "zero padding": (MSD(1, 1, 3, dilations=[2, 3], padding="zero"), (2, 5, 4)),
    "several tiles": (MSD(1, 3, 1, dilations=[1]), (2, 5, 33)),
    "width and inputs": (MSD(2, 2, 2, width=3, dilations=[1, 2]), (3, 3, 4)),
    "more targets than columns": (MSD(1, 2, 11, dilations=[1]), (2, 2, 3)),
    "a ring written over": (MSD(1, 2, 20, ndim=2, dilations=[1]), (1, 2, 3)),
    "a ring of several blocks": (MSD(17, 2, 2, width=9, ndim=2, dilations=[2, 1]), (1, 4, 4)),
    "planes": (MSD(2, 2, 3, ndim=2, dilations=[1, 4], padding="zero"), (3, 2, 33)),
    "long dilation": (MSD(1, 2, 2, ndim=2, dilations=[10, 7]), (1, 11, 35)),
    "window": (MSD(1, 2, 2, dilations=[1], window=[(-0.5, 1.0)]), (2, 3, 4)),
}


@both
@pytest.mark.parametrize("case", CASES)
def test_the_definition(name, case):
    network, shape = CASES[case]
    block = noise(network.in_channels, *shape)
    engine = triton.TritonEngine(lively(network), DEVICE, name)
    found, expected = engine(block, "raw"), truth(network, block)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert difference(found, expected) <= TOLERANCE[name]


def test_a_program_takes_planes_in_chunks(monkeypatch):
    monkeypatch.setattr(evaluate, "CHUNK", 2)
    network, block = lively(MSD(1, 2, 1, dilations=[2])), noise(1, 7, 3, 3)
    found = GpuNetwork(network, DEVICE, torch.float32, Tile(rows=2, columns=8)).scores(
        torch.from_numpy(block).to(DEVICE)
    )
    assert difference(found.cpu().numpy(), truth(network, block)) <= 2e-6


def test_the_wanted_part_is_that_part_of_the_whole():
    network, block = lively(MSD(1, 2, 1, dilations=[1])), noise(1, 4, 5, 6)
    engine = triton.TritonEngine(network, DEVICE)
    wanted = Box((1, 0, 2), (3, 4, 6))
    assert np.array_equal(engine(block, "classes", wanted), engine(block, "classes")[(slice(None), *wanted.slices)])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_float16_has_an_end():
    network, block = lively(MSD(1, 2, 1, dilations=[1])), noise(1, 3, 3, 3)
    for large in (block * 1e5, block * 4e4):  # an input, a map
        with pytest.raises(OutOfRange, match="--engine triton-f32"):
            triton.TritonEngine(network, DEVICE)(large, "raw")
    exact = triton.TritonEngine(network, DEVICE, "triton-f32")(block * 1e5, "raw")
    assert difference(exact, truth(network, block * 1e5)) <= 2e-6


def test_a_block_that_the_network_refuses_is_refused():
    engine = triton.TritonEngine(MSD(1, 2, 1, dilations=[3]), DEVICE)
    for shape in [(1, 3, 9, 9), (2, 9, 9, 9)]:
        with pytest.raises(NetworkMismatch):
            engine(noise(*shape), "raw")


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_run_names_it_and_its_tiles_are_the_whole(name, tmp_path, quick_measure, quick_disk):
    volume, network = cells((2, 3, 6)), lively(MSD(1, 2, 1, dilations=[1]))
    path = write_tiff(tmp_path / "volume.tif", volume)
    options = {"network": network, "engine": name, "device": DEVICE.type, "store": "raw", "threads": 1}
    plan = tile(path, tmp_path / "run", tile=(2, 3, 3), halo="exact", **options)
    assert plan.cost.engine == name and plan.cost.can_use_gpus and len(plan.grid) == 2
    infer(tmp_path / "run", network=network, device=DEVICE.type, threads=1)
    found = stored(tmp_path / "run")
    assert difference(found, whole(network, volume)) <= TOLERANCE[name]


def test_a_block_that_the_card_cannot_hold_is_not_begun(monkeypatch):
    engine = triton.TritonEngine(MSD(1, 2, 1, dilations=[1]), DEVICE)
    engine.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    with pytest.raises(BlockTooLarge, match="1,200 are free"):
        engine._scores(torch.zeros(1, 4, 4, 4))


def test_it_is_loaded_by_name_and_its_memory_is_known():
    engine = engines.load(lively(MSD(1, 2, 12)), name="triton-f32", device=DEVICE.type)
    assert engine.name == "triton-f32" and not engine.sweeps
    maps, sums, scores = 16 * 4, 2 * 4, 2 * 4
    assert engine._kernels.bytes((3, 5, 16)) == (maps + sums + scores) * 3 * 5 * 16
