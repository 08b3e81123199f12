"""The whole job in one call: volume in, result out, whatever happens in between."""

import random
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from samples import cells, msd, probabilities, whole, write_tiff

from medhpc import errors, pipeline
from medhpc.geometry import Box
from medhpc.run import Run, status
from medhpc.volume import open_volume

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")
HERE = {"device": "cpu", "threads": 1}
SHAPE = (16, 40, 48)


def read(path: Path) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read(Box.whole(volume.shape))[0]


@pytest.fixture
def source(tmp_path) -> Path:
    return write_tiff(tmp_path / "volume.tif", cells(SHAPE))


@pytest.fixture
def network(tmp_path) -> Path:
    msd().save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr", "out.h5", "out.nii.gz"])
def test_identity_gives_the_input_back(tmp_path, source, name):
    options = dict(network="identity", store="raw", kind="raw", tile=(16, 16, 20))
    result = pipeline.run(source, tmp_path / name, **options, **HERE)
    assert np.array_equal(read(tmp_path / name), cells(SHAPE))
    assert not result.resumed and result.infer.computed == len(result.plan.grid) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "volume.tif"])  # the run is gone


def test_a_mask_is_that_of_the_whole_volume(tmp_path, source, network):
    pipeline.run(source, tmp_path / "out.tif", network=network, halo="exact", tile=(8, 16, 20), **HERE)
    probability = probabilities(whole(msd(), cells(SHAPE)))[0]
    clear = abs(probability - 0.5) > 0.01
    assert np.array_equal(read(tmp_path / "out.tif")[clear], (probability >= 0.5)[clear])
    assert clear.mean() > 0.01 and 0 < (probability >= 0.5).mean() < 1


def test_labels_and_objects_do_not_depend_on_the_tiles(tmp_path, source, network):
    found = []
    for size in ("auto", (16, 13, 17), (5, 40, 48), (4, 9, 11)):
        out, table = tmp_path / "labels.tif", tmp_path / "cells.csv"
        options = dict(halo="exact", tile=size, kind="labels", threshold=0.767, min_size=3, objects=table)
        pipeline.run(source, out, network=network, **options, **HERE)
        found.append((read(out), table.read_text()))
        out.unlink()
    for labels, table in found[1:]:
        assert np.array_equal(labels, found[0][0])
        assert table == found[0][1]
    assert found[0][0].max() > 20


def test_a_network_from_python(tmp_path, source):
    pipeline.run(source, tmp_path / "out.tif", network=msd(), halo="exact", tile=(16, 20, 48), **HERE)
    assert (tmp_path / "out.tif").exists()


def test_the_run_is_kept_where_it_is_asked_for(tmp_path, source, network):
    run, seen, plans = tmp_path / "kept", [], []
    pipeline.run(
        source,
        tmp_path / "out.tif",
        network=network,
        run_folder=run,
        keep=True,
        tile=(16, 20, 48),
        halo=1,
        planned=lambda plan, folder: plans.append((plan, folder)),
        report=lambda *counts: seen.append(counts),
        **HERE,
    )
    assert status(run, verify=True).complete
    assert plans == [(Run(run).plan, run)]
    stages = [stage for stage, _, _ in seen]
    assert list(dict.fromkeys(stages)) == ["infer", "stitch"]
    for stage in ("infer", "stitch"):
        done = [counts for name, *counts in seen if name == stage]
        assert done == sorted(done) and done[-1][0] == done[-1][1]


# --- again after a kill --------------------------------------------------------------------------


def test_a_second_call_goes_on(tmp_path, source, network, monkeypatch):
    options = dict(network=network, halo="exact", tile=(16, 8, 8), **HERE)
    pipeline.run(source, tmp_path / "expected.tif", **options)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "stitch", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(source, tmp_path / "out.tif", **options)
    assert not (tmp_path / "out.tif").exists()
    result = pipeline.run(source, tmp_path / "out.tif", **options)
    assert result.resumed and result.infer.computed == 0 and result.infer.skipped == 30
    assert np.array_equal(read(tmp_path / "out.tif"), read(tmp_path / "expected.tif"))
    assert not (tmp_path / "out.tif.run").exists()


def _interrupted(*_, **__):
    raise KeyboardInterrupt


def run_labels(source: Path, out: Path, network: Path) -> None:
    options = dict(halo="exact", tile=(16, 8, 8), kind="labels", threshold=0.767, objects=out.with_name("cells.csv"))
    pipeline.run(source, out, network=network, **options, **HERE)


def test_killed_at_any_moment_and_called_again_is_as_undisturbed(tmp_path, source, network):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    out = tmp_path / "a" / "labels.ome.zarr"
    run_labels(source, out, network)
    processes, chance, kills = get_context("forkserver"), random.Random(0), 0
    again = tmp_path / "b" / "labels.ome.zarr"
    for turn in range(12):
        process = processes.Process(target=run_labels, args=(source, again, network))
        process.start()
        while not Path(f"{again}.run").exists() and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05 * turn))  # the first ones early: it takes some tenths of a second in all
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert kills >= 1
    if not again.exists() or Path(f"{again}.run").exists():
        run_labels(source, again, network)
    assert np.array_equal(read(again), read(out))
    assert again.with_name("cells.csv").read_text() == out.with_name("cells.csv").read_text()
    assert sorted(path.name for path in again.parent.iterdir()) == ["cells.csv", "labels.ome.zarr"]


@pytest.mark.parametrize(
    ("option", "value"), [("tile", (8, 8, 8)), ("halo", 3), ("store", "argmax"), ("region", ":,:,:20"), ("level", 1)]
)
def test_an_unfinished_run_of_another_request_is_not_taken(tmp_path, source, network, monkeypatch, option, value):
    options = dict(network=network, halo="exact", tile=(16, 20, 24), **HERE)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "infer", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(source, tmp_path / "out.tif", **options)
    with pytest.raises(errors.RunNotEmpty, match=option) as caught:
        pipeline.run(source, tmp_path / "out.tif", **options | {option: value})
    assert "\n" not in str(caught.value)
    pipeline.run(source, tmp_path / "out.tif", **options | {"threads": 2})  # threads change no number
    assert (tmp_path / "out.tif").exists()


def test_an_unfinished_run_of_a_changed_input_is_not_taken(tmp_path, source, network, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "infer", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(source, tmp_path / "out.tif", network=network, **HERE)
    write_tiff(source, cells(SHAPE, seed=1))
    with pytest.raises(errors.SourceChanged):
        pipeline.run(source, tmp_path / "out.tif", network=network, **HERE)


# --- what is refused, before hours of computing --------------------------------------------------


def _never(*_, **__):
    raise AssertionError("computing began")


@pytest.mark.parametrize(
    ("out", "options", "kind"),
    [
        ("out.tif", {"kind": "everything"}, errors.BadOption),
        ("out.tif", {"kind": "probability", "store": "raw"}, errors.NotInPlan),
        ("out.tif", {"threshold": 1.5}, errors.BadOption),
        ("out.tif", {"min_size": 10}, errors.BadOption),
        ("out.tif", {"store": "raw"}, errors.NotInPlan),
        ("out.jpg", {}, errors.UnknownFormat),
        ("nowhere/out.tif", {}, errors.VolumeNotFound),
        ("out.tif", {"tile": "99,99,99"}, errors.BadOption),
        ("out.tif", {"treshold": 0.4}, TypeError),
    ],
)
def test_what_stitch_would_refuse_is_refused_first(tmp_path, source, network, monkeypatch, out, options, kind):
    monkeypatch.setattr(pipeline, "infer", _never)
    with pytest.raises(kind) as caught:
        pipeline.run(source, tmp_path / out, network=network, **{"halo": "exact"} | options, **HERE)
    assert "\n" not in str(caught.value)


def test_a_refused_stitch_does_not_block_a_second_try(tmp_path, source, network):
    with pytest.raises(errors.BadOption):
        pipeline.run(source, tmp_path / "out.tif", network=network, threshold=2, **HERE)
    pipeline.run(source, tmp_path / "out.tif", network=network, threshold=0.4, **HERE)
    assert (tmp_path / "out.tif").exists()


def test_an_option_that_stitch_refused_can_be_mended_with_another_plan(tmp_path, source, network):
    with pytest.raises(errors.NotInPlan):
        pipeline.run(source, tmp_path / "out.tif", network=network, kind="probability", store="raw", **HERE)
    pipeline.run(source, tmp_path / "out.tif", network=network, kind="probability", **HERE)
    assert (tmp_path / "out.tif").exists()


def test_nothing_is_computed_twice_where_two_results_are_wanted(tmp_path, source, network):
    options = dict(network=network, run_folder=tmp_path / "run", keep=True, tile=(16, 20, 24), halo="exact", **HERE)
    pipeline.run(source, tmp_path / "mask.tif", **options)
    result = pipeline.run(source, tmp_path / "probability.tif", kind="probability", **options)
    assert result.infer.computed == 0
    shutil.rmtree(tmp_path / "run")
