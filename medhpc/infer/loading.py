"""The network and the engine that a run was planned for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medhpc import engine as engines
from medhpc import nets
from medhpc.errors import BadOption, NetworkChanged
from medhpc.run import Run


def load_engine(
    run: Run,
    network: torch.nn.Module | None,
    device: str,
    threads: int | None,
    note: Callable[[str], None] | None,
) -> engines.Engine:
    """The engine of the plan with its network, which is given where it came from Python.

    Raises
    ------
    BadOption, NetworkChanged, NoEngine, NoDevice
    """
    engine = engines.load(_network(run, network), name=run.plan.cost.engine, device=device, threads=threads)
    if note and not run.plan.cost.can_use_gpus and torch.cuda.is_available():
        note(
            f"a GPU is here, but the plan is for CPUs (engine '{engine.name}'); to compute on GPUs, "
            "plan again with --engine torch"
        )
    return engine


def _network(run: Run, given: torch.nn.Module | None) -> torch.nn.Module:
    planned = run.plan.network
    if given is None and not planned.path:
        raise BadOption(f"the network of {run.folder} was given from Python; call infer(run, network=...) with it")
    source = planned.path if given is None else given
    if nets.digest(source) != planned.digest:
        raise NetworkChanged(
            f"{planned.path or 'the network'} is not the one that {run.folder} was planned for; "
            "put the old one back, or plan a new run"
        )
    return nets.load(planned.path) if given is None else given
