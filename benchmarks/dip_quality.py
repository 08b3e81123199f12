"""Denoising by Deep Image Prior against filters, on a real MRI and a photo with noise added.

    python -m benchmarks.dip_quality DATA [--only "brain 0.1"] [--seeds 3]

DATA holds public images: mri/MR_Gd.nii.gz (of NiiVue's images) and photos/F16_GT.png (of the Deep Image Prior paper).
Crops of the MRI, divided by their brightest voxel, get white noise of deviation 0.1 or 0.05 (`rician`: both channels of
a complex image do); filters are tuned with the truth, which nobody has: what they reach is an upper bound. medhpc's
methods use the preset `small` in bf16 (half the time of fp32 on a CPU) and see the noisy volume only; `sigma x 0.8` and
`1.2` are r2r told a noise level 20 % too low or too high.
Of the photo a crop of 128 x 128 gets noise of deviation 25 (of 255), with 64 channels in 4 levels, 900 iterations.

Claims: r2r is at least 0.7 dB above the best filter inside the brain and 0.5 dB at its edge; plain DIP at most 0.3 dB
below the best filter inside, its stop within 0.2 dB of its best average; the photo's best average reaches 29.5 dB, and
the stop is within 0.5 dB of it. Results are written after every case.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.measure import RESULTS, publish, table
from medhpc.dip.compare import STRENGTHS, compare
from medhpc.dip.denoise import denoise
from medhpc.dip.measures import agreement
from medhpc.dip.options import Options
from medhpc.geometry import Box
from medhpc.volume import open_volume

Image = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A crop, its noise, and how medhpc denoises it."""

    file: str
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    sigma: float
    ways: Mapping[str, Options]
    rician: bool = False
    off: Sequence[float] = ()  # wrong noise levels that r2r is told, relative to the right one; with the first seed
    seeds: int = 3  # at most


SMALL = {way: Options(preset="small", method=way, precision="bf16") for way in ("r2r", "dip")}
PHOTO = {"dip": Options(channels=64, scales=4, iterations=900, precision="bf16")}
BRAIN: Any = {"file": "mri/MR_Gd.nii.gz", "start": (40, 62, 56), "stop": (104, 126, 120), "ways": SMALL}
EDGE: Any = {"file": "mri/MR_Gd.nii.gz", "start": (8, 62, 56), "stop": (72, 126, 120), "ways": SMALL}

CASES = {
    "brain 0.1": Case(**BRAIN, sigma=0.1, off=(0.8, 1.2)),
    "edge 0.1": Case(**EDGE, sigma=0.1),
    "brain 0.05": Case(**BRAIN, sigma=0.05),
    "edge 0.05": Case(**EDGE, sigma=0.05),
    "brain rician 0.1": Case(**BRAIN, sigma=0.1, rician=True, seeds=1),
    "photo": Case(file="photos/F16_GT.png", start=(0, 256, 128), stop=(1, 384, 256), sigma=25 / 255, ways=PHOTO),
}


def main() -> None:
    arguments = _arguments()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for seed in range(arguments.seeds):
        for name, case in CASES.items():
            if seed >= case.seeds or (arguments.only and name not in arguments.only):
                continue
            rows = found.setdefault(name, {})
            case = replace(case, ways={way: case.ways[way] for way in case.ways if way in arguments.ways})
            for way, row in measure(arguments.data, case, seed, arguments.iterations, arguments.size):
                rows.setdefault(way, []).append({"seed": seed, **row})
                print(f"{name}, seed {seed}, {way}: {row['psnr']:.2f} dB, {row['seconds']:.0f} s", flush=True)
            publish(arguments.results, "dip_quality", {"iterations": arguments.iterations, "cases": found})
    for name, rows in found.items():
        print(f"\n{name}")
        print(table(("way", "PSNR", "best average", "seconds"), [_cells(way, each) for way, each in rows.items()]))
        best = max(_mean(each, "psnr") for way, each in rows.items() if way.startswith("filter"))
        for way in (way for way in CASES[name].ways if way in arguments.ways):
            print(f"{way} - best filter: {_mean(rows[way], 'psnr') - best:+.2f} dB")


def measure(data: Path, case: Case, seed: int, iterations: int | None, size: int | None) -> Any:
    """(way, figures) of the noisy crop, of the filters, and of each way of medhpc."""
    truth = crop(data, case, size)
    noisy = with_noise(truth, case.sigma, seed, case.rician)
    yield "noisy", {"psnr": agreement(noisy, truth, 1.0)[0], "seconds": 0.0}
    for row in (*compare(noisy, case.sigma, truth, 1.0), wavelets(noisy, case.sigma, truth)):
        yield f"filter {row['method']}", {key: row[key] for key in ("psnr", "seconds", "setting")}
    for way, options in case.ways.items():
        yield way, denoised(noisy, truth, options, seed, iterations)
        for factor in case.off if way == "r2r" and not seed else ():
            wrong = Options(**{**options.as_json(), "sigma": factor * case.sigma})
            yield f"{way}, sigma x {factor}", denoised(noisy, truth, wrong, seed, iterations)


def crop(data: Path, case: Case, size: int | None) -> Image:
    """(channels, z, y, x), its brightest voxel 1."""
    with open_volume(data / case.file) as volume:
        stop = (
            case.stop
            if size is None
            else tuple(a + min(size, b - a) for a, b in zip(case.start, case.stop, strict=True))
        )
        values = volume.read(Box(case.start, (stop[0], stop[1], stop[2]))).astype(np.float32)
    return values / values.max()


def with_noise(truth: Image, sigma: float, seed: int, rician: bool) -> Image:
    """White noise, of magnitudes if `rician`."""
    drawn = np.random.default_rng(seed).normal(scale=sigma, size=(2, *truth.shape)).astype(np.float32)
    return np.hypot(truth + drawn[0], drawn[1]) if rician else truth + drawn[0]


def wavelets(noisy: Image, sigma: float, truth: Image) -> dict[str, Any]:
    """BayesShrink of scikit-image, tuned as the other filters are."""
    from skimage.restoration import denoise_wavelet

    rows = []
    for strength in STRENGTHS:
        began = time.perf_counter()
        options = {"sigma": strength * sigma, "wavelet": "db2", "rescale_sigma": False}
        found = np.stack([denoise_wavelet(channel.squeeze(), **options) for channel in noisy]).reshape(truth.shape)
        seconds, psnr = time.perf_counter() - began, agreement(found, truth, 1.0)[0]
        rows.append({"method": "wavelets", "setting": strength, "seconds": seconds, "psnr": psnr})
    return max(rows, key=lambda row: row["psnr"])


def denoised(noisy: Image, truth: Image, options: Options, seed: int, iterations: int | None) -> dict[str, Any]:
    """What medhpc makes of it, as a user calls it."""
    options = Options(**{**options.as_json(), "seed": seed, "iterations": iterations or options.iterations})
    with TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.tif") for name in ("noisy", "truth", "clean")}
        for name, image in (("noisy", noisy), ("truth", truth)):
            colours = len(image) > 1
            values = np.moveaxis(image[:, 0], 0, -1) if colours else image[0]
            tifffile.imwrite(files[name], values, photometric="rgb" if colours else "minisblack")
        result = denoise(
            files["noisy"], files["clean"], options=options, truth=files["truth"], data_range=1.0, threads=1
        )
    (run,) = result.runs
    best = max((entry["psnr"], entry["iteration"]) for entry in run.history)
    return {
        "psnr": result.psnr,
        "best": best[0],
        "best_at": best[1],
        "chosen": run.chosen,
        "iterations": run.iterations,
        "seconds": run.seconds,
        "noise": run.noise,
        "sigma": run.sigma,
        "residual_correlation": run.residual_correlation,
        "notes": list(result.notes),
    }


def _cells(way: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    best = f"{_mean(rows, 'best'):.2f}" if "best" in rows[0] else ""
    spread = f" +- {statistics.stdev(row['psnr'] for row in rows):.2f}" if len(rows) > 1 else ""
    return way, f"{_mean(rows, 'psnr'):.2f}{spread}", best, f"{_mean(rows, 'seconds'):.1f}"


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the images")
    parser.add_argument("--only", nargs="+", choices=CASES, help="these cases (default all)")
    parser.add_argument("--ways", nargs="+", choices=SMALL, default=[*SMALL], help="of medhpc (default all)")
    parser.add_argument("--seeds", type=int, default=3, help="of noise and network (default 3)")
    parser.add_argument("--iterations", type=int, help="instead of each method's own, to try it")
    parser.add_argument("--size", type=int, help="longest axis of a crop, to try it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default benchmarks/results)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
