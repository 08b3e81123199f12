"""Networks from elsewhere as ONNX files, run by ONNX Runtime (the optional extra ``onnx``).

A file may tell what medhpc cannot see in it, as JSON under the key "medhpc" of its metadata_props::

    {"halo": 16, "stride": 8, "classes": ["background", "cell"], "normalize": true}

Without a halo the receptive radius is unknown, and `medhpc tile` measures it. The network gives scores: softmax (or
sigmoid, for one channel) is applied to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.card import NetworkCard, default_classes
from medhpc.nets.files import refuse_pickle
from medhpc.nets.foreign import apply_strided, per_axis


class OnnxNetwork(nn.Module):
    """An ONNX model of one float32 input (N, C, z, y, x) or (N, C, y, x) and one output of the same space.

    Raises
    ------
    BadNetwork
        No ONNX file, a damaged one, other inputs or outputs, weights in files outside its folder, or ONNX Runtime is
        not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        refuse_pickle(self.path)
        runtime, _ = _import_runtime(self.path)
        weight_files(self.path)  # refuses what points outside the folder before the runtime follows it
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        try:
            providers = runtime.get_available_providers()
            self._session = runtime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # the runtime's exceptions share no base class
            raise BadNetwork(f"{self.path}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        self._declare(_only(self.path, self._session.get_inputs(), "input"), self._metadata())

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the input's shape but for the channels; computed on the runtime's own device."""
        return apply_strided(self._run, x, self)

    def architecture(self) -> dict[str, Any]:
        """Return what tells two files apart: their content."""
        return {"name": "onnx", "sha256": digest_onnx(self.path)}

    def _run(self, x: Tensor) -> Tensor:
        blocks = x.detach().float().cpu().numpy()
        name = self._session.get_inputs()[0].name
        try:
            results = [self._session.run(None, {name: block[None]})[0] for block in blocks]
        except Exception as error:
            shape = " x ".join(map(str, blocks.shape[1:]))
            raise NetworkMismatch(f"{self.path}: cannot be run on {shape} ({_first_line(error)})") from None
        return torch.from_numpy(np.concatenate(results)).to(x.device)

    def _declare(self, given: Any, metadata: Mapping[str, Any]) -> None:
        """Set what all networks share, from the model's input and output and from its metadata."""
        shape = given.shape
        if len(shape) not in (4, 5) or given.type != "tensor(float)":
            raise BadNetwork(
                f"{self.path}: takes {given.type} of {len(shape)} axes; expected float32 of (N, C, y, x) or "
                "(N, C, z, y, x)"
            )
        self.ndim = len(shape) - 2
        self.in_channels: int | None = shape[1] if isinstance(shape[1], int) else None
        halo = metadata.get("halo")
        self.receptive_radius = None if halo is None else per_axis(halo, self.ndim, "halo", least=0)
        self.stride = per_axis(metadata.get("stride", 1), self.ndim, "stride", least=1)
        self.minimum_shape = tuple(s // 2 + 1 for s in self.stride)
        self.takes_raw = not metadata.get("normalize", True)
        self.out_channels = self._count_classes()
        self.card = NetworkCard.from_json(
            {"classes": default_classes(self.out_channels), "normalization": None, **metadata}
        )
        if len(self.card.classes) != self.out_channels:
            raise BadNetwork(f"{self.path}: names {len(self.card.classes)} classes for {self.out_channels} outputs")

    def _count_classes(self) -> int:
        channels = _only(self.path, self._session.get_outputs(), "output").shape[1:2]
        if not channels or not isinstance(channels[0], int):
            raise BadNetwork(f"{self.path}: its number of output channels is not fixed; export it with a fixed one")
        return channels[0]

    def _metadata(self) -> Mapping[str, Any]:
        text = self._session.get_modelmeta().custom_metadata_map.get("medhpc", "{}")
        try:
            metadata = json.loads(text)
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict):
            raise BadNetwork(f"{self.path}: its metadata 'medhpc' is not a JSON table such as {{\"halo\": 16}}")
        return metadata


def weight_files(path: Path) -> list[Path]:
    """Files beside the model that hold its weights.

    Raises
    ------
    BadNetwork
        One is outside the model's folder (by an absolute path, `..` or a link), or is missing.
    """
    _, onnx = _import_runtime(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions are not part of onnx
        raise BadNetwork(f"{path}: not an ONNX file, or a damaged one ({_first_line(error)})") from None
    folder = path.resolve().parent
    found = []
    for location in sorted(set(_external_locations(model))):
        file = (path.parent / location).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise BadNetwork(f"{path}: keeps weights in '{location}'; expected a file in the folder of the model")
        found.append(file)
    return found


def digest_onnx(path: Path) -> str:
    """SHA-256 of the model's bytes and of its weight files."""
    total = hashlib.sha256()
    for file in (path, *weight_files(path)):
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def _external_locations(message: Any) -> Iterator[str]:
    """Every `location` of external tensor data, however deep in subgraphs and functions."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            yield from (entry.value for entry in value if entry.key == "location")
        elif field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                yield from _external_locations(child)


def _import_runtime(path: Path) -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise BadNetwork(f"{path}: ONNX networks need ONNX Runtime; pip install medhpc[onnx]") from None
    return onnxruntime, onnx


def _only(path: Path, values: list[Any], what: str) -> Any:
    if len(values) != 1:
        raise BadNetwork(f"{path}: has {len(values)} {what}s; expected one")
    return values[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
