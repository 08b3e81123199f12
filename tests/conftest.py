"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A deadline tells how busy the machine is, not what is wrong.
settings.register_profile("medhpc", deadline=None)
settings.load_profile("medhpc")

# Which engine is the fastest depends on the machine, what is tested does not.
os.environ["MEDHPC_ENGINE"] = "native"

# What takes longest begins first: whatever is left at the end, all cores share.
LONGEST = (
    "slurm",
    "test_benchmarks.py",
    "test_dip_ranks.py",
    "test_faults.py",
    "test_native.py",
    "test_stitch_dask.py",
)

SHARED = Path(os.environ.get("MEDHPC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden files anew; look at their differences")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process per core, and one more: that of tests/slurm mostly waits for its cluster."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process of pytest-xdist a file at a time, and one of them all of tests/slurm: they share a cluster.

    (``--dist loadgroup`` would do the latter, but its groups are lost with pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False  # not the file of most tests first, but as below
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the processes of pytest-xdist, put what takes longest first."""
    if hasattr(config, "workerinput"):
        order = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(Path(scope(item.nodeid)).name, len(order)))


def scope(nodeid: str) -> str:
    """What runs in one process, one after the other: a file, or all of tests/slurm."""
    file = nodeid.partition("::")[0]
    return "slurm" if Path(file).parent.name == "slurm" else file


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; tests that need it are marked `shared` and skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no real images here (set MEDHPC_SHARED_DATA)")
    return SHARED


@pytest.fixture(scope="module")
def quick_measure() -> Iterator[None]:
    """Let `tile` believe in a cost instead of measuring the network: that takes a second a plan."""
    from medhpc.engine import Cost, Engine

    with pytest.MonkeyPatch.context() as patch:
        cost = Cost(seconds_per_voxel=1e-6, bytes_per_voxel=100.0)
        patch.setattr(Engine, "measure", lambda *_: cost)
        yield


@pytest.fixture(scope="module")
def quick_disk() -> Iterator[None]:
    """Do not wait for the disk, where a test is not about crashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
