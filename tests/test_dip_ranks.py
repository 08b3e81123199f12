"""Deep Image Prior over ranks: the result does not depend on their number, nor on which of them was killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranked import Command, commands, on_ranks

from medhpc.cli import dip, dip_plan, main
from medhpc.cli.main import run_here
from medhpc.dip import descent
from medhpc.dip import plan as plans
from medhpc.dip.descent import begin, descend, loss_of, make_code, result_of, take_step
from medhpc.dip.descent import forward as forward_of
from medhpc.dip.draws import Draws
from medhpc.dip.noise import Noise
from medhpc.dip.options import Options
from medhpc.dip.problem import Problem, held_out, pose, space_of
from medhpc.dip.share import Share
from medhpc.dip.tally import Tally
from medhpc.geometry import Box
from medhpc.nets.division import add_up_gradients
from medhpc.ranks.group import ALONE, Ranks
from medhpc.volume import create_volume, open_volume

torch.set_num_threads(1)
CPU = torch.device("cpu")
NOISE = Noise(kind="gaussian", sigma=120.0)
SHAPES = {"3D": (9, 37, 10), "2D": (1, 38, 16)}
CASES: list[dict[str, Any]] = [
    {"preset": "small", "channels": 4, "scales": 3},
    {"preset": "paper", "channels": 4, "scales": 3, "method": "r2r"},
    {"preset": "paper", "channels": 4, "scales": 2, "factor": 2, "tv": 0.1},
    {"preset": "small", "channels": 4, "scales": 1, "noise": "rician"},
]


def image_of(shape: tuple[int, ...]) -> np.ndarray:
    """(1, z, y, x): waves and noise."""
    z, y, x = np.indices(shape)
    waves = 500 + 200 * np.sin(z / 3 + y / 5) + 150 * np.cos(x / 4 - y / 7)
    return (waves + np.random.default_rng(0).normal(0, 60, shape)).astype(np.float32)[None]


def problem_of(ranks: Ranks, shape: tuple[int, ...], options: Options, double: bool) -> Problem:
    image = image_of(shape)
    space = space_of(image.shape)
    share = Share.of(ranks, space, options.factor, options.network(len(space), 1))
    noise = Noise(kind="rician" if options.noise == "rician" else "gaussian", sigma=60.0)
    problem = pose(image, noise, CPU, share=share, mask=image[0] > 320)
    if not double:
        return problem
    tensors = {name: getattr(problem, name).double() for name in ("image", "seen", "known")}
    return Problem(**{**vars(problem), **tensors})


# --- laws ----------------------------------------------------------------------------------------


def first_steps(ranks: Ranks, cases: list[tuple[tuple[int, ...], dict[str, Any], str, int]]) -> list[Any]:
    """Gradients of the first step, and first output, of all these cases."""
    return [first_step(ranks, *case) for case in cases]


def first_step(ranks: Ranks, shape: tuple[int, ...], about: dict[str, Any], precision: str, checkpointed: int) -> Any:
    options = Options(**about)
    problem = problem_of(ranks, shape, options, precision == "fp64")
    state, draws = begin(problem, options, 0, precision, checkpointed), Draws(0, CPU)
    code = make_code(problem, options, draws, precision)
    weights = problem.known - held_out(problem, options, draws)
    output, fitted, wanted = forward_of(state, problem, options, draws, code, precision)
    loss_of(problem, options, output, fitted, wanted, weights).backward()
    add_up_gradients(state.network)
    gradients = [p.grad for p in state.network.parameters()]
    return gradients, problem.share.whole(output.detach()) if ranks.size > 1 else output.detach()


@pytest.mark.parametrize("size", [2, 4])
def test_the_first_step_is_that_of_one_rank(size):
    cases = [(shape, about, "fp64", 0) for shape in SHAPES.values() for about in CASES]
    cases += [(SHAPES["3D"], CASES[1], "fp64", 2), (SHAPES["3D"], CASES[0], "fp32", 0)]
    found = on_ranks(size, first_steps, cases)
    for case, here, there in zip(cases, first_steps(ALONE, cases), zip(*found, strict=True), strict=True):
        gradients, output = here
        relative = 1e-10 if case[2] == "fp64" else 1e-3
        scale = max(float(gradient.abs().max()) for gradient in gradients)
        for each, _ in there:
            for one, other in zip(each, gradients, strict=True):
                assert float((one - other).abs().max()) < relative * scale, case
        assert float((there[0][1] - output).abs().max()) < (1e-12 if case[2] == "fp64" else 1e-5), case


def many_steps(ranks: Ranks, shape: tuple[int, ...], scales: int, steps: int) -> Any:
    options = Options(preset="small", channels=4, scales=scales, iterations=steps)
    problem = problem_of(ranks, shape, options, double=True)
    state = descend(problem, options, 0, precision="fp64")
    result = result_of(state)
    return (problem.share.whole(result) if ranks.size > 1 else result), state.iteration, state.history


@pytest.mark.slow
@pytest.mark.parametrize("size, scales, steps", [(2, 3, 100), (4, 1, 30)])  # one of them goes far: rounding adds up
def test_many_steps_are_those_of_one_rank(size, scales, steps):
    (output, iterations, history), *others = on_ranks(size, many_steps, (6, 34, 7), scales, steps)
    alone, alone_iterations, alone_history = many_steps(ALONE, (6, 34, 7), scales, steps)
    assert float((output - alone).abs().max()) < 1e-8
    assert {iterations, *(other[1] for other in others)} == {alone_iterations}
    for one, other in zip(history, alone_history, strict=True):
        assert one["held_out"] == pytest.approx(other["held_out"], rel=1e-6)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def qualities(ranks: Ranks) -> dict[str, float]:
    """PSNR after some steps; trajectories of 32 and 16 bit go their own ways."""
    found = {}
    clean = image_of((12, 24, 16)) * 0 + np.sin(np.indices((12, 24, 16)).sum(0) / 6)[None] * 300 + 500
    noisy = (clean + np.random.default_rng(1).normal(0, 100, clean.shape)).astype(np.float32)
    for precision in ("fp32", "bf16", "fp16"):
        options = Options(preset="small", channels=8, scales=1, iterations=20)
        share = Share.of(ranks, (12, 24, 16), 1, options.network(3, 1))
        problem = pose(noisy, NOISE, CPU, truth=clean.astype(np.float32), share=share)
        found[precision] = descend(problem, options, 0, precision=precision, checkpointed=1).history[-1]["psnr"]
    return found


@pytest.mark.slow
def test_other_precisions_reach_the_same():
    alone, (two, other) = qualities(ALONE), on_ranks(2, qualities)
    assert two == other
    assert two == pytest.approx(alone, abs=1.5)


# --- what each rank holds ------------------------------------------------------------------------


@pytest.mark.parametrize("length, size", [(37, 2), (33, 2), (96, 4), (45, 3)])
def test_shares_are_the_image(length, size):
    options = Options(preset="small", scales=3)
    network = options.network(3, 1)
    image = torch.arange(float(length)).reshape(1, 1, 1, length, 1)
    shares = [Share.of(Ranks(rank, size), (1, length, 1), 1, network) for rank in range(size)]
    assert torch.equal(torch.cat([share.of_image(image) for share in shares], 3), image)
    seen = torch.cat([share.as_seen(image) for share in shares], 3).flatten().numpy()
    assert np.array_equal(seen, np.pad(np.arange(length), (0, len(seen) - length), mode="reflect"))
    assert len(seen) == network.filled_shape((1, length, 1))[1]
    assert all(len(share.own_of(share.as_seen(image)).flatten()) > 0 for share in shares)


def held(ranks: Ranks, precision: str, checkpointed: int) -> int:
    """Bytes of tensors at most, in two steps."""
    options = Options(preset="paper", channels=16, scales=3)
    problem = problem_of(ranks, (24, 96, 40), options, double=False)
    state, draws = begin(problem, options, 0, precision, checkpointed), Draws(0, CPU)
    with Tally() as tally:
        tally.adopt((problem.seen, problem.known, *state.network.parameters()))
        code = make_code(problem, options, draws, precision)
        for _ in range(2):
            take_step(state, problem, options, draws, code, problem.known, precision)
    return tally.peak


@pytest.mark.parametrize("precision, checkpointed", [("fp32", 0), ("bf16", 2)])
def test_the_plan_is_what_the_ranks_hold(precision, checkpointed):
    options = Options(preset="paper", channels=16, scales=3)
    imagined = plans.need((1, 1, 24, 96, 40), options, precision, checkpointed, 3)
    assert imagined.ranks == 3
    assert imagined.peak == pytest.approx(max(on_ranks(3, held, precision, checkpointed)), rel=0.1)
    assert imagined.peak < 0.5 * plans.need((1, 1, 24, 96, 40), options, precision, checkpointed).peak


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.nii.gz"
    with create_volume(path, SHAPES["3D"], np.float32, voxel_size=(3, 1, 1), unit="mm") as writer:
        for z, plane in enumerate(image_of(SHAPES["3D"])[0]):
            writer.write(z, plane[None])
    return path


def stored(path):
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))


TINY = ["--preset", "small", "--scales", "2", "--channels", "4", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def start(tmp_path_factory) -> Iterator[Callable[..., list[Command]]]:
    """Start the command on several ranks, as torchrun does; none is left when the test ends."""
    with ExitStack() as stack:

        def begin(size: int, *words: str, main: Callable[..., Any] = main) -> list[Command]:
            return stack.enter_context(commands(tmp_path_factory.mktemp("printed"), size, main, *words))

        yield begin


def ended(started: list[Command]) -> list[tuple[int | None, str, str]]:
    """Exit codes and what they printed."""
    return [command.ended() for command in started]


@pytest.mark.slow
def test_one_rank_writes_and_the_others_are_silent(noisy, tmp_path, start):
    words = ["dip", str(noisy), str(tmp_path / "clean.nii.gz"), *TINY, "--iterations", "5"]
    (code, out, err), *others = ended(start(2, *words, "--truth", str(noisy)))
    assert code == 0, err
    assert "2 ranks, cpu" in out and others == [(0, "", "")]
    assert run_here([*words[:2], str(tmp_path / "alone.nii.gz"), *words[3:]]) == 0
    assert np.abs(stored(tmp_path / "clean.nii.gz") - stored(tmp_path / "alone.nii.gz")).max() < 1
    names = {"noisy.nii.gz", *(f"{n}{s}" for n in ("clean", "alone") for s in (".nii.gz", ".dip.png", ".dip.json"))}
    assert {path.name for path in tmp_path.iterdir()} == names


def waiting() -> None:
    """The command, which waits at two of its iterations until it may go on; its last word is a folder for marks."""
    marks = Path(sys.argv.pop())

    @contextmanager
    def telling():
        def tell(standing):
            for stop in (12, 20):
                if standing.iteration == stop:
                    (marks / f"at-{stop}").touch()
                    wait_for(marks / f"beyond-{stop}")

        yield tell

    descent.CHECKPOINT_SECONDS = 1e9
    dip._telling = telling
    main()


@pytest.mark.slow
def test_killed_and_resumed_with_another_number_of_ranks(noisy, tmp_path, start):
    marks = tmp_path / "marks"
    marks.mkdir()
    words = ["dip", str(noisy), str(tmp_path / "clean.nii.gz"), *TINY, "--iterations", "40", "--stop", "none"]
    processes = start(3, *words, str(marks), main=waiting)
    wait_for(marks / "at-12")
    os.kill(processes[1].process.pid, signal.SIGUSR1)  # any of them
    (marks / "beyond-12").touch()
    wait_for(marks / "at-20")
    [checkpoint] = (tmp_path / ".clean.nii.gz.dip").glob("part*")
    assert checkpoint.name == "part0-run0.now.safetensors"
    processes[2].process.kill()
    (marks / "beyond-20").touch()
    results = ended(processes)
    assert [code for code, _, _ in results] == [2, 2, -signal.SIGKILL]
    for rank in (0, 1):
        [line] = results[rank][2].splitlines()
        assert f"rank {rank} of 3: another rank has ended" in line
    (code, _, err), *others = ended(start(2, *words, "--channels", "5"))
    assert code == 2 and "differs in channels" in err and len(err.splitlines()) == 1 and others == [(2, "", "")]
    (code, out, err), _ = ended(start(2, *words, "--json"))
    assert code == 0, err
    assert json.loads(out)["runs"][0]["resumed_at"] == 13
    assert run_here([*words[:2], str(tmp_path / "alone.nii.gz"), *words[3:]]) == 0
    assert np.abs(stored(tmp_path / "clean.nii.gz") - stored(tmp_path / "alone.nii.gz")).max() < 10  # of 900


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


@pytest.mark.slow
def test_bad_input_is_one_line_of_one_rank(tmp_path, start):
    good, holey = image_of((3, 6, 5))[0], image_of((3, 14, 5))[0]
    holey[1, 2, 3] = np.nan
    for name, image in (("good.tif", good), ("holey.tif", holey)):
        with create_volume(tmp_path / name, image.shape, np.float32) as writer:
            writer.write(0, image)
    for name, words, line in (
        ("good.tif", [], "3 ranks for 6 planes: each needs 4 at least"),
        ("holey.tif", [], "NaN or infinite"),
        ("none.tif", [], "none.tif"),
    ):
        results = ended(start(3, "dip", str(tmp_path / name), str(tmp_path / "out.tif"), *TINY, *words))
        assert [code for code, _, _ in results] == [2, 2, 2], results
        [said] = "".join(err for _, _, err in results).splitlines()
        assert line in said
        assert {path.name for path in tmp_path.iterdir()} == {"good.tif", "holey.tif"}


# --- before it runs ------------------------------------------------------------------------------


def test_a_plan_for_ranks(noisy, capsys):
    found = plans.plan(noisy, Options(preset="small", scales=2, channels=4), ranks=(1, 3))
    assert [need.ranks for need in found.needs] == [1, 1, 1, 1, 3, 3, 3, 3]
    one, three = found.needs[0], found.needs[4]
    assert one.peak > 1.5 * three.peak and three.ask == "--nodes 1 --gres gpu:3 (16 GB)"
    dip_plan._print_plan(found)
    printed = capsys.readouterr().out
    assert "thickest slab" in printed and "--parallel layers would keep" in printed
    assert run_here(["dip-plan", str(noisy), *TINY[:6], "--ranks", "99"]) == 2
    assert "99 ranks for 37 planes" in capsys.readouterr().err
    assert run_here(["dip-plan", str(noisy), "--ranks", "1,x"]) == 2
    assert "not a list of numbers" in capsys.readouterr().err
    assert plans._ask(2**30, 6) == "--nodes 2 --gres gpu:3 (16 GB)"


@pytest.mark.slow
def test_two_halves_are_the_network(noisy, tmp_path, capsys, start):
    words = ["dip", str(noisy), "", *TINY, "--iterations", "5"]
    for name, parallel in (("a.tif", "spatial"), ("b.tif", "layers")):
        words[2] = str(tmp_path / name)
        assert run_here([*words, "--parallel", parallel]) == 0
    assert np.array_equal(stored(tmp_path / "a.tif"), stored(tmp_path / "b.tif"))
    (code, _, err), other = ended(start(2, *words, "--parallel", "layers"))
    assert code == 2 and "not for several ranks" in err and other == (2, "", "")


def test_the_way_up_keeps_nearly_everything():
    down, up = plans.halves((1, 1, 64, 64, 64), Options())
    assert 3 * down < up
    assert down + up == pytest.approx(plans.need((1, 1, 64, 64, 64), Options(), "fp32", 0).peak, rel=0.4)


def test_the_job_is_a_script(noisy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text('partition = "cpu"\n[dip]\npartition = "gpu"\ngres = "gpu:a100:4"\n')
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    words = ["dip", "noisy.nii.gz", "it's.nii.gz", *TINY[:4], "--no-resume", "--truth", "noisy.nii.gz"]
    job = ["--submit", "--nodes", "2", "--time", "90m", "--dry-run"]
    assert run_here([*words, *job]) == 0
    text = capsys.readouterr().out
    for line in ("nodes=2", "ntasks-per-node=1", "partition=gpu", "time=01:30:00", "signal=USR1@120"):
        assert f"#SBATCH --{line}\n" in text
    assert "gres" not in text and f"VOLUME={noisy}" in text
    assert f"OPTIONS=(--preset small --scales 2 --truth {noisy} --no-resume)" in text
    assert {path.name for path in tmp_path.iterdir()} == {"noisy.nii.gz", "site.toml"}
    assert run_here([*words, *job, "--gpus", "4"]) == 0
    text = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:a100:4\n" in text and "#SBATCH --ntasks-per-node=4\n" in text
    assert run_here([*words, *job, "--gpus", "2"]) == 2
    assert "gres is 'gpu:a100:4'" in capsys.readouterr().err
    assert run_here([*words, "--submit", "--nodes", "99"]) == 2
    assert "99 ranks for 37 planes" in capsys.readouterr().err
    assert run_here([*words, *job, "--parallel", "layers"]) == 2
    assert "--submit starts ranks" in capsys.readouterr().err
    assert run_here([*words, "--nodes", "2"]) == 2
    assert "--nodes is for jobs: add --submit" in capsys.readouterr().err
