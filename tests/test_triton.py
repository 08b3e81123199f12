"""The engine for GPUs: its schedule here, its kernels by Triton's interpreter, their compilation without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from samples import msd
from test_native import networks

from medhpc import engine as engines
from medhpc.engine import choice, triton
from medhpc.engine.gpu.schedule import LANES, Head, Push, schedule_of
from medhpc.engine.gpu.weights import columns_of, head_weights, push_weights, taps_of
from medhpc.errors import NoEngine
from medhpc.nets import MSD, Identity

TESTS = Path(__file__).parent
needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def run(*command: str, interpret: str, folder: Path) -> str:
    """Of a process of its own: Triton decides when it is imported whether it interprets."""
    variables = {**os.environ, "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(folder)}
    variables |= {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- the kernels ---------------------------------------------------------------------------------


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("interpret", ["1", pytest.param("0", marks=needs_gpu)])
def test_the_kernels_compute_what_the_definition_says(interpret, tmp_path):
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS / "triton_cases.py"))
    assert " passed" in run("-m", "pytest", *options, interpret=interpret, folder=tmp_path)


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    lines = run(str(TESTS / "triton_compiled.py"), interpret="0", folder=tmp_path).splitlines()
    assert len(lines) == 3
    assert all(int(line.split()[2]) <= 99 * 1024 for line in lines)  # what a program may have on any of them


# --- the schedule --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(networks())
def test_by_the_schedule_every_map_gets_all_its_parts_in_time(network):
    """Walk through the schedule with sets of channels in place of numbers."""
    schedule = schedule_of(network, 32 // taps_of(network))
    ring = dict(enumerate(range(network.in_channels)))  # slot -> channel
    sums: dict[int, tuple[int, set[int]]] = {}  # place -> (map, channels that are in its sum)
    scored: list[int] = []
    for step in schedule.steps:
        read = list(range(step.first, step.stop))
        assert all(ring[c % (schedule.blocks * LANES)] == c for c in read)
        if isinstance(step, Head):
            scored += read
            continue
        for k, (m, place) in enumerate(zip(step.targets, step.places, strict=True)):
            owner, parts = (m, set()) if step.fresh else sums[place]
            assert owner == m and network.dilations[m] == step.dilation and not parts & set(read)
            parts = parts | set(read)
            if k < step.own:
                assert parts == set(range(network.in_channels + m // network.width * network.width))
                ring[(network.in_channels + m) % (schedule.blocks * LANES)] = network.in_channels + m
            else:
                assert place < schedule.sums
                sums[place] = m, parts
    assert scored == list(range(network.in_channels + len(network.dilations)))


@settings(max_examples=30)
@given(networks())
def test_the_packed_weights_are_all_weights(network):
    schedule = schedule_of(network, 32 // taps_of(network))
    packed = {id(step): push_weights(network, schedule, step) for step in schedule.steps if isinstance(step, Push)}
    total = sum(weights.double().square().sum() for weights in packed.values()) / taps_of(network)
    assert torch.isclose(total, sum(w.double().square().sum() for w in network.weights))  # once in each turn
    assert all(weights.shape[-1] in (16, 32) for weights in packed.values())
    heads = [head_weights(network, schedule, step) for step in schedule.steps if isinstance(step, Head)]
    assert torch.isclose(sum(w.double().sum() for w in heads), network.head_weight.double().sum())


def test_the_published_network_needs_one_block_of_the_ring():
    network = MSD(1, 2, 85)
    schedule = schedule_of(network, 10)
    assert schedule.blocks == 1 and schedule.sums == 75
    assert {columns_of(len(step.targets), network) for step in schedule.steps if isinstance(step, Push)} == {16, 32}


# --- who takes it --------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("name", ["triton", "triton-f32"])
def test_without_a_gpu_it_says_why_not(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(NoEngine, match=r"cannot be used here: .*; plan with --engine torch"):
        engines.load(msd(), name=name)
    monkeypatch.setenv("MEDHPC_ENGINE", name)
    assert engines.load(msd(), device="cpu").name == "torch"


def test_reasons(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "MS-D networks only" in triton.why_not_triton(Identity())
    assert "float64" in triton.why_not_triton(msd().double())
    assert "not on CPUs" in choice.why_not("triton", msd())
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda _: None)
    assert "comes with torch" in triton.why_not_triton(msd())


def test_a_gpu_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert "older than compute capability 8.0" in triton.why_not_triton(msd())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert triton.why_not_triton(msd()) == ""


def test_auto_on_a_gpu_is_still_torch(monkeypatch):
    monkeypatch.delenv("MEDHPC_ENGINE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choice._automatic(msd(), "auto", 1) == "torch"
    monkeypatch.setenv("MEDHPC_ENGINE", "triton")
    monkeypatch.setattr(choice, "why_not_triton", lambda *_: "")
    assert choice._automatic(msd(), "auto", 1) == "triton"
