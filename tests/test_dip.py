"""Deep Image Prior: laws of its parts, its plan, its commands; images small enough for seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from noisy_images import TINY, noisy, smooth, store
from scipy.ndimage import gaussian_filter

from medhpc.cli.main import run_here
from medhpc.dip import descent, memory, precision
from medhpc.dip import loss as losses
from medhpc.dip import plan as plans
from medhpc.dip.descent import (
    LEARNING_RATE,
    begin,
    bound,
    descend,
    inputs_of,
    learning_rate,
    look,
    result_of,
    take_step,
)
from medhpc.dip.draws import Draws, Planes, Purpose
from medhpc.dip.noise import Noise, estimate_noise, neighbour_correlation
from medhpc.dip.options import Options
from medhpc.dip.problem import held_out, pose
from medhpc.dip.share import Share
from medhpc.dip.stabilise import from_stable, to_stable
from medhpc.dip.tally import Tally

torch.set_num_threads(1)
CPU = torch.device("cpu")


def problem_of(shape=(12, 14, 10), truth=True, **options):
    clean = smooth(shape)[None]
    image = noisy(clean)
    return pose(image, Noise(kind="gaussian", sigma=120.0), CPU, truth=clean if truth else None, **options)


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 96), (40, 40, 40)])
@pytest.mark.parametrize("sigma", [5.0, 60.0])
def test_gaussian_noise_is_measured(shape, sigma):
    found = estimate_noise(noisy(smooth(shape), sigma))
    assert found.kind == "gaussian" and found.sigma == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("air", [0.15, 0.6])
def test_rician_noise_is_told_by_the_air(air):
    image = smooth((40, 40, 40))
    image[: int(40 * air)] = 0
    rng = np.random.default_rng(0)
    magnitude = np.hypot(image + rng.normal(0, 30, image.shape), rng.normal(0, 30, image.shape))
    found = estimate_noise(magnitude)
    assert found.kind == "rician" and found.sigma == pytest.approx(30, rel=0.08)
    assert estimate_noise(noisy(image, 30.0).clip(0)).kind == "gaussian"  # cut at zero, as photos are
    assert estimate_noise(np.where(image > 0, noisy(image, 30.0), 0)).kind == "gaussian"


def test_tissue_that_varies_as_air_does_but_smoothly_is_not_taken_for_it():
    rng = np.random.default_rng(0)
    real, imaginary = (gaussian_filter(rng.normal(size=(32, 32, 32)), 1.5) for _ in range(2))
    image = 500 * np.hypot(real, imaginary) / real.std() + 1
    assert estimate_noise(noisy(image, 9.0).clip(1)).kind == "gaussian"


def test_what_is_given_is_kept():
    found = estimate_noise(smooth((20, 20)), "rician", 7.0)
    assert found == Noise(kind="rician", sigma=7.0, is_seen=False)  # no air


def test_white_noise_has_uncorrelated_neighbours():
    white = np.random.default_rng(0).normal(size=(30, 30, 30))
    assert neighbour_correlation(white) < 0.03
    assert neighbour_correlation(white + np.roll(white, 1, 1)) > 0.4
    assert neighbour_correlation(np.zeros((3, 3))) == 0


def test_stabilised_magnitudes_come_back():
    rng = np.random.default_rng(0)
    for clean in (60.0, 200.0):
        magnitude = np.hypot(clean + rng.normal(0, 20, 10**6), rng.normal(0, 20, 10**6))
        stable = to_stable(magnitude, 20.0)
        assert stable.std() == pytest.approx(20, rel=0.03)
        assert from_stable(stable.mean(), 20.0) == pytest.approx(clean, rel=0.01)


# --- random numbers, problem, loss ---------------------------------------------------------------


def test_draws_depend_on_seed_purpose_iteration_and_plane_only():
    draws = Draws(3, CPU)
    first = draws.normal(Purpose.INPUT_NOISE, (1, 2, 5, 6, 7), 4)
    draws.uniform(Purpose.CODE, (1, 1, 9, 9))
    assert torch.equal(first, Draws(3, CPU).normal(Purpose.INPUT_NOISE, (1, 2, 5, 6, 7), 4))
    assert torch.equal(first[:, :, :3], draws.normal(Purpose.INPUT_NOISE, (1, 2, 3, 6, 7), 4))
    others = [Draws(4, CPU).normal(Purpose.INPUT_NOISE, first.shape, 4)]
    others += [draws.normal(purpose, first.shape, n) for purpose, n in ((Purpose.CODE, 4), (Purpose.INPUT_NOISE, 5))]
    planes = [first[:, :, 0], first[:, :, 1], *(other[:, :, 0] for other in others)]
    assert all(not torch.equal(a, b) for n, a in enumerate(planes) for b in planes[:n])


def test_drawn_planes_are_those_of_the_whole():
    draws = Draws(3, CPU)
    whole = draws.normal(Purpose.CODE, (1, 2, 5, 6, 7), 1, Planes(axis=1, numbers=range(6)))
    some = draws.normal(Purpose.CODE, (1, 2, 5, 3, 7), 1, Planes(axis=1, numbers=[4, 2, 2]))
    assert torch.equal(some, whole[:, :, :, [4, 2, 2]])
    assert draws.uniform(Purpose.CODE, (1, 2, 4, 6)).shape == (1, 2, 4, 6)


def test_scaled_and_scaled_back():
    problem = problem_of()
    image = noisy(smooth((12, 14, 10))[None])
    assert problem.scale.back(problem.image[0].numpy()) == pytest.approx(image, abs=0.01)
    assert problem.noise.sigma * problem.scale.span == pytest.approx(120)
    assert pose(image[:, :1], Noise(kind="gaussian", sigma=1.0), CPU).ndim == 2
    assert pose(np.abs(image), Noise(kind="rician", sigma=1.0), CPU).scale.low == 0


def test_held_out_voxels_are_a_few_of_the_known_ones():
    mask = np.ones((12, 14, 10), bool)
    mask[:6] = False
    problem = problem_of(mask=mask)
    out = held_out(problem, Options(), Draws(0, CPU))
    assert not out[:, :, :6].any() and 0.01 < out[:, :, 6:].mean() < 0.06
    assert not held_out(problem, Options(method="r2r"), Draws(0, CPU)).any()


def test_recorrupted_pairs_have_independent_noise():
    noise = Noise(kind="gaussian", sigma=120.0)
    clean = np.full((1, 30, 40, 40), 500, np.float32)
    problem = pose(noisy(clean), noise, CPU)
    seen, wanted = inputs_of(problem, Options(method="r2r"), Draws(0, CPU), problem.image, 0)
    level = (500 - problem.scale.low) / problem.scale.span
    one, other = ((image - level) / problem.noise.sigma for image in (seen, wanted))
    assert abs((one * other).mean()) < 0.02
    assert one.square().mean() == pytest.approx(1.25, rel=0.03) and other.square().mean() == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("clean", [0.0, 0.05, 0.4])
def test_the_rician_loss_is_least_at_the_truth(clean):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200_000, generator=generator) * 0.1 for _ in range(2))
    magnitude = torch.hypot(clean + a, b)
    tried = torch.arange(0, 0.6, 0.01)
    values = [losses.rician(torch.full_like(magnitude, float(f)), magnitude, 0.1).mean() for f in tried]
    assert tried[int(torch.stack(values).argmin())] == pytest.approx(clean, abs=0.025)


def test_total_variation_is_the_sum_of_steps():
    image = torch.zeros(1, 1, 4, 5)
    image[..., 2:] = 3
    assert losses.total_variation(image).item() == pytest.approx(3 / 4)


# --- the descent ---------------------------------------------------------------------------------


def test_denoising_gets_better_in_a_few_dozen_steps():
    for method, iterations in (("dip", 150), ("r2r", 100)):
        problem = problem_of((16, 24, 24))
        state = descend(problem, Options(method=method, iterations=iterations, **TINY), 0, precision="fp32")
        error = losses.squared(problem.image, problem.truth).mean().item()
        before = losses.decibels(error / problem.data_range**2)
        assert state.history[-1]["psnr"] > before + 3
        assert state.history[-1]["psnr"] > state.history[0]["psnr"] + 3
        assert result_of(state).shape == problem.image.shape


def test_same_seed_same_result_other_seed_another():
    def run(seed):
        return result_of(descend(problem_of(), Options(iterations=6, **TINY), seed, precision="fp32"))

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


@pytest.mark.parametrize("sigma, iterations", [(0.0, 800), (20.0, 800), (120.0, 235), (300.0, 200)])
def test_the_more_noise_the_sooner_r2r_ends(sigma, iterations):
    problem = pose(smooth((12, 14, 10))[None], Noise(kind="gaussian", sigma=sigma), CPU)
    options = Options(method="r2r", preset="small")
    assert bound(problem, options) == pytest.approx(iterations, abs=1)
    assert bound(problem, replace(options, iterations=7)) == 7
    assert bound(problem, Options(preset="small")) == 2500
    rates = [learning_rate(problem, options, number) for number in range(bound(problem, options))]
    assert max(rates) > 0.8 * LEARNING_RATE and rates[0] < 0.1 * LEARNING_RATE > rates[-1]


def test_masked_voxels_are_not_looked_at():
    image = noisy(smooth((12, 14, 10))[None])
    mask = np.ones((12, 14, 10), bool)
    mask[4:8, 4:8, 4:8] = False
    results = []
    for wrong in (0.0, 1e6, np.nan):
        spoilt = np.where(mask, image, np.float32(wrong))
        problem = pose(spoilt, Noise(kind="gaussian", sigma=120.0), CPU, mask=mask)
        results.append(result_of(descend(problem, Options(iterations=12, **TINY), 0, precision="fp32")))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_masked_voxels_are_restored():
    clean = smooth((16, 24, 24))[None]
    mask = np.ones(clean.shape[1:], bool)
    mask[6:10, 8:14, 8:14] = False
    problem = pose(np.where(mask, clean, 0), Noise(kind="gaussian", sigma=1.0), CPU, mask=mask)
    state = descend(problem, Options(iterations=300, stop="none", **TINY), 0, precision="fp32")
    restored = problem.scale.back(result_of(state)[0].numpy())[:, ~mask]
    assert np.abs(restored - clean[:, ~mask]).mean() < 0.3 * np.abs(clean[:, ~mask] - clean[:, mask].mean()).mean()


def test_a_factor_makes_a_finer_image_of_the_same_means():
    fine = smooth((24, 28))[None, None]
    coarse = fine.reshape(1, 1, 12, 2, 14, 2).mean((3, 5))
    share = Share.alone(coarse.shape[2:], factor=2)
    problem = pose(coarse, Noise(kind="gaussian", sigma=1.0), CPU, truth=fine, share=share)
    state = descend(problem, Options(factor=2, iterations=120, stop="none", **TINY), 0, precision="fp32")
    assert result_of(state).shape == (1, 1, 24, 28)
    assert state.history[-1]["psnr"] > 20


def test_a_collapse_is_taken_back():
    problem, options = problem_of(), Options(iterations=60, **TINY)
    state, draws = begin(problem, options, 0, "fp32"), Draws(0, CPU)
    code = descent.make_code(problem, options, draws)
    step = (problem, options, draws, code, problem.known, "fp32")
    for _ in range(30):
        take_step(state, *step)
    state.keep(descent.losses.decibels(losses.squared(state.average, problem.image).mean().item()))
    good = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    average = state.average.clone()
    with torch.no_grad():
        state.network.end.weight.fill_(torch.nan)
    take_step(state, *step)
    assert state.restores == 1 and state.iteration == 31
    assert all(torch.equal(good[name], tensor) for name, tensor in state.network.state_dict().items())
    assert torch.equal(state.average, average)
    take_step(state, *step)
    assert state.restores == 1


@pytest.mark.parametrize("stop", ["held-out", "emv"])
def test_the_best_average_is_kept_and_ends_the_descent(stop, monkeypatch):
    monkeypatch.setitem(descent.PATIENCE, stop, 20)
    options = Options(iterations=4000, stop=stop, **TINY)
    state = descend(problem_of((8, 10, 10)), options, 0, precision="fp32")
    assert state.iteration < 4000 and state.iteration - state.best_iteration >= 20
    name = {"held-out": "held_out", "emv": "emv"}[stop]
    counted = [entry for entry in state.history if entry["iteration"] >= descent.EMV_WARM_UP or stop == "held-out"]
    assert state.best_value == min(entry[name] for entry in counted)


def test_a_look_enters_what_is_known():
    problem, options = problem_of((8, 10, 10)), Options(iterations=50, **TINY)
    state = descend(problem, options, 0, precision="fp32")
    assert [entry["iteration"] for entry in state.history] == [10, 20, 30, 40, 50]
    assert [entry["ssim"] is None for entry in state.history] == [True, True, True, True, False]
    look(state, problem, options, problem.known * 0 + 1)
    assert np.isfinite(state.history[-1]["held_out"])


# --- precision -----------------------------------------------------------------------------------


def test_half_precisions_reach_about_the_same():
    quality = {}
    for name in ("fp32", "bf16", "fp16"):
        state = descend(problem_of((12, 16, 16)), Options(iterations=40, **TINY), 0, precision=name)
        assert next(state.network.parameters()).dtype == torch.float32
        assert state.average.dtype == torch.float32
        assert state.scaler.is_enabled() == (name == "fp16")
        quality[name] = state.history[-1]["psnr"]
    assert max(quality.values()) - min(quality.values()) < 1.5


def test_an_overflow_skips_the_step_and_lowers_the_scale():
    problem, options = problem_of((8, 8, 8)), Options(iterations=5, **TINY)
    state, draws = begin(problem, options, 0, "fp16"), Draws(0, CPU)
    code = descent.make_code(problem, options, draws)
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**60})
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    take_step(state, problem, options, draws, code, problem.known, "fp16")
    assert state.scaler.get_scale() < 2.0**60
    assert all(torch.equal(before[name], tensor) for name, tensor in state.network.state_dict().items())


def test_a_faulty_cpu_computes_coarse_levels_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "bf16_gradients_are_sound", lambda: False)
    assert precision.float32_up_to("bf16", CPU, 3) == precision.FAULTY_UP_TO
    assert precision.float32_up_to("bf16", CPU, 2) == precision.float32_up_to("fp32", CPU, 3) == 0
    state = descend(problem_of((8, 8, 8)), Options(iterations=3, **TINY), 0, precision="bf16")
    assert all(bool(p.isfinite().all()) for p in state.network.parameters())


def test_the_fault_of_this_cpu_if_it_has_it_spoils_no_gradient():
    """48 channels on 2 x 2 x 2 voxels: where oneDNN reads what it has not written."""
    options = Options(iterations=4, preset="small", scales=2, channels=48)
    state = descend(problem_of((8, 8, 8)), options, 0, precision="bf16")
    assert all(p.detach().abs().max().item() < 1e3 for p in state.network.parameters())


def test_the_self_test_finds_a_fault(monkeypatch):
    real = torch.nn.functional.conv3d

    def faulty(x, weight, **options):
        result = real(x, weight, **options)
        return result * torch.nan if x.dtype == torch.bfloat16 else result

    monkeypatch.setattr(precision.F, "conv3d", faulty)
    assert not precision.bf16_gradients_are_sound.__wrapped__()
    monkeypatch.setattr(precision.F, "conv3d", lambda x, w, **o: real(x.float(), w.float(), **o))
    assert precision.bf16_gradients_are_sound.__wrapped__()


def test_tf32_only_where_it_is_asked_for():
    before = torch.backends.cudnn.allow_tf32
    for name, allowed in (("fp32", False), ("tf32", True), ("bf16", False)):
        with precision.arithmetic(name):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed
    assert torch.backends.cudnn.allow_tf32 == before


# --- the plan ------------------------------------------------------------------------------------


def test_as_few_levels_are_computed_twice_as_the_memory_needs():
    options, shape = Options(channels=16, scales=3), (1, 1, 64, 64, 64)
    needs = [plans.need(shape, options, "fp32", levels).peak for levels in (0, 2, 3)]
    assert needs[0] > needs[1] > needs[2]
    chosen = [plans.levels_to_save(shape, options, "fp32", free) for free in (*needs, needs[2] - 1)]
    assert chosen == [0, 2, 3, 3]


def test_the_memory_that_is_free_is_less_than_the_machine_has():
    assert 2**27 < memory.free_bytes() < 2**60


def test_files_that_the_system_keeps_in_memory_give_way(tmp_path, monkeypatch):
    contents = {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 250\nactive_file 400\ninactive_file 250",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(memory, "control_groups", lambda: [tmp_path])
    assert memory.free_bytes() == 750
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() > 2**27


@pytest.mark.parametrize("name", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointed", [0, 2])
def test_the_plan_is_what_real_steps_hold(name, checkpointed):
    options, space = Options(**TINY), (24, 20, 28)
    imagined = plans.need((1, 1, *space), options, name, checkpointed)
    problem = pose(noisy(smooth(space))[None], Noise(kind="gaussian", sigma=120.0), CPU)
    state, draws = begin(problem, options, 0, name, checkpointed), Draws(0, CPU)
    with Tally() as tally:
        tally.adopt((problem.image, problem.known, *state.network.parameters()))
        code = descent.make_code(problem, options, draws, name)
        for _ in range(2):
            take_step(state, problem, options, draws, code, problem.known, name)
    assert imagined.peak == pytest.approx(tally.peak, rel=0.1)
    assert sum(imagined.kept) < imagined.peak and list(imagined.kept) == sorted(imagined.kept, reverse=True)


def test_a_plan_needs_no_voxels(tmp_path):
    path = store(tmp_path / "a.tif", np.zeros((30, 20, 40), np.uint8))
    found = plans.plan(path, Options(**TINY))
    assert (found.shape, found.filled, found.levels) == ((30, 20, 40), (32, 20, 40), 2)
    fp32, frugal, bf16, both = (need.peak for need in found.needs)
    assert both < min(frugal, bf16) and max(frugal, bf16) < fp32
    assert "gpu:1 (16 GB)" in found.needs[0].ask


@pytest.mark.slow
def test_the_published_network_on_a_whole_head():
    """Half of what a plain loop needs, and what a 24 GB GPU has (research: 36.6 TFLOP an iteration)."""
    shape = (1, 1, 256, 256, 150)
    assert plans.need(shape, Options(), "fp32", 0).peak / 2**30 < 55
    assert plans.need(shape, Options(), "bf16", 2).peak / 2**30 < 20


# --- the command line ----------------------------------------------------------------------------


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "noisy.nii.gz", noisy(smooth((10, 12, 14))))
    network = ["--preset", "small", "--scales", "2", "--channels", "8"]
    assert run_here(["dip", "noisy.nii.gz", "clean.nii.gz", *network, "--iterations", "20", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "gaussian, sigma" in printed and "20 iterations" in printed
    assert (
        run_here(
            [
                "dip",
                "noisy.nii.gz",
                "b.nii.gz",
                *network,
                "--iterations",
                "5",
                "--json",
                "--compare",
                "--truth",
                "clean.nii.gz",
            ]
        )
        == 0
    )
    about = json.loads(capsys.readouterr().out)
    assert about["runs"][0]["iterations"] == 5 and len(about["compared"]) == 3
    assert run_here(["dip-plan", "noisy.nii.gz", *network]) == 0
    printed = capsys.readouterr().out
    assert "TFLOP per iteration" in printed and "--gres gpu:1" in printed
    assert run_here(["dip-plan", "noisy.nii.gz", *network, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["needs"]) == 4
    assert run_here(["dip-plan", "noisy.nii.gz", *network, "--precision", "fp16", "--checkpoint", "1", "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)["needs"]
    assert (only["precision"], only["checkpointed"]) == ("fp16", 1)
    assert run_here(["dip", "noisy.nii.gz", "c.nii.gz", "--method", "r2r", "--factor", "2"]) == 2
    assert "factor needs method dip" in capsys.readouterr().err
