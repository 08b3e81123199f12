"""Which engine `auto` means: what is named, else the fastest, which is measured once."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import platformdirs
import pytest
import torch
from samples import cells, msd, write_tiff

from medhpc import engine as engines
from medhpc.cli import run_options
from medhpc.engine import choice, fastest
from medhpc.errors import BadOption, NoEngine
from medhpc.kernel import usable_variants
from medhpc.nets import MSD, Identity
from medhpc.tiling import tile

SECONDS = {"native": 3.0, "torch": 2.0, "openvino": 1.0}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The file of measures, in an empty folder; auto is not told which engine to take, and all three are here."""
    monkeypatch.delenv("MEDHPC_ENGINE")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(choice, "why_not", lambda *_: "")
    return tmp_path / "cache" / "engines.json"


@pytest.fixture
def measures(monkeypatch) -> list[MSD]:
    """Do not measure, but say `SECONDS`, and keep what would have been measured."""
    measured = []

    def measure(network, names, make, threads):
        measured.append(network)
        return {name: SECONDS[name] for name in names}

    monkeypatch.setattr(fastest, "measure", measure)
    return measured


def automatic(network: torch.nn.Module, threads: int = 1, device: str = "cpu") -> str:
    return choice._automatic(network, device, threads)


def test_auto_is_the_fastest_and_measured_once(cache, measures):
    assert [automatic(msd(4)), automatic(msd(4, seed=1)), automatic(msd(7))] == ["openvino"] * 3
    assert len(measures) == 1  # depths of 4 and 7 are of one kind
    assert json.loads(cache.read_text()).popitem()[1] == SECONDS


@pytest.mark.parametrize(
    "other",
    [
        lambda: automatic(msd(), threads=2),
        lambda: automatic(msd(ndim=2)),
        lambda: automatic(msd(depth=16)),
        lambda: automatic(MSD(1, 2, 3, width=2, dilations=(1, 2, 3))),
        lambda: automatic(msd(inputs=2)),
        lambda: automatic(msd(dilations=(1,))),
    ],
)
def test_another_kind_is_measured_by_itself(cache, measures, other):
    automatic(msd())
    other()
    assert len(measures) == 2 == len(json.loads(cache.read_text()))


@pytest.mark.parametrize("what", ["_processor", "library_path", "usable_variants"])
def test_another_machine_or_kernel_is_measured_by_itself(cache, measures, monkeypatch, tmp_path, what):
    (tmp_path / "kernel").write_bytes(b"other")
    others = {
        "_processor": lambda: "abacus",
        "library_path": lambda _: tmp_path / "kernel",
        "usable_variants": lambda: (),
    }
    if what == "library_path" and not usable_variants():
        pytest.skip("no native engine")
    fastest._machine.cache_clear()
    automatic(msd())
    monkeypatch.setattr(fastest, what, others[what])
    fastest._machine.cache_clear()
    automatic(msd())
    fastest._machine.cache_clear()
    assert len(measures) == (1 if what == "usable_variants" and not usable_variants() else 2)


def test_an_engine_that_came_later_is_measured(cache, measures, monkeypatch):
    monkeypatch.setattr(choice, "why_not", lambda name, _: "it was not here" * (name == "openvino"))
    assert automatic(msd()) == "torch"
    monkeypatch.setattr(choice, "why_not", lambda *_: "")
    assert automatic(msd()) == "openvino"


def test_an_engine_alone_is_not_measured(cache, measures, monkeypatch):
    monkeypatch.setattr(choice, "why_not", lambda name, _: "it is not here" * (name != "torch"))
    assert automatic(msd()) == automatic(Identity()) == "torch"
    assert not measures and not cache.exists()


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff", b"7", b'{"a": 1, "b": {"native": "fast"}}', b'{"a": {"native": 1.0}}']
)
def test_a_damaged_cache_is_written_anew(cache, measures, content):
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert automatic(msd()) == automatic(msd()) == "openvino"
    assert len(measures) == 1 and SECONDS in json.loads(cache.read_text()).values()


def test_a_cache_of_another_kind_of_value_is_measured_again(cache, measures):
    automatic(msd())
    cache.write_text(cache.read_text().replace("3.0", '"quick"'))
    automatic(msd())
    assert len(measures) == 2


def test_a_cache_that_cannot_be_written_is_no_error(cache, measures):
    cache.parent.write_text("in the way")
    assert automatic(msd()) == automatic(msd()) == "openvino"
    assert len(measures) == 2


def test_the_cache_does_not_grow_for_ever(cache, measures, monkeypatch):
    monkeypatch.setattr(fastest, "KEPT", 2)
    for threads in (1, 2, 3):
        automatic(msd(), threads)
    assert len(json.loads(cache.read_text())) == 2
    automatic(msd(), 3)
    assert len(measures) == 3
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


# --- what is named -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["native", "torch", "reference"])
def test_the_variable_says_what_auto_is(cache, measures, monkeypatch, name):
    monkeypatch.setenv("MEDHPC_ENGINE", name)
    assert automatic(msd()) == name and not measures


def test_the_variable_holds_where_it_can(monkeypatch):
    monkeypatch.setenv("MEDHPC_ENGINE", "reference")
    assert engines.load(msd(), device="cpu").name == "reference"
    assert engines.load(Identity(), device="cpu").name == "torch"
    assert engines.load(msd(), name="torch", device="cpu").name == "torch"
    assert automatic(msd(), device="cuda") == "torch"


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("MEDHPC_ENGINE", "fast")
    with pytest.raises(BadOption, match="MEDHPC_ENGINE is 'fast', not one of auto, native"):
        engines.load(msd(), device="cpu")


def test_a_gpu_is_for_torch(cache, measures, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert automatic(msd(), device="auto") == "torch" and not measures
    assert automatic(msd(), device="cpu") == "openvino"


def test_the_command_line_knows_every_engine():
    @run_options.tile_options
    def nothing() -> None:
        """Carries the options."""

    option = next(option for option in nothing.__click_params__ if option.name == "engine")
    assert isinstance(option.type, click.Choice)
    assert sorted(option.type.choices) == sorted(["auto", *engines.NAMES])


@pytest.mark.parametrize("name", engines.NAMES)
def test_plans_know_which_engines_use_gpus(name, tmp_path, quick_measure):
    if choice.why_not(name, msd()):
        pytest.skip(choice.why_not(name, msd()))
    volume = write_tiff(tmp_path / "volume.tif", cells((8, 12, 20)))
    plan = tile(volume, tmp_path / "run", network=msd(), engine=name, device="cpu", threads=1, halo=2)
    assert plan.cost.engine == name
    refused = False
    try:
        engines.load(msd(), name=name, device="cuda")
    except NoEngine:
        refused = True
    except Exception as error:  # no GPU is here
        assert name == "torch", error
    assert refused is not plan.cost.can_use_gpus


# --- the measure itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        MSD(1, 2, 100),
        MSD(3, 4, 40, width=7),
        MSD(1, 1, 2, width=100),
        MSD(1, 2, 6, dilations=[400, 1], padding="zero"),
        MSD(1, 2, 80, ndim=2),
    ],
    ids=str,
)
def test_what_is_measured_is_small_and_of_the_same_kind(network):
    example = fastest.example_of(network)
    assert fastest.kind_of(example, 1) == fastest.kind_of(network, 1)
    assert len(example.dilations) <= fastest.MAPS and max(example.dilations) <= fastest.DILATION
    shape = fastest._block_shape(example, 1)
    assert example.n_flops(math.prod(shape)) <= 2 * fastest.FLOPS


def test_random_numbers_of_the_user_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fastest.example_of(msd())
    assert torch.equal(torch.rand(4), expected)


def test_every_engine_that_is_here_is_measured():
    names = [name for name in choice.TRIED if not choice.why_not(name, msd())]
    example = fastest.example_of(msd())
    seconds = fastest.measure(example, names[:2], lambda name, network: choice._on_cpu(name, network, 1), 1)
    assert names[0] in seconds and all(0 < s < math.inf for s in seconds.values())


@pytest.mark.parametrize("error", [ImportError("no such symbol"), RuntimeError("bad plug-in"), OSError("no library")])
def test_an_engine_that_is_broken_is_not_the_fastest(cache, error):
    def make(name, network):
        if name == "openvino":
            raise error
        return lambda block, kind: np.zeros(1)

    assert fastest.fastest(msd(), ["openvino", "torch"], make, 1) == "torch"
    assert fastest.fastest(msd(), ["openvino", "torch"], pytest.fail, 1) == "torch"  # it is remembered


def test_on_a_busy_machine_the_rest_is_not_tried_nor_remembered(cache, monkeypatch):
    monkeypatch.setattr(fastest, "PATIENCE", -1.0)
    tried = []

    def make(name, network):
        tried.append(name)
        return lambda block, kind: np.zeros(1)

    monkeypatch.setattr(fastest, "_least_seconds", lambda *_: 1.0)
    monkeypatch.setattr(fastest.time, "monotonic", iter(range(100)).__next__)
    monkeypatch.setattr(fastest, "PATIENCE", 1.5)
    assert fastest.fastest(msd(), ["native", "torch", "openvino"], make, 1) == "native"
    assert tried == ["native"] and not cache.exists()


def test_the_command_line_starts_without_measuring(tmp_path):
    variables = {**os.environ, "MEDHPC_ENGINE": "", "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "medhpc", "--help"], env=variables, check=True, capture_output=True)
    assert not list(tmp_path.rglob("engines.json"))
