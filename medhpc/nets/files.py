"""Networks on disk: one safetensors file with a JSON card; never a pickle, which could execute code."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from medhpc.errors import BadNetwork, DiskFull, NoPermission
from medhpc.nets.card import NetworkCard

FORMAT_VERSION = 1
"""Raised when a file of this version could be misread by an older medhpc."""


class Savable(Protocol):
    """A network that can be written: its weights, how to build it again, and its card."""

    card: NetworkCard

    def architecture(self) -> dict[str, Any]:
        """Return its name and the options that build it."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return its weights by name."""


def save_network(network: Savable, path: str | Path) -> None:
    """Write `network` to `path`: safetensors whose metadata key "medhpc" holds architecture and card as JSON."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BadNetwork(f"{path}: a network is saved as safetensors; end its name in .safetensors")
    about = {"format_version": FORMAT_VERSION, "architecture": network.architecture(), **network.card.to_json()}
    write_tensors(path, network.state_dict(), about)


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A tensor of this shape and dtype (float32 or float64) that comes piece by piece, as it lies in memory."""

    shape: Sequence[int]
    dtype: torch.dtype
    pieces: Iterable[Tensor]

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], streamed: Mapping[str, Streamed] | None = None
) -> None:
    """Write named tensors and JSON metadata into one safetensors file, aside first and then renamed."""
    from safetensors.torch import save

    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(here, metadata={"medhpc": json.dumps(about)})
    with written_aside(path) as file:
        if streamed:
            content = _write_streamed(file, content, streamed)
        file.write(content)


def _write_streamed(file: IO[bytes], content: bytes, streamed: Mapping[str, Streamed]) -> bytes:
    """Write a header of these tensors and those of a file's content, then these; the data of the others is left.

    (A safetensors file is the length of a JSON header, that header, and the data in its order, without holes.)
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header, shift = json.loads(content[8:end]), sum(one.nbytes for one in streamed.values())
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + shift for offset in entry["data_offsets"]]
    start = 0
    for name, one in streamed.items():
        kind = {torch.float32: "F32", torch.float64: "F64"}[one.dtype]
        header[name] = {"dtype": kind, "shape": list(one.shape), "data_offsets": [start, start + one.nbytes]}
        start += one.nbytes
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)  # data is aligned
    file.write(len(words).to_bytes(8, "little") + words)
    for one in streamed.values():
        for piece in one.pieces:
            file.write(piece.detach().cpu().contiguous().numpy().tobytes())
    return content[end:]


Index: TypeAlias = tuple[slice, ...]


def read_tensors(path: Path, parts: Mapping[str, Index] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote; of the tensors that `parts` names, these parts.

    Raises
    ------
    BadNetwork
        Missing, a pickle, truncated, or without medhpc's metadata.
    """
    found: dict[str, Tensor] = {}
    with _opened(path) as (file, about):
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = (parts or {}).get(name)
            found[name] = file.get_tensor(name) if part is None else file.get_slice(name)[part]
        return found, about


def read_part(path: Path, name: str, part: Index) -> Tensor:
    """Read a part of one tensor.

    Raises
    ------
    BadNetwork
        As :func:`read_tensors`.
    """
    with _opened(path) as (file, _):
        return file.get_slice(name)[part]


def read_about(path: Path) -> dict[str, Any]:
    """The metadata alone of what :func:`write_tensors` wrote.

    Raises
    ------
    BadNetwork
        As :func:`read_tensors`.
    """
    with _opened(path) as (_, about):
        return about


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("medhpc", "null"))
            if not isinstance(about, dict):
                raise BadNetwork(
                    f"{path}: a safetensors file without medhpc's description; expected one that medhpc saved"
                )
            yield file, about
    except PermissionError:
        raise NoPermission(f"{path}: no permission to read it") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise BadNetwork(
            f"{path}: not a safetensors file, or a damaged one ({_one_line(error)}); save or copy it again"
        ) from None


def refuse_pickle(path: Path) -> None:
    """Tell a pickle by its name or by its first bytes, whatever its name.

    Raises
    ------
    BadNetwork
        A pickle, a PyTorch checkpoint (a zip archive of one), or no file at all.
    """
    if not path.is_file():
        raise BadNetwork(f"{path}: no such network file; train one with 'medhpc train msd' or give another path")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except PermissionError:
        raise NoPermission(f"{path}: no permission to read it") from None
    # A safetensors file begins with the length of its header, any eight bytes; the header itself begins with a brace.
    is_pickle = start[8:] != b"{" and start.startswith((b"\x80", b"PK\x03\x04"))
    if is_pickle or path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"):
        raise BadNetwork(
            f"{path}: a PyTorch checkpoint or pickle can execute code and is never loaded; expected .safetensors or "
            ".onnx (export it with torch.onnx.export, or wrap the module with medhpc.nets.foreign.Foreign in Python)"
        )


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` once it is complete and on disk; a failure leaves `path` as it was.

    Raises
    ------
    DiskFull, NoPermission
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except PermissionError:
        raise NoPermission(f"{path}: no permission to write it; choose another place") from None
    except (FileNotFoundError, NotADirectoryError):
        raise NoPermission(f"{path}: its folder does not exist; make it first") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: the disk is full; make room and run the same command again") from None
        raise
    finally:
        if part.exists():
            part.unlink()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
