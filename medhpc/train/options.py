"""The options of a training, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medhpc.classes import Classes, parse_classes
from medhpc.errors import BadNetwork, BadOption, NoPermission
from medhpc.geometry import Box, Index, parse_index
from medhpc.volume import open_volume

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the weights that a training ends with; see :func:`medhpc.train.msd.train_msd`.

    Raises
    ------
    BadOption
    """

    depth: int | None = None
    width: int = 1
    ndim: int = 3
    radius: float | None = None
    truth: str = "auto"
    background: str | int = "all"
    ignore: int | None = None
    classes: Classes | None = None
    region: str | None = None
    voxel_size_um: tuple[float, float, float] | None = None
    patch: Index | None = None
    normalize: str = "volume"
    minutes: float | None = None
    steps: int | None = None
    validation: float = 0.15
    seed: int = 0
    precision: str = "auto"
    batch: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        _check_choice("truth", self.truth, ("auto", "labels", "points"))
        _check_choice("normalize", self.normalize, ("volume", "network"))
        _check_choice("precision", self.precision, ("auto", "float32", "bfloat16", "float16"))
        _check_choice("ndim", self.ndim, (2, 3))
        if isinstance(self.background, str):
            _check_choice("background", self.background, ("all", "near"))
        if not 0 <= self.validation <= 0.5:
            raise BadOption(f"validation {self.validation} is not a fraction from 0 (none) to 0.5")
        for name in ("depth", "width", "radius", "minutes", "steps", "batch", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadOption(f"{name} {value} is not above zero")
        if self.minutes is not None and self.steps is not None:
            raise BadOption("minutes and steps were both given; give one of them")
        if self.patience and not self.validation:
            raise BadOption("patience needs a part that is held out to judge by, and validation is 0; give one of them")

    @property
    def seconds(self) -> float | None:
        """The budget in time; None where it is a number of steps."""
        if self.steps is not None:
            return None
        return 60 * (DEFAULT_MINUTES if self.minutes is None else self.minutes)

    @property
    def class_names(self) -> list[str]:
        """One per output channel of the network."""
        return ["background", *(self.classes or ["object"])]

    def spent(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent after so many steps and seconds."""
        return step / self.steps if self.steps is not None else seconds / (self.seconds or 1)

    def steps_in_all(self, step: int, seconds: float, end: float = 1.0) -> int:
        """Steps up to a share of the budget; an estimate from those done, where it is a time."""
        return max(step, round(end * (self.steps or step / self.spent(step, seconds))))

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON knows them."""
        values = asdict(self)
        if self.classes is not None:
            values["classes"] = {name: [list(r) for r in ranges] for name, ranges in self.classes.items()}
        sizes = {name: values[name] and list(values[name]) for name in ("patch", "voxel_size_um")}
        return {**values, **sizes}


def check_name(out: str | Path) -> Path:
    """Refuse a bad name of the network to be, before minutes of training.

    Raises
    ------
    BadNetwork, NoPermission
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise BadNetwork(f"{out}: a network is saved as safetensors; end its name in .safetensors")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise NoPermission(f"{out}: its folder does not exist or cannot be written")
    return out


def options_of(
    pairs: Sequence[tuple[str | Path, str | Path]],
    *,
    ndim: int | None = None,
    background: str | int = "all",
    classes: str | Classes | None = None,
    region: str | Box | None = None,
    patch: str | Index | None = None,
    **others: Any,
) -> Options:
    """Read options as :func:`medhpc.train.msd.train_msd` takes them."""
    return Options(
        ndim=ndim or _dimensions_of(pairs),
        background=parse_background(background),
        classes=parse_classes(classes) if isinstance(classes, str) else classes,
        region=None if region is None else str(region),
        patch=parse_index(patch, "patch") if isinstance(patch, str) else patch,
        **others,
    )


def minimum_shape(options: Options) -> Index:
    """What the network's padding needs along z, y, x; where the depth is still to be chosen, what any depth needs."""
    least = min(10, options.depth * options.width if options.depth else 10) + 1
    return (least if options.ndim == 3 else 1, least, least)


def parse_background(text: str | int) -> str | int:
    """Read ``all``, ``near`` or a label value."""
    return int(text) if isinstance(text, str) and re.fullmatch(r"-?\d+", text.strip()) else text


def _dimensions_of(pairs: Sequence[tuple[str | Path, str | Path]]) -> int:
    """2 where every volume is a single plane."""
    for path, _ in pairs:
        with open_volume(path) as volume:
            if volume.shape[0] > 1:
                return 3
    return 2


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise BadOption(f"{name} {value!r} is not one of {', '.join(str(c) for c in choices)}")
