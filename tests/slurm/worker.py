"""What jobs run in these tests: `medhpc`, to which accidents happen.

    python worker.py FOLDER infer ...

Before a tile is read, ``before_tile(index)`` of ``FOLDER/accident.py`` is called, where there is such a file. It finds
the path ``folder`` and the function ``first(name)``, which is true for one caller only, whatever process or node it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Be medhpc."""
    from medhpc.cli import main as medhpc

    folder, *sys.argv[1:] = [Path(sys.argv[1]), *sys.argv[2:]]
    accident = folder / "accident.py"
    if sys.argv[1] == "infer" and accident.exists():
        _expose(accident)
    medhpc()


def _expose(accident: Path) -> None:
    """Let the accident happen where tiles are read; all runs here have the same grid."""
    from medhpc.infer import task
    from medhpc.run import Run

    plan = Run(sys.argv[-1]).plan
    index_of = {plan.read_box(tile): tile.index for tile in plan.grid}
    before_tile = _load(accident)
    original = task.read_block

    def read_block(volume: Any, box: Any, *options: Any) -> Any:
        before_tile(index_of[box])
        return original(volume, box, *options)

    task.read_block = read_block


def _load(accident: Path) -> Callable[[int], None]:
    def first(name: str) -> bool:
        try:
            (accident.parent / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    names: dict[str, Any] = {"folder": accident.parent, "first": first}
    exec(compile(accident.read_text(), accident, "exec"), names)
    return names["before_tile"]


if __name__ == "__main__":
    main()
