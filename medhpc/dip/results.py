"""What a denoising tells: how it stands, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a descent stands after an iteration; ``str()`` is one line for people.

    `part` of `parts` are the volumes of a series and the runs of each; `psnr` is None where there is no truth.
    """

    part: int
    parts: int
    iteration: int
    iterations: int
    seconds_per_iteration: float
    loss: float
    emv: float
    psnr: float | None

    @property
    def seconds_left(self) -> float:
        """Until the bound of the iterations, in all parts."""
        left = self.iterations - self.iteration + self.iterations * (self.parts - self.part)
        return left * self.seconds_per_iteration

    def __str__(self) -> str:
        words = [f"iteration {self.iteration} of {self.iterations}", f"loss {self.loss:.5f}", f"EMV {self.emv:.2e}"]
        if self.parts > 1:
            words.insert(0, f"part {self.part} of {self.parts}")
        if self.psnr is not None:
            words.append(f"PSNR {self.psnr:.2f} dB")
        words += [f"{self.seconds_per_iteration:.2g} s each", f"at most {_duration(self.seconds_left)} left"]
        return "  ".join(words)


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One descent: of which volume of the series, by which seed, how it went.

    `chosen` is the iteration whose average is the result; `residual_correlation` that of neighbours in what was taken
    away, near 0 for white noise; `measured` the noise level that the image has, whatever `sigma` was given.
    `noise_is_seen` is False where Rician noise was asked for, and there is no air by which it is told.
    """

    part: int
    seed: int
    iterations: int
    chosen: int
    seconds: float
    resumed_at: int
    restores: int
    noise: str
    sigma: float
    measured: float
    noise_is_seen: bool
    residual_correlation: float
    history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class DipResult:
    """What came of a denoising.

    Attributes
    ----------
    clean, deviation : Path
        Volumes written; `deviation` (of several runs, voxel by voxel) is None for one run.
    picture, history : Path
        PNG and JSON beside `clean`.
    shape : tuple of int
        (z, y, x) of `clean`.
    parameters : int
        Of the network.
    ranks : int
        That shared the image.
    runs : sequence of RunRecord
    psnr, psnr_noisy, ssim
        Against the truth, where there is one.
    compared : sequence of dict
        This and filters beside it, if that was asked for: method, setting, seconds, psnr, ssim, taken_away (its
        deviation), residual_correlation.
    notes : sequence of str
        What the user should know.
    """

    clean: Path
    deviation: Path | None
    picture: Path
    history: Path
    shape: tuple[int, int, int]
    parameters: int
    device: str
    ranks: int
    precision: str
    runs: Sequence[RunRecord]
    psnr: float | None
    psnr_noisy: float | None
    ssim: float | None
    compared: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
