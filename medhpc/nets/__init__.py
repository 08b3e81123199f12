"""Networks: mixed-scale dense, the hourglass of Deep Image Prior, foreign ones; how they are saved and loaded.

All networks share `in_channels` and `out_channels` (None: whatever comes), `ndim` (2 or 3), `receptive_radius`
(voxels per axis; None where unknown), `stride`, `minimum_shape`, `card`, and `takes_raw` (True: no normalisation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medhpc.errors import BadNetwork, NoPermission
from medhpc.nets.card import NetworkCard
from medhpc.nets.files import FORMAT_VERSION, read_tensors
from medhpc.nets.foreign import Foreign
from medhpc.nets.identity import Identity
from medhpc.nets.msd import MSD
from medhpc.nets.skip import Skip

__all__ = ["ARCHITECTURES", "MSD", "Foreign", "Identity", "NetworkCard", "Skip", "digest", "load"]

ARCHITECTURES: dict[str, Callable[..., MSD | Skip]] = {"msd": MSD, "skip": Skip}
"""Name in a file -> class; called with the file's "architecture" as keyword arguments."""


def load(path: str | Path) -> nn.Module:
    """Load a network, ready for inference.

    Parameters
    ----------
    path
        ``.safetensors`` that medhpc saved, ``.onnx`` (needs the extra ``onnx``), or "identity".

    Raises
    ------
    BadNetwork
        A missing or damaged file, a pickle, an architecture or format version that this medhpc does not know, or
        tensors that do not fit the architecture.
    NoPermission
    """
    if str(path) == "identity":
        return Identity()
    path = Path(path)
    if path.suffix == ".onnx":
        from medhpc.nets.onnx import OnnxNetwork

        return OnnxNetwork(path)
    tensors, about = read_tensors(path)
    try:
        network = _build(tensors, about)
        network.card = NetworkCard.from_json(about)
    except BadNetwork as error:
        raise BadNetwork(f"{path}: {error}") from None
    return network.eval()


def digest(network: nn.Module | str | Path) -> str:
    """SHA-256 that tells networks apart: of a file's bytes, or of a module's class, architecture and weights.

    Raises
    ------
    BadNetwork
        No such file.
    NoPermission
    """
    if isinstance(network, nn.Module):
        return _digest_module(network)
    if str(network) == "identity":
        return _digest_module(Identity())
    path = Path(network)
    if not path.is_file():
        raise BadNetwork(f"{path}: no such network file; train one with 'medhpc train msd' or give another path")
    if path.suffix == ".onnx":
        from medhpc.nets.onnx import digest_onnx

        return digest_onnx(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise NoPermission(f"{path}: no permission to read it") from error


def _build(tensors: dict[str, Tensor], about: dict[str, Any]) -> MSD | Skip:
    version = about.get("format_version")
    if version != FORMAT_VERSION:
        raise BadNetwork(f"network file of version {version}; this medhpc reads {FORMAT_VERSION}: update it")
    architecture = about.get("architecture")
    if not isinstance(architecture, dict) or architecture.get("name") not in ARCHITECTURES:
        name = architecture.get("name") if isinstance(architecture, dict) else architecture
        known = ", ".join(ARCHITECTURES)
        raise BadNetwork(f"network of architecture {name!r}; this medhpc knows {known}: update it")
    options = {key: value for key, value in architecture.items() if key != "name"}
    try:
        with torch.device("meta"):  # no memory is taken before the shapes are known to fit
            network = ARCHITECTURES[architecture["name"]](**options)
        network.load_state_dict(tensors, assign=True)
    except (TypeError, RuntimeError):
        raise BadNetwork(f"tensors or options do not fit architecture {architecture['name']!r}") from None
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise BadNetwork("weights that are not float32; expected a network that medhpc saved")
    return network


def _digest_module(module: nn.Module) -> str:
    kind = type(module)
    about = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(module, MSD | Skip | Foreign):
        about["architecture"] = json.dumps(module.architecture(), sort_keys=True)
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        total.update(values.view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
