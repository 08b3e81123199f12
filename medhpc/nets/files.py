"""Networks on disk: one safetensors file with a JSON card; never a pickle, which could execute code."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata into one safetensors file, aside first and then renamed."""
    from safetensors.torch import save

    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(here, metadata={"medhpc": json.dumps(about)})
    with written_aside(path) as file:
        file.write(content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Raises
    ------
    BadNetwork
        Missing, a pickle, truncated, or without medhpc's metadata.
    """
    return _read(path, tensors=True)


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("medhpc", "null"))
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118 (no mapping)
    except PermissionError:
        raise NoPermission(f"{path}: no permission to read it") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise BadNetwork(
            f"{path}: not a safetensors file, or a damaged one ({_one_line(error)}); save or copy it again"
        ) from None
    if not isinstance(about, dict):
        raise BadNetwork(f"{path}: a safetensors file without medhpc's description; expected one that medhpc saved")
    return found, about


def read_about(path: Path) -> dict[str, Any]:
    """The metadata alone of what :func:`write_tensors` wrote.

    Raises
    ------
    BadNetwork
        As :func:`read_tensors`.
    """
    return _read(path, tensors=False)[1]


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
