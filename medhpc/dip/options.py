"""The options of Deep Image Prior, checked once, and the presets behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medhpc.errors import BadOption
from medhpc.nets.skip import Skip

METHODS = ("dip", "r2r")
NOISES = ("auto", "gaussian", "rician")
STOPS = ("auto", "held-out", "emv", "none")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")

R2R_ITERATIONS = 200, 800
"""At least and at most, by the noise; see :func:`medhpc.dip.descent.bound`."""
SKIP_CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and how long it is trained: channels per level, depth of the code, padding, upsampling."""

    channels: Sequence[int]
    code: int
    padding: str
    upsample: str
    iterations: int


PRESETS = {
    "paper": Preset(channels=(128,) * 5, code=32, padding="reflection", upsample="linear", iterations=3000),
    "small": Preset(channels=(16, 32, 48), code=16, padding="zero", upsample="nearest", iterations=2500),
}
"""`paper` is that of Ulyanov et al., in 3D 6,466,149 parameters; `small` was found on a brain MRI on two CPU cores."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides a result; see :func:`medhpc.dip.denoise.denoise`.

    Raises
    ------
    BadOption
    """

    method: str = "dip"
    preset: str = "paper"
    channels: int | None = None
    scales: int | None = None
    iterations: int | None = None
    noise: str = "auto"
    sigma: float | None = None
    stop: str = "auto"
    tv: float = 0.0
    factor: int = 1
    runs: int = 1
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        choices = {"method": METHODS, "preset": tuple(PRESETS), "noise": NOISES, "stop": STOPS}
        for name, known in {**choices, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                raise BadOption(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name in ("channels", "scales", "iterations", "sigma", "runs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadOption(f"{name} {value} is not above zero")
        if self.factor not in (1, 2, 4) or not self.tv >= 0:
            raise BadOption(f"factor {self.factor} and tv {self.tv}: expected factor 1, 2 or 4, and tv 0 or more")
        if self.method == "r2r" and self.factor > 1:
            raise BadOption("factor needs method dip: r2r makes an image of the size that it was given")
        if self.method == "r2r" and self.stop in ("held-out",):
            raise BadOption("stop held-out needs method dip: the input of r2r holds every voxel; use stop none or emv")

    @property
    def n_iterations(self) -> int:
        """The bound, which is reached where nothing stops earlier; of r2r the most that it may be."""
        return self.iterations or (R2R_ITERATIONS[1] if self.method == "r2r" else PRESETS[self.preset].iterations)

    @property
    def stops_by(self) -> str:
        """What ``stop="auto"`` means for the method."""
        if self.stop != "auto":
            return self.stop
        return "none" if self.method == "r2r" else "held-out"

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels per level, from the finest on."""
        known = tuple(PRESETS[self.preset].channels)
        scales = self.scales or len(known)
        if self.channels is not None:
            return (self.channels,) * scales
        return (known + known[-1:] * scales)[:scales]

    def input_channels(self, image_channels: int) -> int:
        """Channels that the network sees: a random code, or the image itself."""
        return image_channels if self.method == "r2r" else PRESETS[self.preset].code

    def network(self, ndim: int, image_channels: int) -> Skip:
        """A network with fresh weights, from torch's global generator."""
        preset = PRESETS[self.preset]
        return Skip(
            self.input_channels(image_channels),
            image_channels,
            ndim=ndim,
            down=self.level_channels,
            skip=SKIP_CHANNELS,
            padding=preset.padding,
            upsample=preset.upsample,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON knows them."""
        return asdict(self)
