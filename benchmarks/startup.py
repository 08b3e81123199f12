"""How long a login node waits: ``--help``, planning a million tiles, and the status of a million tiles.

The peers are Python itself: an interpreter that does nothing, one that imports torch, and one that reads a ledger
of the same records with nothing but ``json.loads``.

Claims: ``medhpc --help`` in less than 0.3 s and without torch; a plan of 10^6 tiles in less than 1 s; ``medhpc status``
of 10^6 tiles in less than 5 s, process and all.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.child import Outcome, in_child
from benchmarks.measure import alternate, median_seconds, options, publish, table, timed
from benchmarks.simulated import EDGE, write_ledger, write_sparse
from medhpc.geometry import Index
from medhpc.run import Run
from medhpc.tiling import tile

LIMITS = {"medhpc --help": 0.3, "plan": 1.0, "medhpc status": 5.0}
PYTHON = sys.executable
MEDHPC = [PYTHON, "-c", "from medhpc.cli import main; main()"]
PLAIN_JSON = (
    "import json, pathlib, sys; [json.loads(l[9:]) for p in pathlib.Path(sys.argv[1]).iterdir() for l in p.open()]"
)


def main() -> None:
    parser = options(__doc__, size="1600,1600,1600", rounds=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        tiles, outcomes = measure(Path(folder), arguments.size, arguments.rounds)
    seconds = {job: median_seconds(runs) for job, runs in outcomes.items()}
    print(f"{tiles} tiles")
    rows = [(job, f"{s:.3f}", LIMITS.get(job, "")) for job, s in seconds.items()]
    print(table(("job", "seconds", "claim: less than"), rows))
    ratio = seconds["medhpc status"] / seconds["the same ledger, json.loads alone"]
    print(f"medhpc status / json.loads of the same lines: {ratio:.2f}")
    print(f"medhpc --help / python -c pass: {seconds['medhpc --help'] / seconds['python -c pass']:.1f}")
    print(f"modules of torch imported by --help: {torch_modules()}")
    result = {"tiles": tiles, "rounds": arguments.rounds, "seconds": seconds, "limits": LIMITS, "status_ratio": ratio}
    publish(arguments.results, "startup", result)


def measure(folder: Path, size: Index, rounds: int) -> tuple[int, dict[str, list[Outcome]]]:
    source, run = write_sparse(folder / "volume.tif", size), folder / "run"
    plan(source, run)
    tiles = len(Run(run).plan.grid)
    write_ledger(Run(run), range(tiles))
    status = json.loads(timed([*MEDHPC, "status", str(run), "--json"]).value)
    assert status["done"] == tiles
    jobs = {
        "python -c pass": lambda: timed([PYTHON, "-c", "pass"]),
        "python -c 'import torch'": lambda: timed([PYTHON, "-c", "import torch"]),
        "medhpc --help": lambda: timed([*MEDHPC, "--help"]),
        "plan": lambda: in_child(plan, source, folder / "other"),
        "the same ledger, json.loads alone": lambda: timed([PYTHON, "-c", PLAIN_JSON, str(run / "ledger")]),
        "medhpc status": lambda: timed([*MEDHPC, "status", str(run)]),
    }
    return tiles, alternate(jobs, rounds)


def plan(source: Path, run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    tile(source, run, network="identity", store="raw", tile=(EDGE, EDGE, EDGE))


def torch_modules() -> int:
    """How many modules of torch are loaded once ``--help`` is printed."""
    code = "from medhpc.cli.main import group; group(['--help'], standalone_mode=False)"
    count = "import sys; print(sum(name.split('.')[0] == 'torch' for name in sys.modules))"
    return int(timed([PYTHON, "-c", f"{code}; {count}"]).value.split()[-1])


if __name__ == "__main__":
    main()
