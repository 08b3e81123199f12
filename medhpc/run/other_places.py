"""What is said of a folder that holds no plan: it may be a folder of runs, or one whose planning failed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

MOST_NAMES = 5


def why_no_run(folder: Path) -> str:
    """Why a folder is no run, and what to do, in one line."""
    runs = sorted(path.parent.name for path in folder.glob("*/plan.json"))
    if runs:
        more = f" and {len(runs) - MOST_NAMES} more" if len(runs) > MOST_NAMES else ""
        return f"{folder} is no run, it holds {len(runs)}: {', '.join(runs[:MOST_NAMES])}{more}; name one of them"
    place = shlex.quote(str(folder))
    if _was_submitted(folder):
        return f"{folder} was submitted, but its planning failed or has not ended; see  medhpc status {place}"
    return f"{folder} holds no plan; make one with  medhpc tile VOLUME {place} --network NET"


def _was_submitted(folder: Path) -> bool:
    """Whether a submission, which lies in it or beside it, names it."""
    name = json.dumps(str(folder.resolve()))
    files = [*folder.glob("jobs/*/submission.json"), *folder.parent.glob("jobs/*/submission.json")]
    return any(name in file.read_text() for file in files)
