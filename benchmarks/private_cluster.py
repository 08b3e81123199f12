"""The private SLURM cluster of the tests, for benchmarks: the one place that reaches into ``tests/slurm``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "slurm"), str(TESTS)]  # as pytest does it

from cluster import Cluster, ClusterBroken, missing_programs  # noqa: E402
from configuration import Options  # noqa: E402
from scenario import STITCH_WORDS, TILE, Planned, Scenario, nothing_lost, plan  # noqa: E402

__all__ = [
    "STITCH_WORDS",
    "TILE",
    "Cluster",
    "ClusterBroken",
    "Options",
    "Planned",
    "Scenario",
    "missing_programs",
    "nothing_lost",
    "plan",
    "private_cluster",
]


@contextmanager
def private_cluster(options: Options | None = None) -> Iterator[Cluster]:
    """A cluster that this process and its children find in the block."""
    if missing := missing_programs():
        sys.exit(f"SLURM is not installed (no {', '.join(missing)})")
    before = dict(os.environ)
    with Cluster(options) as cluster:
        os.environ.update(cluster.environment)
        try:
            yield cluster
        finally:
            os.environ.clear()
            os.environ.update(before)
