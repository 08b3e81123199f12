"""Who does what: the tiles that are missing, shared among the tasks of a job array.

The tasks of an array start at different times, and tiles get done meanwhile. So the first task that starts writes down
what is missing, and all of them share that list. Whatever is done by the time a task comes to it is skipped.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhpc.errors import NotARun
from medhpc.run.durable import partial_suffix, write_durably
from medhpc.run.folder import Run, ranges
from medhpc.run.ledger import this_host
from medhpc.run.tally import Tally

REPEATS = 2  # so often a tile may end in the same exception; then its mend is not another try
ALWAYS_REPEATED = ("MemoryError", "OutOfMemoryError")  # the next round has more of it
LEFT, TAKEN = ".left", ".taken"  # suffixes of empty files beside a list, named by a share of it
SUSPECT = 3  # so many tiles that failed on one host make it suspect


def recorded(run: Run) -> NDArray[np.bool_]:
    """Which tiles the ledger alone says are done, one bool per tile; no stored byte is read."""
    return Tally(run).update().done


def hopeless(run: Run, since: float) -> set[int]:
    """Tiles in which the same exception was recorded :data:`REPEATS` times after `since` (seconds since 1970)."""
    seen = Counter(
        (record["tile"], record["error"])
        for record in run.ledger.failures()
        if record["time"] >= since and not record["error"].startswith(ALWAYS_REPEATED)
    )
    return {tile for (tile, _), times in seen.items() if times >= REPEATS}


def host_is_suspect(run: Run) -> bool:
    """Whether several tiles have failed on this host and are not done yet."""
    here = this_host()
    failed = {record["tile"] for record in run.ledger.failures() if record.get("host") == here}
    return len(failed) >= SUSPECT and int(np.count_nonzero(~recorded(run)[sorted(failed)])) >= SUSPECT


def broken_hosts(runs: Sequence[Run], tallies: Sequence[Tally]) -> dict[str, int]:
    """Nodes on which several tiles failed and none was ever done, while others did some; how many failed there.

    What fails for want of memory tells nothing of a node, and what no job computed was on none.
    """
    worked = {host for tally in tallies for host, number in tally.hosts.items() if number in _committers(tally)}
    failed: dict[str, set[tuple[int, int]]] = {}
    for number, run in enumerate(runs):
        for record in run.ledger.failures():
            if record.get("job") and not record["error"].startswith(ALWAYS_REPEATED):
                failed.setdefault(record["host"], set()).add((number, record["tile"]))
    if not worked:
        return {}
    return {host: len(tiles) for host, tiles in failed.items() if host not in worked and len(tiles) >= SUSPECT}


def _committers(tally: Tally) -> set[int]:
    """The hosts that stored a tile, as numbers."""
    return set(np.unique(tally.host[tally.committed > 0]).tolist())


def missing_tiles(runs: Sequence[Run], file: Path) -> list[list[int]]:
    """The list of missing tiles that the tasks of an array share, for each run.

    Parameters
    ----------
    runs
        In the same order for every task.
    file : path
        Where the list stands; the first caller makes it from the ledgers. A name that ends in ``-N.json`` is the N-th
        round: tiles that have ended twice in the same exception since round 0 are left out.

    Raises
    ------
    NotARun
        The list is of other runs.
    """
    if not file.exists():
        _write_once(file, _list(runs, since=_began(file)))
    found = listed(file)
    if list(found) != [str(run.folder.resolve()) for run in runs]:
        raise NotARun(f"{file} lists the tiles of other runs; remove it, or name another file")
    return list(found.values())


def listed(file: Path) -> dict[str, list[int]]:
    """What a list says: absolute path of the run -> its missing tiles, in the order in which they are shared."""
    return {entry["run"]: _numbers(entry["tiles"]) for entry in json.loads(file.read_text())["runs"]}


def leave_share(file: Path, task: str) -> None:
    """Leave the share ``K/N`` of the list `file` to other tasks of its round."""
    file.with_suffix(f".{task.replace('/', '-')}{LEFT}").touch()


def take_share(file: Path) -> str | None:
    """A share ``K/N`` of the list `file` that was left, for one task alone; None where there is none."""
    for path in sorted(file.parent.glob(f"*{LEFT}")):
        name, _, task = path.stem.rpartition(".")
        if name == file.stem:
            with suppress(FileNotFoundError):  # another was faster
                path.rename(path.with_suffix(TAKEN))
                return task.replace("-", "/")
    return None


def _list(runs: Sequence[Run], since: float | None) -> str:
    """The text of a list: what the ledgers show missing now."""
    entries = []
    for run in runs:
        missing = set(np.flatnonzero(~recorded(run)).tolist())
        if since is not None:
            missing -= hopeless(run, since)
        entries.append({"run": str(run.folder.resolve()), "tiles": ranges(sorted(missing), most=len(missing))})
    return json.dumps({"time": time.time(), "runs": entries}, indent=1)


def _began(file: Path) -> float | None:
    """When round 0 of the rounds of `file` began; None for round 0 itself."""
    name, _, number = file.stem.rpartition("-")
    first = file.with_name(f"{name}-0{file.suffix}")
    if not name or not number.isdecimal() or first == file or not first.exists():
        return None
    began: float = json.loads(first.read_text())["time"]
    return began


def _write_once(file: Path, text: str) -> None:
    """Write `file`, unless another task was faster: then its list stands."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{partial_suffix()}")
    write_durably(aside, text.encode())
    with suppress(FileExistsError):
        os.link(aside, file)
    aside.unlink()


def _numbers(text: str) -> list[int]:
    """The numbers of ``0-4,7``, as :func:`medhpc.run.folder.ranges` writes them."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
