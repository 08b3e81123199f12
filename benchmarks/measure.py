"""What the benchmarks share: timing in turn, memory in a process of its own, results with their provenance."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Outcome

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("medhpc", "torch", "numpy", "zarr", "dask", "tifffile", "monai", "onnxruntime", "openvino")


def alternate(jobs: Mapping[str, Callable[[], Outcome]], rounds: int) -> dict[str, list[Outcome]]:
    """Run all jobs in turn, `rounds` times, so that what else the machine does hits all of them alike."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            os.sync()  # what the job before left in the page cache is not this job's to write
            outcomes[name].append(job())
    return outcomes


def median_seconds(outcomes: Sequence[Outcome]) -> float:
    """Median time of several runs of one job."""
    return statistics.median(outcome.seconds for outcome in outcomes)


def median_peak(outcomes: Sequence[Outcome]) -> float:
    """Median peak memory of several runs of one job, in MiB."""
    return statistics.median(outcome.peak for outcome in outcomes) / 2**20


def timed(command: Sequence[str]) -> Outcome:
    """Run a command; the time is that of the whole process."""
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Outcome(seconds=time.perf_counter() - began, value=done.stdout)


def options(description: str | None, *, size: str, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that all benchmarks have; `size` is the one whose results are published."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=shape, default=size, help=f"voxels, Z,Y,X (default {size})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is run (default {rounds})")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the result (default benchmarks/results)"
    )
    parser.add_argument("--scratch", type=Path, help="folder for temporary data (default: the system's)")
    return parser


def shape(text: str) -> tuple[int, int, int]:
    """Read ``Z,Y,X``."""
    z, y, x = map(int, text.split(","))
    return z, y, x


def publish(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write ``NAME.json``: the result, and the machine, date, commit and versions behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, **result, "provenance": provenance()}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def provenance() -> dict[str, Any]:
    """Machine (without its name), date, commit and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_before": round(os.getloadavg()[2], 2),
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
