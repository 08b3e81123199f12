"""Which engine evaluates a network here."""

from __future__ import annotations

import torch

from medhpc.engine.base import Engine
from medhpc.engine.native import NativeEngine, why_not_native
from medhpc.engine.pytorch import TorchEngine
from medhpc.engine.reference import ReferenceEngine
from medhpc.engine.threads import usable_threads
from medhpc.errors import BadOption, NoDevice, NoEngine
from medhpc.nets import MSD

NAMES = ("native", "torch", "reference")
"""The engines, best first."""


def load(network: torch.nn.Module, *, name: str = "auto", device: str = "auto", threads: int | None = None) -> Engine:
    """Put a network on a device.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`medhpc.nets.load`, or any with the same attributes.
    name : {"auto", "native", "torch", "reference"}
        ``native``: MS-D networks on CPUs, by medhpc's own kernel; ``torch``: any network, on a CPU or GPU;
        ``reference``: MS-D networks as their definition reads, in float64. ``auto``: ``native`` where it can be, else
        ``torch``.
    device : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    threads : int, optional
        CPU threads; by default as many as this process may use.

    Raises
    ------
    NoDevice, NoEngine, BadOption
    """
    if threads is not None and threads < 1:
        raise BadOption(f"threads is {threads}, expected at least 1")
    if name != "auto" and name not in NAMES:
        raise BadOption(f"engine '{name}' is not one of auto, {', '.join(NAMES)}")
    threads = threads or usable_threads()
    torch.set_num_threads(threads)
    if name == "reference":
        _check(name, device, "" if isinstance(network, MSD) else "it evaluates MS-D networks only")
        return ReferenceEngine(network)
    if name == "native":
        _check(name, device, why_not_native(network))
        return NativeEngine(network, threads)
    place = _device(device)
    if name == "auto" and place.type == "cpu" and not why_not_native(network):
        return NativeEngine(network, threads)
    return TorchEngine(network, place)


def _check(name: str, device: str, why_not: str) -> None:
    """Refuse an engine for CPUs where it cannot be had."""
    if device not in ("auto", "cpu"):
        raise NoEngine(f"engine '{name}' computes on CPUs, not on '{device}'; plan with --engine torch")
    if why_not:
        raise NoEngine(f"engine '{name}' cannot be used here: {why_not}; plan with --engine torch")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise BadOption(f"device '{name}' is not auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise NoDevice(f"device '{name}': no CUDA GPU is visible here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadOption(f"device '{name}' is not auto, cpu, cuda or cuda:N") from None
    if device.index and device.index >= torch.cuda.device_count():
        raise NoDevice(f"device '{name}': only {torch.cuda.device_count()} GPUs are visible here, from cuda:0 on")
    return device
