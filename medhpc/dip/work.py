"""The runs of one volume: each of its parts by each seed, and what an earlier attempt made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from medhpc.dip.descent import Place, descend, result_of
from medhpc.dip.files import Image
from medhpc.dip.measures import agreement
from medhpc.dip.memory import too_large
from medhpc.dip.noise import Noise, estimate_noise, neighbour_correlation
from medhpc.dip.options import Options
from medhpc.dip.plan import need
from medhpc.dip.problem import Problem, pose, space_of
from medhpc.dip.results import RunRecord, Standing
from medhpc.dip.share import Share
from medhpc.dip.stabilise import from_stable, to_stable
from medhpc.dip.state import State
from medhpc.errors import BadOption, NotEnoughMemory
from medhpc.nets.files import read_about, read_tensors, write_tensors
from medhpc.ranks.group import Ranks

Array = NDArray[np.float32]
Made: TypeAlias = tuple[Array, RunRecord, int]
"""Output (channels, z, y, x) of one descent, what is said of it, and the network's number of parameters."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Results (runs, channels, z, y, x) in the volume's numbers, what is said of each part, the network's size."""

    outputs: Array
    records: list[RunRecord]
    parameters: int


class Work:
    """The runs of one volume, by one rank or several; the first one has all results, and files are its alone."""

    def __init__(
        self,
        *,
        image: Image,
        options: Options,
        mask: NDArray[Any] | None,
        truth: Array | None,
        data_range: float | None,
        device: torch.device,
        precision: str,
        checkpointed: int,
        folder: Path,
        way_up: torch.device | None,
        ranks: Ranks,
        progress: Callable[[Standing], None] | None,
    ) -> None:
        self.image, self.options, self.mask, self.truth = image, options, mask, truth
        self.data_range, self.device, self.precision = data_range, device, precision
        self.checkpointed, self.folder, self.ranks, self.progress = checkpointed, folder, ranks, progress
        self.way_up = way_up
        self.identity = {
            "options": options.as_json(),
            "volume": image.fingerprint,
            "precision": precision,
            "device": device.type,
            "mask": None if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        }

    def all_runs(self) -> Done | None:
        """All that the first rank has in the end; None on the others."""
        parts = list(self.image.parts())
        results, records, parameters = [], [], 0
        for run in range(self.options.runs):
            made = [self._one(number, channels, run, len(parts)) for number, channels in enumerate(parts)]
            ours = [one for one in made if one is not None]
            if ours:
                results.append(np.concatenate([output for output, _, _ in ours]))
                records += [record for _, record, _ in ours]
                parameters = ours[-1][2]
        return Done(outputs=np.stack(results), records=records, parameters=parameters) if results else None

    def _one(self, number: int, channels: slice, run: int, parts: int) -> Made | None:
        """One descent, or what an earlier attempt made of it; None on all ranks but the first."""
        name = f"part{number}-run{run}"
        done = self.folder / f"{name}.safetensors"
        place = Place(path=self.folder / f"{name}.now.safetensors", identity=self.identity)
        with self.ranks.agreed():
            if self.ranks.is_first:
                for path in (done, place.path):
                    if path.exists():
                        self._check(path, read_about(path))
        if self.ranks.from_first(int(done.exists())):
            return self._read(done) if self.ranks.is_first else None
        found = self._descend(number, channels, run, parts, place)
        with self.ranks.agreed():
            if found is None:
                return None
            output, record, parameters = found
            about = {"identity": self.identity, "record": asdict(record), "parameters": parameters}
            write_tensors(done, {"output": torch.from_numpy(output)}, about)
            place.path.unlink(missing_ok=True)
        return found

    def _read(self, done: Path) -> Made:
        tensors, about = read_tensors(done)
        return tensors["output"].numpy(), RunRecord(**about["record"]), about["parameters"]

    def _descend(self, number: int, channels: slice, run: int, parts: int, place: Place) -> Made | None:
        """None on all ranks but the first."""
        options, voxels = self.options, self.image.voxels[channels]
        with self.ranks.agreed():
            noise = self._noise(voxels)
            problem = self._problem(channels, noise)
        resumed_at = read_about(place.path)["iteration"] if place.path.exists() and self.ranks.is_first else 0
        seed, part = options.seed + run, number + run * parts
        try:
            state = descend(
                problem,
                options,
                seed,
                precision=self.precision,
                checkpointed=self.checkpointed,
                way_up=self.way_up,
                place=place,
                progress=self._teller(part + 1, parts * options.runs),
            )
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise self._too_large() from None
        whole = problem.share.whole(result_of(state))
        if whole is None:
            return None
        found = whole[0].float().numpy()  # (channels, space)
        output = problem.scale.back(found if found.ndim == 4 else found[:, None])
        record = RunRecord(
            part=number,
            seed=seed,
            iterations=state.iteration,
            chosen=state.best_iteration or state.iteration,
            seconds=round(state.seconds, 2),
            resumed_at=resumed_at,
            restores=state.restores,
            noise=noise.kind,
            sigma=noise.sigma,
            measured=self._noise(voxels, given=False).sigma if options.sigma else noise.sigma,
            noise_is_seen=noise.is_seen,
            residual_correlation=self._correlation(voxels, output),
            history=state.history,
        )
        stable = self._is_stabilised(noise)
        return from_stable(output, noise.sigma) if stable else output, record, state.network.n_parameters

    def _problem(self, channels: slice, noise: Noise) -> Problem:
        """What this rank has of one part."""
        voxels, factor = self.image.voxels[channels], self.options.factor
        space = space_of(voxels.shape)
        with torch.device("meta"):
            network = self.options.network(len(space), len(voxels))
        return pose(
            to_stable(voxels, noise.sigma) if self._is_stabilised(noise) else voxels,
            noise,
            self.device,
            mask=self.mask,
            truth=None if self.truth is None else self.truth[channels],
            data_range=self.data_range,
            share=Share.of(self.ranks, space, factor, network),
        )

    def _is_stabilised(self, noise: Noise) -> bool:
        """The noise of r2r is normal: where it is Rician, the image is transformed for it."""
        return self.options.method == "r2r" and noise.kind == "rician"

    def _too_large(self) -> NotEnoughMemory:
        """What it takes, and what would take less."""
        shape = self.image.problem_shape
        wanted = need(shape, self.options, self.precision, self.checkpointed, self.ranks.size).peak
        return too_large(shape, self.options, wanted, self.ranks.size)

    def _noise(self, voxels: Array, *, given: bool = True) -> Noise:
        """Each channel is measured, the middle one is taken; several in a plane are colours, and no magnitudes.

        A level that the options tell goes before what is measured if `given`.
        """
        options = self.options
        colours = len(voxels) > 1 and voxels.shape[1] == 1
        kind = "gaussian" if colours and options.noise == "auto" else options.noise
        found = [estimate_noise(v[0] if len(v) == 1 else v, kind, options.sigma if given else None) for v in voxels]
        return sorted(found, key=lambda noise: noise.sigma)[len(found) // 2]

    def _correlation(self, voxels: Array, output: Array) -> float:
        if self.options.factor > 1 or self.mask is not None:
            return 0.0
        return max(neighbour_correlation(one - other) for one, other in zip(voxels, output, strict=True))

    def _teller(self, part: int, parts: int) -> Callable[[int, int, State], None] | None:
        if self.progress is None or not self.ranks.is_first:
            return None
        tell = self.progress

        def report(done: int, total: int, state: State) -> None:
            last: Mapping[str, Any] = state.history[-1] if state.history else {}
            tell(
                Standing(
                    part=part,
                    parts=parts,
                    iteration=done,
                    iterations=total,
                    seconds_per_iteration=state.seconds / done,
                    loss=state.loss,
                    emv=state.emv,
                    psnr=last.get("psnr"),
                )
            )

        return report

    def _check(self, path: Path, about: Mapping[str, Any]) -> None:
        """Refuse what another denoising left."""
        other = about.get("identity") or {}
        mine = json.loads(json.dumps(self.identity))
        if other == mine:
            return
        changed = [key for key in mine if key != "options" and mine[key] != other.get(key)]
        theirs = other.get("options") or {}
        changed += [key for key, value in mine["options"].items() if theirs.get(key) != value]
        raise BadOption(
            f"{path.parent} was left by a denoising that differs in {', '.join(changed) or 'its version'}: repeat that "
            "one's options to go on with it, or say --no-resume to begin anew"
        )

    def shown(self) -> Array:
        """The noisy image, with holes where it is not known."""
        return self.image.voxels if self.mask is None else np.where(self.mask, self.image.voxels, np.nan)

    def measures(self, mean: Array) -> dict[str, float | None]:
        """PSNR and SSIM against the truth."""
        if self.truth is None:
            return {"psnr": None, "psnr_noisy": None, "ssim": None}
        psnr, ssim = agreement(mean, self.truth, self.data_range)
        same = self.options.factor == 1
        noisy = agreement(self.image.voxels, self.truth, self.data_range)[0] if same else None
        return {"psnr": psnr, "psnr_noisy": noisy, "ssim": ssim}

    def compare(self, mean: Array, seconds: float) -> list[dict[str, Any]]:
        """The result, and filters that need no network on the same volume."""
        from medhpc.dip.compare import compare, taken_away

        noise, measures = self._noise(self.image.voxels), self.measures(mean)
        ours = {"method": "medhpc dip", "setting": None, "seconds": seconds}
        ours |= {"psnr": measures["psnr"], "ssim": measures["ssim"], **taken_away(self.image.voxels, mean)}
        return [ours, *compare(self.image.voxels, noise.sigma, self.truth, self.data_range)]
