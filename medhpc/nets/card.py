"""What a network says about itself, beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medhpc.errors import BadNetwork


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """What travels in a network's file.

    Parameters
    ----------
    normalization
        ``{"mean": [...], "std": [...]}`` of the training volumes, one number per channel; None where unknown.
    classes
        One name per output channel; the first of several is the background.
    voxel_size
        (z, y, x) of the training volumes in micrometres; None where unknown.
    training
        Provenance: volumes, options, steps, seconds, validation figures, versions.
    """

    normalization: Mapping[str, Sequence[float]] | None = None
    classes: Sequence[str] = ()
    voxel_size: Sequence[float] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.normalization is not None and not _is_normalization(self.normalization):
            raise BadNetwork(
                f"normalization {self.normalization!r} of a network: expected mean and std, a number per channel"
            )
        if not all(isinstance(name, str) for name in self.classes):
            raise BadNetwork(f"class names {self.classes!r} of a network: expected a list of texts")
        if self.voxel_size is not None and not _are_numbers(self.voxel_size, 3):
            raise BadNetwork(f"voxel size {self.voxel_size!r} of a network: expected z, y, x in micrometres")

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON knows it; :meth:`from_json` reads it back."""
        return {
            "normalization": self.normalization and {key: list(self.normalization[key]) for key in ("mean", "std")},
            "classes": list(self.classes),
            "voxel_size": self.voxel_size and list(self.voxel_size),
            "training": dict(self.training),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkCard:
        """Read what :meth:`to_json` wrote; unknown keys of later versions are passed over.

        Raises
        ------
        BadNetwork
            A value of the wrong kind.
        """
        voxel_size, classes, training = values.get("voxel_size"), values.get("classes", ()), values.get("training", {})
        if not isinstance(classes, Sequence) or isinstance(classes, str) or not isinstance(training, Mapping):
            raise BadNetwork("a network's class names are not a list, or its training record is not a table")
        return cls(normalization=values.get("normalization"), classes=classes, voxel_size=voxel_size, training=training)


def default_classes(out_channels: int) -> tuple[str, ...]:
    """Names where none are given: the one class, or background and the rest."""
    if out_channels == 1:
        return ("object",)
    if out_channels == 2:
        return ("background", "object")
    return ("background", *(f"class {k}" for k in range(1, out_channels)))


def _is_normalization(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"mean", "std"} <= set(value):
        return False
    mean, std = value["mean"], value["std"]
    return _are_numbers(mean) and _are_numbers(std, len(mean)) and all(s > 0 for s in std)


def _are_numbers(values: Any, length: int | None = None) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return False
    return (length is None or len(values) == length) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in values
    )
