"""The runs of one volume: each of its parts by each seed, and what an earlier attempt made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhpc.dip.descent import Place, descend, result_of
from medhpc.dip.facts import NOTHING, Facts, find_facts, is_stabilised
from medhpc.dip.image import Image, Part, Truth, check_mask
from medhpc.dip.measures import correlation_of_slabs
from medhpc.dip.memory import too_large
from medhpc.dip.options import Options
from medhpc.dip.plan import need
from medhpc.dip.problem import Problem, assemble
from medhpc.dip.results import RunRecord, Standing
from medhpc.dip.share import Share
from medhpc.dip.stabilise import from_stable, to_stable
from medhpc.dip.state import State, write_together
from medhpc.errors import BadOption, NotEnoughMemory
from medhpc.nets.files import Streamed, read_about, read_part
from medhpc.nets.skip import Skip
from medhpc.ranks.group import Ranks

OUTPUT = "output"
"""What the result is called in its file."""
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Done:
    """Files with the results of each run, one for each part, what is said of these, the network's size."""

    runs: Sequence[Sequence[Path]]
    records: list[RunRecord]
    parameters: int

    def planes(self, z0: int, z1: int) -> Array:
        """(runs, channels, z, y, x) of some planes, in the volume's numbers."""
        part = (slice(None), slice(z0, z1))
        return np.stack([np.concatenate([read_part(path, OUTPUT, part).numpy() for path in run]) for run in self.runs])


class Work:
    """The runs of one volume, by one rank or several; the first one has all results, and files are its alone."""

    def __init__(
        self,
        *,
        image: Image,
        options: Options,
        mask: str | Path | None,
        truth: Truth | None,
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
        self.identity: dict[str, Any] = {}

    def check(self) -> None:
        """Look through the volume for what is wrong with it; the first rank does."""
        if self.mask is not None:
            check_mask(self.mask, self.image.shape)
        digest = None
        for channels in self.image.parts():
            with self.image.part(channels, self.mask) as part:
                part.check()
                digest = part.digest()
        self.identity = {
            "options": self.options.as_json(),
            "volume": self.image.fingerprint,
            "precision": self.precision,
            "device": self.device.type,
            "mask": digest,
        }

    def all_runs(self) -> Done | None:
        """All that the first rank has in the end; None on the others."""
        parts = self.image.parts()
        runs = []
        for run in range(self.options.runs):
            runs.append([self._one(number, channels, run, len(parts)) for number, channels in enumerate(parts)])
        if not self.ranks.is_first:
            return None
        abouts = [read_about(path) for run in runs for path in run]
        records = [RunRecord(**about["record"]) for about in abouts]
        return Done(runs=runs, records=records, parameters=abouts[-1]["parameters"])

    def _one(self, number: int, channels: slice, run: int, parts: int) -> Path:
        """The file of one descent, made now or by an earlier attempt."""
        name = f"part{number}-run{run}"
        done = self.folder / f"{name}.safetensors"
        place = Place(path=self.folder / f"{name}.now.safetensors", identity=self.identity)
        with self.ranks.agreed():
            if self.ranks.is_first:
                for path in (done, place.path):
                    if path.exists():
                        self._check(path, read_about(path))
        if not self.ranks.from_first(int(done.exists())):
            self._descend(number, channels, run, parts, place, done)
            if self.ranks.is_first:
                place.path.unlink(missing_ok=True)
        return done

    def _descend(self, number: int, channels: slice, run: int, parts: int, place: Place, done: Path) -> None:
        """Make the file."""
        options = self.options
        with self.image.part(channels, self.mask) as part:
            facts = self._facts(part, channels)
            with self.ranks.agreed():
                problem = self._problem(part, channels, facts)
        resumed_at = read_about(place.path)["iteration"] if place.path.exists() and self.ranks.is_first else 0
        seed, of_all = options.seed + run, number + run * parts
        try:
            state = descend(
                problem,
                options,
                seed,
                precision=self.precision,
                checkpointed=self.checkpointed,
                way_up=self.way_up,
                place=place,
                progress=self._teller(of_all + 1, parts * options.runs),
            )
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise self._too_large() from None
        result = result_of(state)
        record = RunRecord(
            part=number,
            seed=seed,
            iterations=state.iteration,
            chosen=state.best_iteration or state.iteration,
            seconds=round(state.seconds, 2),
            resumed_at=resumed_at,
            restores=state.restores,
            noise=facts.noise.kind,
            sigma=facts.noise.sigma,
            measured=facts.measured,
            noise_is_seen=facts.noise.is_seen,
            residual_correlation=self._correlation(problem, result),
            history=state.history,
        )
        about = {"identity": self.identity, "record": asdict(record), "parameters": state.network.n_parameters}
        whole = self._in_numbers_of_the_volume(problem.share.streamed(result), problem, facts)
        write_together(done, {}, about, {OUTPUT: whole}, self.ranks)

    def _facts(self, part: Part, channels: slice) -> Facts:
        """What the first rank finds, on all."""
        facts = NOTHING
        with self.ranks.agreed():
            if self.ranks.is_first:
                facts = find_facts(part, self.options)
                if self.truth is not None:
                    range_of_truth = self.truth.range_of(channels)
                    facts = replace(facts, data_range=self.data_range or range_of_truth)
        return Facts.of_numbers(self.ranks.numbers_of_first(facts.as_numbers()))

    def _problem(self, part: Part, channels: slice, facts: Facts) -> Problem:
        """What this rank has of one part."""
        network, truth = self._network(part), self.truth
        share = Share.of(self.ranks, part.space, self.options.factor, network)
        axis_of_file = share.axis + 3 - len(part.space)

        def image(planes: range) -> NDArray[Any]:
            values = part.read(share.axis, planes)
            values = to_stable(values, facts.noise.sigma) if is_stabilised(facts.noise, self.options) else values
            return values if self.mask is None else np.nan_to_num(values, nan=facts.fill)

        def known(planes: range) -> NDArray[Any]:
            found = part.known(share.axis, planes)
            assert found is not None
            return found[None]

        return assemble(
            share,
            image,
            None if self.mask is None else known,
            None if truth is None else lambda planes: truth.read(channels, axis_of_file, planes),
            noise=facts.noise,
            scale=facts.scale,
            data_range=facts.data_range,
            device=self.device,
        )

    def _network(self, part: Part) -> Skip:
        with torch.device("meta"):
            return self.options.network(len(part.space), part.channels)

    def _in_numbers_of_the_volume(self, result: Streamed, problem: Problem, facts: Facts) -> Streamed:
        """(channels, z, y, x) in float32."""
        _, channels, *space = result.shape

        def back(piece: Tensor) -> Tensor:
            values = problem.scale.back(piece.float().numpy())
            stable = is_stabilised(facts.noise, self.options)
            return torch.from_numpy(from_stable(values, facts.noise.sigma) if stable else values)

        shape = (channels, *[1] * (3 - len(space)), *space)
        return Streamed(shape=shape, dtype=torch.float32, pieces=(back(piece) for piece in result.pieces))

    def _correlation(self, problem: Problem, result: Tensor) -> float:
        """Of neighbours in what was taken away."""
        if self.options.factor > 1 or self.mask is not None:
            return 0.0
        return correlation_of_slabs(problem.image - result.float(), problem.share.cut)

    def _too_large(self) -> NotEnoughMemory:
        """What it takes, and what would take less."""
        shape = self.image.problem_shape
        wanted = need(shape, self.options, self.precision, self.checkpointed, self.ranks.size).peak
        return too_large(shape, self.options, wanted, self.ranks.size)

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
