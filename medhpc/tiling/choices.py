"""The small decisions of a plan: what fits, what is meant, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from medhpc import nets
from medhpc.engine import Engine
from medhpc.errors import BadOption, NetworkMismatch, NonFinite
from medhpc.geometry import Box, Index, parse_index, parse_region
from medhpc.run.plan import Blend, NetworkUsed, Normalization, Source, Stored
from medhpc.volume import Volume


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of those allowed."""
    if value not in allowed:
        raise BadOption(f"{name} '{value}' is not one of {', '.join(allowed)}")


def is_network_file(network: Any) -> TypeGuard[str | Path]:
    """Whether a network is named (a file or "identity"), not given as a module."""
    return isinstance(network, str | Path)


def spatial(values: Sequence[int]) -> Index:
    """Numbers per axis of a 2D or 3D network as (z, y, x)."""
    z, y, x = (1, *values) if len(values) == 2 else values
    return z, y, x


def check_fit(network: Any, volume: Volume) -> None:
    """Refuse a volume that the network cannot take.

    Raises
    ------
    NetworkMismatch
    """
    if network.in_channels not in (None, volume.channels):
        raise NetworkMismatch(
            f"the network takes {network.in_channels} channel(s), {volume.path} has {volume.channels}; "
            "choose one with --channel, or use a network trained for them"
        )
    least = spatial(network.minimum_shape)
    if any(length < n for length, n in zip(volume.shape, least, strict=True)):
        got, need = (" x ".join(map(str, shape)) for shape in (volume.shape, least))
        hint = "; a single plane needs a 2D network" if volume.shape[0] == 1 and network.ndim == 3 else ""
        raise NetworkMismatch(f"{volume.path} is {got} voxels (z y x), the network's padding needs {need}{hint}")


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that no error can be below."""
    if tolerance is not None and not tolerance > 0:
        raise BadOption(f"tolerance {tolerance} is not a number above 0; leave it out for half an 8-bit step")


def checked_halo(halo: str | int, blend: str, scheme: str, *, exact: bool) -> str | int:
    """The halo that is looked for; with `exact`, or for a sweep, none that is not.

    Raises
    ------
    BadOption
        What is asked for is not exact.
    """
    if not exact and scheme != "sweep":
        return halo
    if blend != "none" or halo not in ("auto", "exact"):
        given = f"blend '{blend}'" if blend != "none" else f"halo {halo}"
        why = "exact" if exact else "a sweep is exact: it"
        raise BadOption(f"{why} forbids {given}, which is an approximation; leave one of them out")
    return "exact"


def choose_index(value: str | Index, what: str) -> Index:
    """Three positive whole numbers, given as text or as numbers; `what` names them in errors.

    Raises
    ------
    BadOption
    """
    return parse_index(value if isinstance(value, str) else ",".join(map(str, value)), what)


def choose_region(region: str | Box | None, shape: Index) -> Box:
    """The box to compute; the whole volume by default.

    Raises
    ------
    BadOption
    """
    if region is None:
        return Box.whole(shape)
    if isinstance(region, str):
        return parse_region(region, shape)
    return parse_region(str(region), shape)


def choose_normalization(which: str, network: Any, volume: Volume, nan: str) -> Normalization:
    """Mean and deviation per channel, once for the whole volume.

    Raises
    ------
    BadOption
        The network does not know its training statistics.
    NonFinite
        The volume holds NaN or infinity, and `nan` is ``refuse``.
    """
    check_choice("normalize", which, ("volume", "network", "none"))
    if which == "none" or network.takes_raw:
        return Normalization(source="none")
    if which == "network":
        known = network.card.normalization
        if known is None:
            raise BadOption("normalize 'network': the network file holds no training statistics; use 'volume'")
        return Normalization(source="network", mean=tuple(known["mean"]), std=tuple(known["std"]))
    statistics = volume.statistics()
    if statistics.nonfinite is not None and nan == "refuse":
        raise NonFinite(
            f"{volume.path} holds NaN or infinity at {statistics.nonfinite}; "
            "mend the volume, or read such voxels as zero with --nan zero"
        )
    deviations = tuple(deviation or 1.0 for deviation in statistics.std)  # a constant channel stays constant
    return Normalization(source="volume", mean=tuple(statistics.mean), std=deviations)


def choose_blend(mode: str, window: str | Index, overlap: float, volume: Index, network: Any) -> Blend:
    """The window grid, or none.

    Raises
    ------
    BadOption
    """
    check_choice("blend", mode, ("none", "gaussian", "linear"))
    if mode == "none":
        return Blend(mode="none")
    if not 0 <= overlap < 1:
        raise BadOption(f"overlap {overlap} is not a fraction from 0 up to (not including) 1")
    wanted = choose_index(window, "window")
    if network.ndim == 2:
        wanted = (1, *wanted[1:])
    least = spatial(network.minimum_shape)
    z, y, x = (min(max(w, n), length) for w, n, length in zip(wanted, least, volume, strict=True))
    steps = [max(1, math.ceil(length * (1 - overlap))) for length in (z, y, x)]
    return Blend(mode=mode, window=(z, y, x), step=(steps[0], steps[1], steps[2]))


def choose_stored(engine: Engine, volume: Volume, kind: str, dtype: str) -> Stored:
    """What a tile stores; its shard is filled in when the tile is known.

    Raises
    ------
    BadOption
        The network does not give it.
    """
    none = (0, 0, 0)
    network = engine.network
    if kind == "raw":
        values = engine(_sample(volume, network), "raw")
        return Stored(kind=kind, dtype=values.dtype.name, channels=values.shape[0], chunk=none, shard=none)
    if isinstance(network, nets.Identity):
        raise BadOption(f"the identity network gives numbers, not classes: it has no {kind}; use --store raw")
    classes = network.out_channels or volume.channels
    if kind == "argmax":
        name = "uint8" if classes <= 256 else "uint16"
        return Stored(kind=kind, dtype=name, channels=1, chunk=none, shard=none)
    return Stored(kind=kind, dtype=dtype, channels=max(1, classes - 1), chunk=none, shard=none)


def describe_source(volume: Volume, path: str | Path, channel: int | None, level: int) -> Source:
    """What the plan remembers of its input."""
    file, mark, dataset = str(path).partition(":/")
    return Source(
        path=f"{Path(file).resolve()}{mark}{dataset}",
        channel=channel,
        level=level,
        copy="",
        fingerprint=volume.fingerprint(),
        shape=volume.shape,
        channels=volume.channels,
        dtype=volume.dtype.name,
        voxel_size=volume.voxel_size,
        unit=volume.unit,
        affine=None if volume.affine is None else tuple(map(tuple, volume.affine.tolist())),
    )


def describe_network(network: Any, given: Any) -> NetworkUsed:
    """What the plan remembers of its network."""
    named = is_network_file(given)
    path = str(given) if given == "identity" else str(Path(given).resolve()) if named else ""
    return NetworkUsed(
        path=path,
        digest=nets.digest(given),
        name=type(network).__name__,
        classes=tuple(network.card.classes),
        receptive_radius=network.receptive_radius,
        minimum_shape=spatial(network.minimum_shape),
        stride=spatial(network.stride),
        voxel_size=tuple(network.card.voxel_size) if network.card.voxel_size else None,
        calibrated=any(getattr(network, "window", None) or ()),
    )


def _sample(volume: Volume, network: Any) -> np.ndarray:
    """The smallest block that the network takes, from the volume's first corner."""
    corner = Box((0, 0, 0), spatial(network.minimum_shape))
    block = volume.read(corner)
    return block if network.takes_raw else block.astype(np.float32)
