"""What a network's file says of itself, read without torch, whose import takes seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from medhpc.errors import BadNetwork, NetworkChanged
from medhpc.run import Run


def trained_on(network: str | Path) -> Sequence[float] | None:
    """Voxel size (z, y, x; micrometres) of a network's training; None where it is unknown.

    Raises
    ------
    BadNetwork
        No such file, or a damaged one.
    """
    path = Path(network)
    if str(network) == "identity":
        return None
    if not path.is_file():
        raise BadNetwork(f"{path}: no such network file; train one with 'medhpc train msd' or give another path")
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("medhpc", "{}"))
    except (SafetensorError, ValueError) as error:
        raise BadNetwork(f"{path}: not a safetensors file, or a damaged one ({error}); copy it again") from None
    size: Sequence[float] | None = about.get("voxel_size")
    return size


def check_network(run: Run) -> None:
    """Refuse a network file that is not the one that a run was planned for.

    Raises
    ------
    BadNetwork, NetworkChanged
    """
    planned = run.plan.network
    trained_on(planned.path)
    if planned.path.endswith(".safetensors"):  # others may keep their weights beside the file: tasks look at these
        with open(planned.path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != planned.digest:
            raise NetworkChanged(
                f"{planned.path} is not the one that {run.folder} was planned for; "
                "put the old one back, or plan a new run"
            )
