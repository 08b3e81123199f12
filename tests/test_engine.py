"""All engines alike: arrays in, arrays out, and honest about memory; which one is taken."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from samples import cells, msd, write_tiff
from test_native import difference, lively, networks_and_blocks, truth
from torch import nn

from medhpc import engine as engines
from medhpc.cli.main import run_here
from medhpc.engine import BlockTooLarge, choice, threads
from medhpc.errors import BadOption, MedhpcError, NetworkMismatch, NoDevice
from medhpc.nets import MSD, Foreign, Identity
from medhpc.nets.kernel import without_kernel

CPU = {"device": "cpu", "threads": 1}
every_engine = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(bool(choice.why_not(name, msd())), reason=choice.why_not(name, msd()))
        )
        for name in engines.NAMES
    ],
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Calling(nn.Module):
    """A network whose forward pass is a function of the test."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def foreign(function, outputs: int = 1, ndim: int = 3) -> Foreign:
    return Foreign(Calling(function), in_channels=1, out_channels=outputs, ndim=ndim, halo=0)


def test_raw_is_what_the_network_says():
    network, block = msd(outputs=3), noise(1, 9, 10, 11)
    with torch.inference_mode(), without_kernel():
        expected = network(torch.from_numpy(block)[None])[0].numpy()
    assert np.array_equal(engines.load(network, name="torch", **CPU)(block, "raw"), expected)


@every_engine
@settings(max_examples=30)
@given(case=networks_and_blocks())
def test_every_engine_says_what_the_definition_says(name, case):
    network, block = case
    assert difference(engines.load(network, name=name, **CPU)(block, "raw"), truth(network, block)) <= 1e-5


@every_engine
@pytest.mark.parametrize(
    "options", [{"depth": 25}, {"depth": 12, "width": 3, "padding": "zero"}, {"depth": 30, "ndim": 2}], ids=str
)
def test_every_engine_on_deeper_networks(name, options):
    network = lively(MSD(2, 3, **options))
    block = noise(2, 13, 21, 34)
    assert difference(engines.load(network, name=name, **CPU)(block, "raw"), truth(network, block)) <= 1e-5


@every_engine
def test_every_engine_takes_the_window_and_any_shape_in_turn(name):
    network = lively(MSD(2, 2, 4, window=[(-0.5, 1.0), None], dilations=[1, 2]))
    engine = engines.load(network, name=name, **CPU)
    for shape in [(6, 7, 8), (3, 9, 4), *[(5, 5, n) for n in range(3, 14)], (6, 7, 8)]:
        block = noise(2, *shape)
        assert difference(engine(block, "raw"), truth(network, block)) <= 1e-5


@every_engine
@pytest.mark.parametrize("outputs", [2, 3, 7])
def test_probabilities_are_a_softmax(name, outputs):
    engine, block = engines.load(msd(outputs=outputs), name=name, **CPU), noise(1, 8, 8, 8)
    scores = engine(block, "raw").astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(axis=0)
    classes = engine(block, "classes")
    assert np.allclose(classes, expected, atol=1e-6)
    assert np.array_equal(engine(block, "probability"), classes[1:])  # without the background


@every_engine
@pytest.mark.parametrize("kind", ["probability", "classes"])
def test_one_output_is_a_sigmoid(name, kind):
    engine, block = engines.load(msd(outputs=1), name=name, **CPU), noise(1, 8, 8, 8)
    expected = 1 / (1 + np.exp(-engine(block, "raw").astype(np.float64)))
    assert np.allclose(engine(block, kind), expected, atol=1e-6)


def test_half_precision_scores_give_float32_probabilities():
    engine = engines.load(foreign(lambda x: torch.cat([x, -x], 1).half(), outputs=2), **CPU)
    assert engine(noise(1, 4, 4, 4), "raw").dtype == np.float16
    assert engine(noise(1, 4, 4, 4), "probability").dtype == np.float32


@every_engine
def test_a_2d_network_sees_every_plane_by_itself(name):
    engine, block = engines.load(msd(ndim=2), name=name, **CPU), noise(1, 5, 12, 13)
    planes = [engine(block[:, z : z + 1], "raw") for z in range(5)]
    assert np.array_equal(engine(block, "raw"), np.concatenate(planes, axis=1))


@every_engine
def test_a_block_that_the_network_refuses_is_refused(name):
    engine = engines.load(msd(dilations=(3,)), name=name, **CPU)
    for shape in [(1, 3, 9, 9), (2, 9, 9, 9)]:
        with pytest.raises(NetworkMismatch):
            engine(noise(*shape), "raw")


@every_engine
def test_memory_and_time_of_every_engine_are_measured(name):
    cost = engines.load(msd(6), name=name, **CPU).measure(1, seconds=0.1)
    assert cost.seconds_per_voxel > 0
    assert cost.bytes_per_voxel >= 4 * 6  # its maps


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
def test_identity_leaves_numbers_and_dtype_alone(dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    block = np.array([info.min, info.max, 0, 1, 2, 3], dtype).reshape(1, 1, 2, 3)
    result = engines.load(Identity(), **CPU)(block, "raw")
    assert result.dtype == block.dtype and np.array_equal(result, block)


# --- memory --------------------------------------------------------------------------------------


def _raise(error: Exception):
    def forward(_):
        raise error

    return forward


@pytest.mark.parametrize(
    "function",
    [
        _raise(torch.OutOfMemoryError("CUDA out of memory")),
        _raise(MemoryError()),
        lambda x: x + torch.empty(2**56, dtype=torch.uint8)[0],  # the allocator itself refuses
    ],
)
def test_too_little_memory_is_told_from_other_errors(function):
    engine = engines.load(foreign(function), **CPU)
    with pytest.raises(BlockTooLarge):
        engine(noise(1, 4, 4, 4), "raw")


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("name", ["native", "openvino"])
def test_too_little_memory_for_a_compiled_network(name):
    if choice.why_not(name, msd()):
        pytest.skip(choice.why_not(name, msd()))
    with pytest.raises(BlockTooLarge):
        engines.load(msd(), name=name, **CPU)(np.broadcast_to(np.float32(0), (1, 2000, 20000, 20000)), "raw")


def test_other_errors_are_not_taken_for_too_little_memory():
    engine = engines.load(foreign(_raise(RuntimeError("a bug"))), **CPU)
    with pytest.raises(RuntimeError, match="a bug"):
        engine(noise(1, 4, 4, 4), "raw")


def test_the_measured_memory_is_what_a_voxel_takes():
    def wasteful(x):
        copies = [x.clone() for _ in range(100)]  # 400 bytes a voxel
        return sum(copies) / 100

    cost = engines.load(foreign(wasteful), **CPU).measure(1)
    assert 340 <= cost.bytes_per_voxel <= 450  # what was resident before may be used again
    assert cost.seconds_per_voxel > 0


def test_more_work_costs_more_time():
    small, large = (engines.load(msd(depth), **CPU).measure(1, seconds=0.3) for depth in (2, 20))
    assert large.seconds_per_voxel > 2 * small.seconds_per_voxel
    assert large.bytes_per_voxel > 2 * small.bytes_per_voxel


@pytest.mark.parametrize(
    ("network", "channels"), [(Identity(), 3), (msd(ndim=2, inputs=2), 2), (msd(dilations=(40,)), 1)]
)
def test_any_network_can_be_measured(network, channels):
    assert engines.load(network, **CPU).measure(channels, seconds=0.1).seconds_per_voxel > 0


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["tpu", "", "cpu:x", "gpu", "mps"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(BadOption, match="auto, cpu, cuda"):
        engines.load(Identity(), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "cuda:x"])
def test_a_gpu_that_is_not_there_is_refused(device):
    with pytest.raises(NoDevice, match="--device cpu"):
        engines.load(Identity(), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("device", ["cuda:99", "cuda:x"])
def test_a_wrong_gpu_is_refused(device):
    with pytest.raises(MedhpcError):
        engines.load(Identity(), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_agrees_with_the_cpu():
    block = noise(1, 40, 48, 56)
    on_cpu, on_gpu = (engines.load(msd(12), device=device)(block, "probability") for device in ("cpu", "cuda"))
    assert np.allclose(on_cpu, on_gpu, atol=2e-3)


@pytest.mark.parametrize("engine", ["torch", "reference"])
@pytest.mark.parametrize("seen", [False, True])
def test_a_gpu_that_the_plan_leaves_idle_is_told_of(engine, seen, tmp_path, monkeypatch, capsys, quick_measure):
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("volume.tif"), cells((8, 12, 20)))
    msd().save("net.safetensors")
    options = ("--engine", engine, "--device", "cpu", "--tile", "8,12,10", "--halo", "2")
    assert run_here(["tile", "volume.tif", "run", "--network", "net.safetensors", *options]) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    share = ("--missing", "list.json", "--task", "1/1")
    assert run_here(["infer", "run", "--device", "cpu", *share]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (seen and engine != "torch")
    assert all("medhpc: note: a GPU is here" in line and "plan again with --engine torch" in line for line in told)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(threads):
    with pytest.raises(BadOption, match="at least 1"):
        engines.load(Identity(), threads=threads)


def test_as_many_threads_as_asked_for():
    assert engines.load(Identity(), device="cpu", threads=1).threads == torch.get_num_threads() == 1


@pytest.mark.parametrize(("given", "expected"), [("1", 1), ("4", 4), ("99", 8), ("", 8), ("many", 8)])
def test_threads_are_those_of_the_task(given, expected, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_quota", lambda: math.inf)
    assert threads.usable_threads() == expected


@pytest.mark.parametrize(("sharing", "expected"), [("2", 4), ("3", 2), ("9", 1), ("0", 8), ("no", 8)])
def test_processes_of_torchrun_share_the_cores(sharing, expected, monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_quota", lambda: math.inf)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", sharing)
    assert threads.usable_threads() == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("odd", 8), (None, 8)]
)
def test_threads_are_not_more_than_the_control_group_allows(text, expected, tmp_path, monkeypatch):
    if text:
        (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert threads.usable_threads() == expected
