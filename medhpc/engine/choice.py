"""Which engine evaluates a network here."""

from __future__ import annotations

import os

import torch

from medhpc.engine.base import Engine
from medhpc.engine.fastest import fastest
from medhpc.engine.native import NativeEngine, why_not_native
from medhpc.engine.openvino import OpenVinoEngine, why_not_openvino
from medhpc.engine.pytorch import TorchEngine
from medhpc.engine.reference import ReferenceEngine
from medhpc.engine.threads import usable_threads
from medhpc.engine.triton import PRECISIONS, TritonEngine, interpreted, why_not_triton
from medhpc.errors import BadOption, NoDevice, NoEngine
from medhpc.nets import MSD

NAMES = ("native", "torch", "openvino", "triton", "triton-f32", "reference")
"""The engines; where several can be had on a CPU, the fastest is likely to be an early one."""
TRIED = ("native", "torch", "openvino")
"""Among which ``auto`` chooses."""
VARIABLE = "MEDHPC_ENGINE"
"""Environment variable that names the engine which ``auto`` takes."""


def load(network: torch.nn.Module, *, name: str = "auto", device: str = "auto", threads: int | None = None) -> Engine:
    """Put a network on a device.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`medhpc.nets.load`, or any with the same attributes.
    name : {"auto", "native", "torch", "openvino", "triton", "triton-f32", "reference"}
        ``native``: MS-D networks on CPUs, by medhpc's own kernel; ``torch``: any network, on a CPU or GPU;
        ``openvino``: MS-D networks on CPUs by OpenVINO, where it is installed; ``triton``, ``triton-f32``: MS-D
        networks on GPUs by medhpc's own kernels, in float16 or float32; ``reference``: MS-D networks as their
        definition reads, in float64. ``auto``: what ``$MEDHPC_ENGINE`` names, where that can be, else ``torch``;
        without it, ``torch`` on a GPU and the fastest on CPUs (see :mod:`medhpc.engine.fastest`).
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
    name = _automatic(network, device, threads) if name == "auto" else name
    if name == "torch":
        return TorchEngine(network, _device(device))
    if name in PRECISIONS:
        return _on_gpu(name, network, device)
    _check(name, network, device)
    return _on_cpu(name, network, threads)


def why_not(name: str, network: torch.nn.Module) -> str:
    """Why an engine cannot evaluate this network on this machine's processor; "" where it can."""
    if name in PRECISIONS:
        return why_not_triton(network, torch.device("cpu"))
    if name == "native":
        return why_not_native(network)
    if name == "openvino":
        return why_not_openvino(network)
    return "it evaluates MS-D networks only" if name == "reference" and not isinstance(network, MSD) else ""


def _on_gpu(name: str, network: torch.nn.Module, device: str) -> Engine:
    where = torch.device("cpu") if interpreted() and device == "auto" else _device(device)
    reason = why_not_triton(network, where if torch.cuda.is_available() else None)
    if reason:
        raise NoEngine(f"engine '{name}' cannot be used here: {reason}; plan with --engine torch")
    return TritonEngine(network, where, name)


def _on_cpu(name: str, network: torch.nn.Module, threads: int) -> Engine:
    if name == "native":
        return NativeEngine(network, threads)
    if name == "openvino":
        return OpenVinoEngine(network, threads)
    return ReferenceEngine(network) if name == "reference" else TorchEngine(network, torch.device("cpu"))


def _automatic(network: torch.nn.Module, device: str, threads: int) -> str:
    """The engine that ``auto`` means here."""
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in ("auto", *NAMES):
        raise BadOption(f"{VARIABLE} is '{wanted}', not one of auto, {', '.join(NAMES)}")
    if wanted in PRECISIONS:
        return "torch" if why_not_triton(network, _device(device)) else wanted
    if wanted != "auto":
        return wanted if device in ("auto", "cpu") and not why_not(wanted, network) else "torch"
    if _device(device).type != "cpu" or not isinstance(network, MSD):
        return "torch"
    able = [name for name in TRIED if not why_not(name, network)]
    return fastest(network, able, lambda name, example: _on_cpu(name, example, threads), threads)


def _check(name: str, network: torch.nn.Module, device: str) -> None:
    """Refuse an engine for CPUs where it cannot be had."""
    if device not in ("auto", "cpu"):
        raise NoEngine(f"engine '{name}' computes on CPUs, not on '{device}'; plan with --engine torch")
    reason = why_not(name, network)
    if reason:
        raise NoEngine(f"engine '{name}' cannot be used here: {reason}; plan with --engine torch")


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
