"""Private SLURM clusters for the tests of this folder.

All these tests run in one process of pytest-xdist (see ../conftest.py): they share a cluster, and they mostly wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import accounting
import pytest
from cluster import Cluster, missing_programs
from configuration import Options
from scenario import TILES, Planned, Scenario, plan

from medhpc.jobs import packing


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip where SLURM is missing; fail in CI, where nobody reads what was skipped."""
    if missing := missing_programs():
        reason = f"SLURM is not installed (no {', '.join(missing)}); see .ci/install_slurm.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_cluster(slurm: None, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if any("overtime" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        request.getfixturevalue("overtime")  # it takes minutes, and nobody has to watch it
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Three nodes with processors only, one with GPUs, MaxArraySize 20; idle, and found by this process."""
    with lent(shared_cluster):
        yield shared_cluster


@pytest.fixture
def new_cluster(slurm: None) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster with other :class:`Options`, for one test."""
    with ExitStack() as stack:

        def start(**options: int) -> Cluster:
            if options.get("accounting") and (missing := missing_programs(accounting.PROGRAMS)):
                pytest.skip(f"no accounting (no {', '.join(missing)})")
            cluster = stack.enter_context(Cluster(Options(**options)))
            stack.enter_context(lent(cluster))
            return cluster

        yield start


@contextmanager
def lent(cluster: Cluster) -> Iterator[None]:
    """Let this process find the cluster; a test leaves no job on it."""
    with found_by_us(cluster):
        yield
        left = cluster.jobs()
        print(cluster.report())  # shown by pytest where the test fails
        cluster.heal()
        assert not left


@contextmanager
def found_by_us(cluster: Cluster) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, cluster.environment[name])
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no shell may read; jobs use this Python."""
    medhpc = tmp_path / "medhpc"
    medhpc.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m medhpc "$@"\n')
    medhpc.chmod(0o755)
    (tmp_path / "site.toml").write_text(f'medhpc = "{medhpc}"\nmemory = "1G"\n')
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    made = tmp_path / "it's a $(touch touched) folder"
    made.mkdir()
    return made


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A run of 63 tiles, and the result that `medhpc run` makes of it."""
    return plan(tmp_path_factory.mktemp("planned"))


@pytest.fixture
def scenario(cluster: Cluster, planned: Planned, tmp_path: Path) -> Iterator[Scenario]:
    """That run, nothing of it done, on the shared cluster."""
    yield from told(Scenario(cluster, planned, tmp_path))


@pytest.fixture(scope="session")
def overtime(slurm: None, planned: Planned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """A run whose tasks have a minute for more than that, on a cluster of its own."""
    with Cluster(Options(nodes=1, gpu_nodes=0)) as cluster:
        scenario = Scenario(cluster, planned, tmp_path_factory.mktemp("overtime"))
        scenario.accident(f"""
import time
def before_tile(index):
    if index < {TILES // 2}: time.sleep(2 if first(f"slow {{index}}") else 0)
    elif first("hang"): time.sleep(600)
""")
        with found_by_us(cluster), pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "START", 25)
            scenario.submit(tiles_per_task=TILES // 2 + 1)
        yield from told(scenario)


def told(scenario: Scenario) -> Iterator[Scenario]:
    """Print what the jobs of a scenario printed, for a test that fails."""
    yield scenario
    for path in sorted(scenario.folder.rglob("log/*.log")):
        print(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}")
