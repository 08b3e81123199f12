"""Deep Image Prior: laws of its parts, and denoising from file to file on images small enough for seconds."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from medhpc.cli.main import run_here
from medhpc.dip import descent, memory, precision, work
from medhpc.dip import loss as losses
from medhpc.dip import plan as plans
from medhpc.dip.denoise import denoise
from medhpc.dip.descent import begin, descend, inputs_of, look, result_of, take_step
from medhpc.dip.draws import Draws, Planes, Purpose
from medhpc.dip.files import Files
from medhpc.dip.noise import Noise, estimate_noise, neighbour_correlation
from medhpc.dip.options import Options
from medhpc.dip.problem import held_out, pose
from medhpc.dip.share import Share
from medhpc.dip.stabilise import from_stable, to_stable
from medhpc.dip.tally import Tally
from medhpc.errors import BadOption, BadTruth, NonFinite, NotAVolume, NotEnoughMemory, RunBusy
from medhpc.geometry import Box
from medhpc.nets.files import read_about
from medhpc.volume import create_volume, open_volume

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = {"preset": "small", "scales": 2, "channels": 8}


def smooth(shape, seed=0):
    """A few broad waves between 100 and 900."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    points = np.array([grid.ravel() for grid in grids])
    waves = sum(np.sin(2 * np.pi * (rng.uniform(-1, 1, len(shape)) @ points) + p) for p in range(4))
    waves = waves.reshape(shape)
    return (100 + 800 * (waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def noisy(image, sigma=120.0, seed=1):
    return image + np.random.default_rng(seed).normal(0, sigma, image.shape).astype(np.float32)


def problem_of(shape=(12, 14, 10), truth=True, **options):
    clean = smooth(shape)[None]
    image = noisy(clean)
    return pose(image, Noise(kind="gaussian", sigma=120.0), CPU, truth=clean if truth else None, **options)


def store(path, values, **options):
    """Write (z, y, x) or (channels, z, y, x)."""
    channels = len(values) if values.ndim == 4 else 0
    with create_volume(path, values.shape[-3:], values.dtype, channels=channels, **options) as writer:
        for z in range(values.shape[-3]):
            writer.write(z, values[..., z : z + 1, :, :])
    return path


def stored(path):
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))


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


def test_what_is_given_is_kept():
    assert estimate_noise(smooth((20, 20)), "rician", 7.0) == Noise(kind="rician", sigma=7.0)


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
    state = descend(problem, Options(iterations=150, stop="none", **TINY), 0, precision="fp32")
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


# --- files ---------------------------------------------------------------------------------------

QUICK = {"threads": 1, "device": "cpu"}


def test_affine_dtype_and_units_are_kept(tmp_path):
    affine = np.array([[-2.0, 0, 0, 90], [0, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    image = noisy(smooth((10, 12, 14))).clip(0).astype(np.uint16)
    path = store(tmp_path / "noisy.nii.gz", image, voxel_size=(3.0, 1.5, 2.0), unit="mm", affine=affine)
    truth = store(tmp_path / "truth.nii.gz", smooth((10, 12, 14)))
    stood = []
    result = denoise(
        path,
        tmp_path / "clean.nii.gz",
        options=Options(iterations=20, **TINY),
        truth=truth,
        progress=stood.append,
        **QUICK,
    )
    with open_volume(result.clean) as volume:
        assert volume.dtype == np.uint16 and volume.shape == (10, 12, 14)
        assert volume.voxel_size == (3.0, 1.5, 2.0) and volume.unit == "mm"
        assert np.allclose(volume.affine, affine)
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["noisy.nii.gz", "truth.nii.gz", "clean.nii.gz", "clean.dip.png", "clean.dip.json"]
    )
    about = json.loads(result.history.read_text())
    assert about["psnr"] == result.psnr and about["options"]["iterations"] == 20
    assert [entry["iteration"] for entry in about["runs"][0]["history"]] == [10, 20]
    assert stood[-1].iteration == 20 and "EMV" in str(stood[-1]) and "PSNR" in str(stood[-1])


def test_a_finer_volume_lies_where_the_coarse_one_did(tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    path = store(tmp_path / "a.nii", smooth((6, 8, 10)), voxel_size=(2.0, 2.0, 2.0), unit="mm", affine=affine)
    result = denoise(path, tmp_path / "b.nii", options=Options(iterations=3, factor=2, **TINY), **QUICK)
    with open_volume(result.clean) as volume:
        assert volume.shape == (12, 16, 20) == result.shape and volume.voxel_size == (1.0, 1.0, 1.0)
        # The middle of fine voxels 0 and 1 is the centre of coarse voxel 0.
        assert np.allclose(volume.affine @ [0.5, 0.5, 0.5, 1], affine @ [0, 0, 0, 1])


def test_colours_together_series_one_by_one_and_runs_averaged(tmp_path):
    photo = store(tmp_path / "photo.tif", noisy(smooth((3, 1, 12, 14))))
    series = store(tmp_path / "series.nii", noisy(smooth((2, 8, 9, 10))))
    options = Options(iterations=4, runs=2, **TINY)
    result = denoise(photo, tmp_path / "photo.clean.tif", options=options, **QUICK)
    assert [(run.part, run.seed) for run in result.runs] == [(0, 0), (0, 1)]
    single = [
        stored(denoise(photo, tmp_path / f"{n}.tif", options=Options(iterations=4, seed=n, **TINY), **QUICK).clean)
        for n in (0, 1)
    ]
    assert np.allclose(stored(result.clean), np.mean(single, 0), atol=1e-3)
    assert np.allclose(stored(result.deviation), np.std(single, 0, ddof=1), atol=1e-3)
    result = denoise(series, tmp_path / "series.clean.nii", options=Options(iterations=4, **TINY), **QUICK)
    assert [run.part for run in result.runs] == [0, 1]
    first = denoise(series, tmp_path / "first.nii", options=Options(iterations=4, **TINY), channel=0, **QUICK)
    assert np.array_equal(stored(first.clean)[0], stored(result.clean)[0])


def test_a_time_series_is_one_again(tmp_path):
    path = store(tmp_path / "series.nii", noisy(smooth((3, 6, 7, 8))), time_step=2.2, voxel_size=(3, 2, 2), unit="mm")
    result = denoise(path, tmp_path / "clean.nii.gz", options=Options(iterations=2, **TINY), **QUICK)
    assert [run.part for run in result.runs] == [0, 1, 2]
    with open_volume(result.clean, series=True) as volume:
        assert (volume.channels, volume.time_step, volume.voxel_size) == (3, 2.2, (3, 2, 2))
    with pytest.raises(NotAVolume, match="time series of 3 frames"):
        open_volume(result.clean)


KILLED = """
import os, signal, sys
from medhpc.dip import descent
from medhpc.dip.denoise import denoise
from medhpc.dip.options import Options
descent.CHECKPOINT_SECONDS = 0.0
def kill(standing):
    if (standing.part, standing.iteration) == (2, 125):
        os.kill(os.getpid(), signal.SIGKILL)
denoise(sys.argv[1], sys.argv[2], options=Options(iterations=130, runs=2, preset="small", scales=1, channels=4, seed=3),
        threads=1, device="cpu", progress=kill)
"""


def test_killed_and_resumed_is_the_same_to_the_last_bit(tmp_path):
    path = store(tmp_path / "noisy.tif", noisy(smooth((1, 12, 14))))
    options = Options(iterations=130, runs=2, preset="small", scales=1, channels=4, seed=3)
    whole = denoise(path, tmp_path / "whole.tif", options=options, **QUICK)
    process = subprocess.run([sys.executable, "-c", KILLED, path, tmp_path / "killed.tif"])
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed.tif").exists()
    with pytest.raises(BadOption, match="differs in seed"):
        denoise(path, tmp_path / "killed.tif", options=Options(**{**options.as_json(), "seed": 4}), **QUICK)
    result = denoise(path, tmp_path / "killed.tif", options=options, **QUICK)
    assert [run.resumed_at for run in result.runs] == [0, 125]
    assert np.array_equal(stored(whole.clean), stored(result.clean))
    assert np.array_equal(stored(whole.deviation), stored(result.deviation))
    for one, other in zip(whole.runs, result.runs, strict=True):
        strip = [{**entry, "seconds": 0} for entry in one.history], [{**entry, "seconds": 0} for entry in other.history]
        assert strip[0] == strip[1]
    assert not list(tmp_path.glob(".*"))


def test_filters_beside_it(tmp_path):
    truth = store(tmp_path / "truth.tif", smooth((1, 40, 40)))
    path = store(tmp_path / "noisy.tif", noisy(smooth((1, 40, 40))))
    result = denoise(
        path, tmp_path / "c.tif", options=Options(iterations=2, **TINY), truth=truth, compare=True, **QUICK
    )
    assert [row["method"] for row in result.compared] == ["non-local means", "total variation"]
    assert all(row["psnr"] > result.psnr_noisy + 3 for row in result.compared)


def test_too_little_memory_is_told_with_what_fits(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(work, "descend", full)
    path = store(tmp_path / "a.tif", smooth((8, 9, 10)))
    with pytest.raises(NotEnoughMemory, match="--precision bf16 --checkpoint 2"):
        denoise(path, tmp_path / "b.tif", options=Options(**TINY), **QUICK)


def test_a_cpu_without_memory_says_so_as_a_gpu_does(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(work, "descend", full)
    path = store(tmp_path / "a.tif", smooth((8, 9, 10)))
    with pytest.raises(NotEnoughMemory, match="more than this device has: --precision bf16 --checkpoint 2 takes"):
        denoise(path, tmp_path / "b.tif", options=Options(**TINY), **QUICK)


def test_what_cannot_fit_is_refused_before_it_starts(tmp_path, monkeypatch):
    path = store(tmp_path / "a.tif", smooth((8, 9, 10)))
    with pytest.raises(
        NotEnoughMemory, match="take 638 GiB, more than .* GiB are free: --preset small takes .* MiB, fewer --scales"
    ):
        denoise(path, tmp_path / "b.tif", options=Options(preset="small", scales=10), **QUICK)
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    with pytest.raises(NotEnoughMemory, match="more than 0.0954 MiB are free: .*fewer --scales"):
        denoise(path, tmp_path / "b.tif", options=Options(**TINY), **QUICK)
    assert list(tmp_path.iterdir()) == [path]


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


def test_two_at_once_into_one_file_exclude_each_other(tmp_path):
    path, out = store(tmp_path / "a.tif", smooth((8, 9, 10))), tmp_path / "b.tif"
    with Files(out, path).held(anew=False), pytest.raises(RunBusy, match="another medhpc dip writes"):
        denoise(path, out, options=Options(iterations=1, **TINY), **QUICK)
    assert list(tmp_path.iterdir()) == [path]
    denoise(path, out, options=Options(iterations=1, **TINY), **QUICK)
    assert out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_keeps_the_iteration_that_it_is_at(tmp_path, number):
    path, out = store(tmp_path / "a.tif", noisy(smooth((8, 9, 10)))), tmp_path / "b.tif"
    ended = []
    before = signal.signal(number, lambda *_: ended.append(True))

    def tell(standing):
        if standing.iteration == 3 or ended:
            assert not ended, "it went on"
            signal.raise_signal(number)

    try:
        with pytest.raises(AssertionError, match="it went on"):  # the handler of this test does not end it
            denoise(path, out, options=Options(iterations=20, **TINY), progress=tell, **QUICK)
    finally:
        signal.signal(number, before)
    assert ended == [True]
    assert read_about(tmp_path / ".b.tif.dip" / "part0-run0.now.safetensors")["iteration"] == 4
    result = denoise(path, out, options=Options(iterations=20, **TINY), **QUICK)
    assert result.runs[0].resumed_at == 4


def test_a_noise_level_that_is_not_that_of_the_image_is_told(tmp_path):
    clean = smooth((16, 16, 16))
    path, truth = store(tmp_path / "a.tif", noisy(clean)), store(tmp_path / "t.tif", clean)
    options = {**TINY, "method": "r2r", "iterations": 2}
    wrong = denoise(path, tmp_path / "b.tif", options=Options(sigma=300.0, **options), truth=truth, **QUICK)
    assert any("sigma 300 was given" in note and "r2r loses" in note for note in wrong.notes)
    assert any("further from the truth" in note for note in wrong.notes)
    assert wrong.runs[0].measured == pytest.approx(120, rel=0.1)
    right = denoise(path, tmp_path / "c.tif", options=Options(sigma=120.0, **options), **QUICK)
    assert not any("was given" in note for note in right.notes)


def test_what_a_mask_leaves_out_may_be_anything(tmp_path):
    clean = noisy(smooth((8, 9, 10)))
    known = np.ones(clean.shape, np.uint8)
    clean[2:4, 3, 3:5], known[2:4, 3, 3:5] = np.nan, 0
    clean[5, 5, 5], known[5, 5, 5] = np.inf, 0
    path, mask = store(tmp_path / "a.tif", clean), store(tmp_path / "m.tif", known)
    result = denoise(path, tmp_path / "b.tif", options=Options(iterations=2, **TINY), mask=mask, **QUICK)
    assert np.isfinite(stored(tmp_path / "b.tif")).all()
    assert 0 < result.runs[0].sigma < 1000
    json.loads(result.history.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_the_truth_of_one_channel_may_have_them_all(tmp_path):
    image = np.stack([smooth((6, 7, 8), seed) for seed in range(2)])
    path, truth = store(tmp_path / "a.tif", noisy(image)), store(tmp_path / "t.tif", image)
    result = denoise(path, tmp_path / "b.tif", options=Options(iterations=1, **TINY), channel=1, truth=truth, **QUICK)
    assert result.psnr_noisy > 10
    with pytest.raises(BadTruth, match="expected 12 x 14 x 16 and 1, 2 times as fine"):
        finer = Options(iterations=1, factor=2, **TINY)
        denoise(path, tmp_path / "c.tif", options=finer, channel=1, truth=truth, **QUICK)


def test_bad_input_is_one_line(tmp_path):
    image = smooth((6, 7, 8))
    good = store(tmp_path / "good.tif", image)
    holey = image.copy()
    holey[2, 3, 4] = np.nan
    out = tmp_path / "out.tif"
    with pytest.raises(NonFinite, match="1 of 336 voxels are NaN"):
        denoise(store(tmp_path / "nan.tif", holey), out, options=Options(**TINY), **QUICK)
    with pytest.raises(BadOption, match="one value"):
        denoise(store(tmp_path / "flat.tif", image * 0 + 5), out, options=Options(**TINY), **QUICK)
    with pytest.raises(BadOption, match="a mask of 3 x 7 x 8 voxels"):
        denoise(good, out, mask=store(tmp_path / "mask.tif", image[:3]), **QUICK)
    with pytest.raises(BadTruth, match="expected 6 x 7 x 8 and 1"):
        denoise(good, out, truth=store(tmp_path / "truth.tif", image[:3]), **QUICK)
    with pytest.raises(BadOption, match="mask is zero"):
        denoise(good, out, mask=store(tmp_path / "none.tif", image * 0), **QUICK)
    with pytest.raises(BadOption, match="needs method dip"):
        denoise(good, out, mask=good, options=Options(method="r2r"), **QUICK)
    with pytest.raises(BadOption, match="without mask and factor"):
        denoise(good, out, options=Options(factor=2), compare=True, **QUICK)
    with pytest.raises(BadOption, match="compare needs a truth"):
        denoise(good, out, compare=True, **QUICK)
    with pytest.raises(BadOption, match="data range needs a truth"):
        denoise(good, out, data_range=1.0, **QUICK)
    with pytest.raises(BadOption, match="checkpoint 3: the network has 2 levels"):
        denoise(good, out, options=Options(**TINY), checkpointed=3, **QUICK)
    with pytest.raises(BadTruth, match="NaN or infinity in the truth"):
        denoise(good, out, truth=store(tmp_path / "t.tif", holey), **QUICK)
    with pytest.raises(BadOption, match="NaN or infinity in the mask"):
        denoise(good, out, mask=store(tmp_path / "m.tif", holey), **QUICK)
    assert not list(tmp_path.glob(".*")) and not out.exists()
    for wrong in ({"method": "x"}, {"iterations": 0}, {"factor": 3}, {"tv": -1}, {"method": "r2r", "factor": 2}):
        with pytest.raises(BadOption):
            Options(**wrong)


# --- the plan ------------------------------------------------------------------------------------


def test_as_few_levels_are_computed_twice_as_the_memory_needs():
    options, shape = Options(channels=16, scales=3), (1, 1, 64, 64, 64)
    needs = [plans.need(shape, options, "fp32", levels).peak for levels in (0, 2, 3)]
    assert needs[0] > needs[1] > needs[2]
    chosen = [plans.levels_to_save(shape, options, "fp32", free) for free in (*needs, needs[2] - 1)]
    assert chosen == [0, 2, 3, 3]


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
    assert about["runs"][0]["iterations"] == 5 and len(about["compared"]) == 2
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
