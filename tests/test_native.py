"""The native engine against the definition of its network in float64: every instruction set, shape, padding, thread."""

import gc
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import cells, msd, write_tiff

import hatch_build
from medhpc import engine as engines
from medhpc import nets
from medhpc.cli.main import run_here
from medhpc.engine import BlockTooLarge, TorchEngine, native
from medhpc.engine.native import NativeEngine
from medhpc.engine.reference import by_definition
from medhpc.errors import NetworkMismatch, NoEngine
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.kernel import usable_variants, why_not_built
from medhpc.nets import MSD, Identity
from medhpc.tiling import tile

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "medhpc" / "kernel" / "src"
CPU = torch.device("cpu")
TOLERANCE = 1e-5  # of the largest score

built = pytest.mark.skipif(not usable_variants(), reason=f"no native engine: {why_not_built()}")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lively(network: MSD, seed: int = 0) -> MSD:
    """The network with biases and a last layer that are not zero; its maps keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            size = 1 / np.sqrt(p[0].numel()) if p.ndim > 2 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * size)
    return network.eval()


def truth(network: MSD, block: np.ndarray) -> np.ndarray:
    return engines.load(network, name="reference", threads=1)(block, "raw")


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_continuous_integration_has_it():
    if os.environ.get("CI") == "true":
        assert usable_variants(), why_not_built()


# --- the same as the definition ------------------------------------------------------------------


@st.composite
def networks(draw):
    ndim = draw(st.sampled_from([2, 3]))
    network = MSD(
        in_channels=draw(st.integers(1, 3)),
        out_channels=draw(st.integers(1, 4)),
        depth=draw(st.integers(1, 8)),
        width=draw(st.integers(1, 3)),
        ndim=ndim,
        dilations=draw(st.lists(st.integers(1, 12), min_size=1, max_size=6)),
        padding=draw(st.sampled_from(["reflect", "zero"])),
        window=None,
    )
    return lively(network, draw(st.integers(0, 5)))


@st.composite
def networks_and_blocks(draw, outlier=True):
    network = draw(networks())
    planes = [draw(st.integers(1, 3))] if network.ndim == 2 else []
    extra = (draw(st.integers(0, 17)) for _ in network.minimum_shape)
    shape = [least + more for least, more in zip(network.minimum_shape, extra, strict=True)]
    block = noise(network.in_channels, *planes, *shape, seed=draw(st.integers(0, 99)))
    if outlier and draw(st.booleans()):
        block.flat[draw(st.integers(0, block.size - 1))] = 1e4
    return network, block


@built
@settings(max_examples=60, deadline=None)
@given(networks_and_blocks(), st.sampled_from(usable_variants() or ("none",)), st.integers(1, 3))
def test_the_definition(case, variant, threads):
    network, block = case
    found = NativeEngine(network, threads, variant)(block, "raw")
    assert difference(found, truth(network, block)) <= TOLERANCE


@built
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MSD(1, 2, 25), (13, 31, 47)),
        (MSD(1, 2, 85), (16, 16, 16)),
        (MSD(2, 3, 12, width=2), (12, 19, 150)),  # several blocks in x
        (MSD(1, 2, 40, dilations=[1]), (3, 8, 20)),  # more targets and sources than fit the registers
        (MSD(1, 2, 6, dilations=[40, 2], padding="zero"), (4, 50, 170)),  # halos longer than a block
        (MSD(1, 2, 30, ndim=2), (2, 33, 270)),
    ],
    ids=["odd", "deep", "wide", "one dilation", "long dilation", "2D"],
)
def test_every_instruction_set(network, shape):
    network, block = lively(network), noise(network.in_channels, *shape)
    expected = truth(network, block)  # takes ten times as long as what is tested
    for variant in usable_variants():
        assert difference(NativeEngine(network, 2, variant)(block, "raw"), expected) <= TOLERANCE, variant


@built
@settings(max_examples=20, deadline=None)
@given(networks_and_blocks(outlier=False), st.sampled_from(["probability", "classes"]))
def test_probabilities(case, kind):
    network, block = case
    native, stock = (engines.load(network, name=name, device="cpu", threads=1) for name in ("native", "torch"))
    assert np.allclose(native(block, kind), stock(block, kind), atol=1e-4)


@built
def test_windows_of_the_input():
    network = lively(MSD(2, 2, 4, window=[(-0.5, 1.0), None], dilations=[1, 2]))
    block = noise(2, 6, 7, 8)
    assert difference(NativeEngine(network, 1)(block, "raw"), truth(network, block)) <= TOLERANCE


@built
@settings(max_examples=20, deadline=None)
@given(networks_and_blocks())
def test_threads_change_no_bit(case):
    network, block = case
    one, two, three = (NativeEngine(network, threads)(block, "raw") for threads in (1, 2, 3))
    assert np.array_equal(one, two) and np.array_equal(one, three)


@st.composite
def wanted_parts(draw, shape):
    """A box inside a block (z, y, x) of this shape; not empty."""
    start = [draw(st.integers(0, length - 1)) for length in shape]
    return Box(tuple(start), tuple(draw(st.integers(a + 1, length)) for a, length in zip(start, shape, strict=True)))


@built
@settings(max_examples=60, deadline=None)
@given(st.data(), networks_and_blocks(outlier=False), st.sampled_from(usable_variants() or ("none",)))
def test_a_part_of_the_result(data, case, variant):
    network, block = case
    wanted = data.draw(wanted_parts(block.shape[1:]))
    engine = NativeEngine(network, 2, variant)
    engine(np.full_like(block, np.nan), "raw")  # what a part does not depend on is left in memory as it was: NaN
    whole = truth(network, block)
    expected = whole[(slice(None), *wanted.slices)]
    found = engine(block, "raw", wanted)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(whole).max()


@built
@pytest.mark.parametrize("kind", ["raw", "probability", "classes"])
def test_a_part_of_the_result_of_a_long_row(kind):
    network, block = lively(MSD(1, 3, 13, dilations=[1, 2, 7, 40])), noise(1, 42, 45, 600)
    wanted = Box((11, 3, 37), (14, 9, 411))
    native, stock = (engines.load(network, name=name, device="cpu", threads=1) for name in ("native", "torch"))
    assert np.allclose(native(block, kind, wanted), stock(block, kind, wanted), atol=1e-4)


@built
def test_what_of_a_block_is_needed():
    engine = NativeEngine(MSD(1, 2, 3, dilations=[1, 2, 4]), 1)
    whole, corner = Box((0, 0, 0), (20, 20, 20)), Box((0, 0, 0), (4, 4, 4))
    assert engine.needed((20, 20, 20), whole) == 1
    # of layers with 1, 2 and 3 sources, as far as the dilations 2 + 4, 4 and none reach
    assert engine.needed((20, 20, 20), corner) == pytest.approx((1 * 10**3 + 2 * 8**3 + 3 * 4**3) / (6 * 20**3))
    flat = NativeEngine(MSD(1, 2, 2, ndim=2, dilations=[1, 2]), 1)
    assert flat.needed((4, 20, 20), Box((1, 5, 5), (3, 9, 9))) == pytest.approx(2 * (8**2 + 2 * 4**2) / (3 * 4 * 20**2))


@built
@settings(max_examples=20, deadline=None)
@given(networks_and_blocks(), st.sampled_from(usable_variants() or ("none",)))
def test_smaller_transforms(case, variant):
    network, block = case
    found = NativeEngine(network, 1, variant, winograd=2)(block, "raw")
    assert difference(found, truth(network, block)) <= TOLERANCE


@built
def test_smaller_transforms_round_less():
    network, block = lively(MSD(1, 2, 20)), noise(1, 16, 17, 18)
    four, two = (difference(NativeEngine(network, 1, winograd=m)(block, "raw"), truth(network, block)) for m in (4, 2))
    assert two < four


@built
def test_a_result_does_not_depend_on_what_was_computed_before():
    network = lively(MSD(1, 2, 12))
    engine, block = NativeEngine(network, 2), noise(1, 12, 20, 30)
    alone = engine(block, "raw")
    engine(np.full((1, 20, 24, 28), 1e30, np.float32), "raw")
    assert np.array_equal(engine(block, "raw"), alone)


@built
@pytest.mark.shared
def test_the_same_mask_on_real_nuclei(shared_data):
    network = nets.load(ROOT / "benchmarks" / "network.safetensors")
    with h5py.File(shared_data / "nuclei_ovule" / "1135_mini.h5") as file:
        block = file["raw"][20:80, 20:80, 20:80].astype(np.float32)[None]
    block = (block - block.mean()) / block.std()
    expected = engines.load(network, name="reference")(block, "probability") >= 0.5
    assert 0.02 < expected.mean() < 0.98
    for winograd in (4, 2):
        mask = NativeEngine(network, 2, winograd=winograd)(block, "probability") >= 0.5
        assert np.count_nonzero(mask != expected) <= mask.size / 1e5


# --- what is given -------------------------------------------------------------------------------


@built
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::2, ::-1, 3:],
        lambda a: a.transpose(0, 3, 2, 1),
        lambda a: np.broadcast_to(a[:, :1], a.shape),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: (a * 100).astype(np.int16),
        lambda a: a.astype(">f4"),
        lambda a: np.frombuffer(b"." + a.tobytes(), np.float32, offset=1).reshape(a.shape),
    ],
    ids=["steps", "turned", "repeated", "float64", "float16", "int16", "big-endian", "unaligned"],
)
def test_any_stride_and_number(view):
    engine, block = NativeEngine(lively(MSD(1, 2, 5, dilations=[1, 2])), 1), view(noise(1, 10, 11, 12))
    assert np.array_equal(engine(block, "raw"), engine(np.array(block, np.float32, order="C"), "raw"))


@built
@pytest.mark.parametrize("shape", [(1, 3, 9, 9), (2, 9, 9, 9)])
def test_a_block_that_the_network_refuses_is_refused(shape):
    with pytest.raises(NetworkMismatch):
        NativeEngine(MSD(1, 2, 4, dilations=[3]), 1)(noise(*shape), "raw")


@built
@pytest.mark.parametrize("shape", [(1, 1000, 10_000, 40_000), (1, 2000, 40_000, 40_000)], ids=["maps", "result too"])
def test_too_little_memory_is_said(shape):
    with pytest.raises(BlockTooLarge):
        NativeEngine(MSD(1, 2, 100), 1)(np.broadcast_to(np.float32(0), shape), "classes")


# --- which engine --------------------------------------------------------------------------------


@built
def test_auto_is_native_for_msd_on_a_cpu():
    assert engines.load(msd(), device="cpu").name == "native"
    assert engines.load(Identity(), device="cpu").name == "torch"
    assert engines.load(msd().double(), device="cpu").name == "torch"


def test_an_engine_that_cannot_be_had_is_refused(monkeypatch):
    with pytest.raises(NoEngine, match="MS-D networks only; plan with --engine torch"):
        engines.load(Identity(), name="native")
    with pytest.raises(NoEngine, match="computes on CPUs"):
        engines.load(msd(), name="native", device="cuda")
    monkeypatch.setattr(native, "why_not_built", lambda: "no C++ compiler was found")
    with pytest.raises(NoEngine, match="no C\\+\\+ compiler"):
        engines.load(msd(), name="native")
    assert engines.load(msd(), device="cpu").name == "torch"


def test_a_run_is_computed_by_the_engine_of_its_plan(tmp_path, monkeypatch, quick_measure):
    volume = write_tiff(tmp_path / "volume.tif", cells((12, 20, 20)))
    network, run = msd(), tmp_path / "run"
    plan = tile(volume, run, network=network, engine="torch", device="cpu", threads=1, tile=(12, 20, 10), halo="exact")
    assert plan.cost.engine == "torch"
    names = []
    monkeypatch.setattr(engines, "load", lambda network, *, name, **_: names.append(name) or TorchEngine(network, CPU))
    assert infer(run, network=network).computed == 2
    assert names == ["torch"]


@built
def test_a_machine_without_the_engine_of_the_plan_says_so(tmp_path, monkeypatch, quick_measure):
    volume = write_tiff(tmp_path / "volume.tif", cells((12, 20, 20)))
    network, run = msd(), tmp_path / "run"
    assert tile(volume, run, network=network, device="cpu", threads=1, halo=2).cost.engine == "native"
    monkeypatch.setattr(native, "why_not_built", lambda: "no compiler was found")
    with pytest.raises(NoEngine, match="'native' cannot be used here: no compiler was found; plan with --engine torch"):
        infer(run, network=network, device="cpu")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_lists_every_engine(as_json, capsys):
    assert run_here(["engines", "--depth", "2", "--threads", "1", *["--json"] * as_json]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in engines.NAMES)
    if as_json:
        assert {each["engine"] for each in json.loads(out)["engines"]} == set(engines.NAMES)


@built
@pytest.mark.parametrize("ndim", [2, 3])
def test_memory_is_told_before(ndim):
    engine, shape = NativeEngine(MSD(1, 2, 30, ndim=ndim), 2), (40, 64, 80)
    maps = 4 * (1 + 30) * np.prod(shape[-ndim:])
    assert maps < engine.bytes(shape) < 4 * maps + 2**22 + 8 * np.prod(shape)


# --- calls from everywhere -----------------------------------------------------------------------


@built
def test_several_engines_in_several_threads():
    pairs = [(lively(MSD(1, 2, 6 + k), seed=k), noise(1, 14, 15, 16, seed=k)) for k in range(4)]
    evaluators = [NativeEngine(network, 2) for network, _ in pairs]
    alone = [engine(block, "raw") for engine, (_, block) in zip(evaluators, pairs, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        order = [k % 4 for k in range(40)]
        found = list(pool.map(lambda k: evaluators[k](pairs[k][1], "raw"), order))
    assert all(np.array_equal(values, alone[k]) for values, k in zip(found, order, strict=True))


def _in_child(engine: NativeEngine, block: np.ndarray, expected: np.ndarray) -> None:
    os._exit(0 if np.array_equal(engine(block, "raw"), expected) else 1)


@built
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork_and_during_a_call():
    engine, block = NativeEngine(lively(MSD(1, 2, 12)), 2), noise(1, 40, 48, 50)
    expected = engine(block, "raw")
    busy = threading.Thread(target=lambda: [engine(block, "raw") for _ in range(10)])
    busy.start()
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_in_child, args=(engine, block, expected)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    busy.join()
    assert [child.exitcode for child in children] == [0] * 4


class _Blocks(torch.utils.data.Dataset):
    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> np.ndarray:
        return self.engine(noise(1, 8, 9, 10, seed=index), "raw")


@built
def test_in_a_worker_of_a_data_loader():
    blocks = _Blocks(NativeEngine(lively(MSD(1, 2, 5, dilations=[1, 2])), 2))
    loader = torch.utils.data.DataLoader(blocks, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert all(np.array_equal(found, blocks[k]) for k, found in enumerate(loader))


@built
def test_a_thousand_calls_leave_nothing_behind():
    block = noise(1, 12, 13, 14)

    def calls(number: int) -> int:
        for k in range(number // 10):
            engine = NativeEngine(MSD(1, 2, 11), 1 + k % 3)
            for _ in range(10):
                engine(block, "classes")
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = calls(100)
    assert calls(1000) - before < 4096  # KiB; one call takes 600


# --- the C++ itself ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", *usable_variants()[:1]])
def test_sanitizers_find_nothing(tmp_path, variant):
    compiler = shutil.which("c++") or shutil.which("g++")
    if not compiler:
        pytest.skip("no C++ compiler")
    if platform.machine() != "x86_64" and variant != "baseline":
        pytest.skip("an instruction set of x86-64")
    # Not optimised: nothing is removed that could be wrong, and to compile it takes a quarter of the time of -O1 -g.
    watched = ["-O0", "-g1", "-std=c++17", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    driver = [str(ROOT / "tests" / "native_driver.cpp"), "-I", str(SOURCES), "-o", str(tmp_path / "driver")]
    subprocess.run([compiler, *watched, *hatch_build.X86[variant], *driver], check=True)
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(SOURCES.parent, folder / "kernel", ignore=shutil.ignore_patterns("*.so")))


def test_without_a_compiler_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler was found" in hatch_build.build(_copied(tmp_path))


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'fatal error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    folder = _copied(tmp_path)
    assert "out of order" in hatch_build.build(folder)
    assert not list(folder.glob("*.so")) + list(folder.glob("*.tmp"))


def test_the_reference_is_the_definition():
    network, block = lively(MSD(1, 2, 3, dilations=[1, 2])), noise(1, 5, 6, 7)
    expected = by_definition(network.double(), torch.from_numpy(block)[None].double())[0]
    assert difference(truth(network, block), expected.detach().numpy()) < 1e-6
