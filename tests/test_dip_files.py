"""Deep Image Prior from file to file: what is kept of a volume, what is refused, what a kill or a signal leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from noisy_images import QUICK, TINY, noisy, smooth, store, stored

from medhpc.dip import descent, memory, room, work
from medhpc.dip.denoise import denoise
from medhpc.dip.files import Files, cast
from medhpc.dip.image import open_image
from medhpc.dip.options import Options
from medhpc.errors import BadOption, BadTruth, DiskFull, NonFinite, NotAVolume, NotEnoughMemory, RunBusy
from medhpc.nets.files import read_about
from medhpc.volume import open_volume

torch.set_num_threads(1)


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


@pytest.mark.parametrize("end", [".png", ".tif"])
def test_a_photo_is_a_photo_again(tmp_path, end):
    pixels = noisy(smooth((24, 28, 3)) / 4, 25.0).clip(0, 255).astype(np.uint8)
    (tmp_path / "photo.png").write_bytes(imagecodecs.png_encode(pixels))
    options = Options(iterations=200, runs=2, **TINY)
    result = denoise(tmp_path / "photo.png", tmp_path / f"clean{end}", options=options, **QUICK)
    read = tifffile.imread if end == ".tif" else lambda path: imagecodecs.png_decode(path.read_bytes())
    clean = read(result.clean)
    assert clean.shape == pixels.shape and clean.dtype == np.uint8
    assert clean.mean(axis=(0, 1)) == pytest.approx(pixels.mean(axis=(0, 1)), abs=8)
    assert result.deviation.name == "clean.std.tif" and stored(result.deviation).dtype == np.float32


def test_a_stack_in_colour_is_one_again(tmp_path):
    pixels = noisy(smooth((4, 9, 10, 3)) / 4, 25.0).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    denoise(tmp_path / "a.tif", tmp_path / "b.tif", options=Options(iterations=1, **TINY), **QUICK)
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert tif.asarray().shape == pixels.shape and tif.pages[0].photometric == tifffile.PHOTOMETRIC.RGB


def test_a_result_that_its_format_cannot_hold_is_refused_before_it_starts(tmp_path):
    path = store(tmp_path / "a.tif", smooth((6, 7, 8)))
    with pytest.raises(BadOption, match="b.png: PNG for 6 planes"):
        denoise(path, tmp_path / "b.png", **QUICK)


def test_values_are_rounded_not_cut():
    values = np.array([-3.0, 0.4, 0.6, 254.6, 300.0], np.float32)
    assert cast(values, np.dtype(np.uint8)).tolist() == [0, 0, 1, 255, 255]


def test_a_time_series_is_one_again(tmp_path):
    path = store(tmp_path / "series.nii", noisy(smooth((3, 6, 7, 8))), time_step=2.2, voxel_size=(3, 2, 2), unit="mm")
    result = denoise(path, tmp_path / "clean.nii.gz", options=Options(iterations=2, **TINY), **QUICK)
    assert [run.part for run in result.runs] == [0, 1, 2]
    with open_volume(result.clean, series=True) as volume:
        assert (volume.channels, volume.time_step, volume.voxel_size) == (3, 2.2, (3, 2, 2))
    with pytest.raises(NotAVolume, match="time series of 3 volumes"):
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
    assert [row["method"] for row in result.compared] == ["medhpc dip", "non-local means", "total variation"]
    assert all(row["psnr"] > result.psnr_noisy + 3 for row in result.compared[1:])
    assert result.compared[0]["psnr"] == result.psnr


def test_filters_beside_it_without_a_truth(tmp_path):
    """Two iterations take structure away, which a filter does not."""
    path = store(tmp_path / "noisy.tif", noisy(smooth((1, 40, 40))))
    result = denoise(path, tmp_path / "c.tif", options=Options(iterations=2, **TINY), compare=True, **QUICK)
    ours, *filters = result.compared
    assert ours["residual_correlation"] > 0.5 and all(row["residual_correlation"] < 0.3 for row in filters)
    assert all(row["taken_away"] == pytest.approx(120, rel=0.3) and row["psnr"] is None for row in filters)


def test_rician_noise_without_air_is_told(tmp_path):
    image = noisy(smooth((8, 12, 12)) + 500, 30.0)
    rician = Options(iterations=1, noise="rician", **TINY)
    bright = denoise(store(tmp_path / "a.tif", image), tmp_path / "b.tif", options=rician, **QUICK)
    assert any("no air" in note for note in bright.notes)
    random = np.random.default_rng(0)
    image[:4] = np.hypot(*random.normal(0, 30, (2, 4, 12, 12)))
    dark = denoise(store(tmp_path / "c.tif", image), tmp_path / "d.tif", options=rician, **QUICK)
    assert not any("no air" in note for note in dark.notes)


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


def test_what_has_no_room_on_the_disk_is_refused_before_it_starts(tmp_path, monkeypatch):
    path, out = store(tmp_path / "a.nii.gz", noisy(smooth((8, 9, 10)))), tmp_path / "b.nii.gz"
    usage, free = shutil.disk_usage(tmp_path), []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
    options, written = Options(iterations=2, runs=2, **TINY), []
    image = open_image(path)
    needed = room.bytes_of_results(Files(out, path), image, options) + room.bytes_kept(image, options)
    free[:] = [needed - 1]
    with pytest.raises(DiskFull, match=f"^{tmp_path}: .* GB are free, the result and its checkpoints may take .* GB; "):
        denoise(path, out, options=options, **QUICK)
    assert list(tmp_path.iterdir()) == [path]
    free[:] = [needed]
    monkeypatch.setattr(descent, "CHECKPOINT_SECONDS", 0.0)
    there = path.stat().st_size
    denoise(path, out, options=options, progress=lambda _: written.append(bytes_in(tmp_path) - there), **QUICK)
    assert max(written) + stored(out).nbytes * 4 <= needed


def bytes_in(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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
    truth, options = store(tmp_path / "t.tif", smooth((8, 9, 10))), Options(iterations=2, **TINY)
    result = denoise(path, tmp_path / "b.tif", options=options, mask=mask, truth=truth, **QUICK)
    assert result.psnr_noisy > 5
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
