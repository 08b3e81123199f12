"""Columns and sweeps: planes stream through the network, and what is stored is what the whole volume would give."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked import on_ranks
from samples import cells, msd, probabilities, stored, whole, write_tiff
from test_native import built

from medhpc.errors import BadOption, NonFinite
from medhpc.geometry import Box
from medhpc.infer import infer
from medhpc.infer.columns import stretches
from medhpc.ranks.group import Ranks
from medhpc.run import Plan, Run
from medhpc.run.plan import BASE
from medhpc.tiling import tile

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")

HERE: Any = {"device": "cpu", "threads": 1, "engine": "torch"}
SHAPE = (60, 20, 24)


def planned(folder: Path, volume: np.ndarray, name: str = "run", **options: Any) -> tuple[Plan, Path]:
    source, network = folder / "volume.tif", folder / "net.safetensors"
    if not source.exists():
        write_tiff(source, volume)
        msd(depth=4).save(network)
    return tile(source, folder / name, network=network, **{**HERE, "store": "raw", **options}), folder / name


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=built)])
def test_a_sweep_stores_what_the_whole_volume_gives(tmp_path: Path, engine: str) -> None:
    volume = cells(SHAPE)
    plan, run = planned(tmp_path, volume, scheme="sweep", engine=engine)
    assert plan.scheme == "sweep" and plan.computed_voxels == volume.size and plan.halo.how == "exact"
    result = infer(run, device="cpu", threads=1)
    assert result.computed == len(plan.grid)
    Run(run).require_all()
    assert np.allclose(stored(run), whole(msd(depth=4), volume), atol=1e-4)


@pytest.mark.parametrize("store", ["probability", "argmax"])
def test_columns_store_what_boxes_store(tmp_path: Path, store: str) -> None:
    volume = cells((40, 30, 70))
    _, boxes = planned(tmp_path, volume, "boxes", scheme="boxes", halo="exact", store=store)
    plan, columns = planned(tmp_path, volume, "columns", scheme="columns", halo="exact", tile=(16, 10, 32), store=store)
    assert len(plan.columns) == 9 and len(plan.grid) == 27 and plan.scheme == "columns"
    for run in (boxes, columns):
        infer(run, device="cpu", threads=1)
        Run(run).require_all()
    assert np.abs(stored(boxes).astype(int) - stored(columns).astype(int)).max() <= 1


def test_a_region_has_the_context_of_the_volume(tmp_path: Path) -> None:
    volume = cells(SHAPE)
    region = Box((21, 3, 5), (50, 17, 20))
    plan, run = planned(tmp_path, volume, scheme="sweep", region=region)
    infer(run, device="cpu", threads=1)
    wanted = whole(msd(depth=4), volume)
    assert np.allclose(stored(run)[(slice(None), *region.slices)], wanted[(slice(None), *region.slices)], atol=1e-4)
    assert plan.columns[0].read == Box((14, 0, 0), (57, 20, 24))


def test_exact_takes_what_computes_least_and_forbids_the_rest(tmp_path: Path) -> None:
    volume = cells((80, 160, 160))
    options: Any = {"exact": True, "memory": int(0.85 * 2**30), "region": Box((0, 0, 0), (80, 160, 40))}
    plan, _ = planned(tmp_path, volume, **options)
    assert plan.halo.how == "exact" and {row.name for row in plan.schemes} == {"boxes", "columns", "sweep"}
    assert plan.computed_voxels == min(row.computed for row in plan.schemes if row.exact and row.fits)
    for wrong in ({"halo": 2}, {"blend": "gaussian"}):
        with pytest.raises(BadOption, match="approximation"):
            planned(tmp_path, volume, "wrong", exact=True, **wrong)


def test_a_tile_given_by_hand_leaves_the_planes_of_a_sweep_whole(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, cells((40, 40, 40)), exact=True, tile=(8, 16, 16))
    assert plan.scheme == "sweep" and plan.tile == (8, 40, 40) and plan.computed_voxels == 40**3


def test_ranks_that_ask_for_exactness_get_columns(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, cells((20, 24, 24)), exact=True, ranks=2)  # boxes would do as well: one holds it all
    assert plan.scheme == "sweep" and plan.sweep is not None and plan.sweep.ranks == 2


def test_a_scheme_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    volume = cells((16, 200, 200))
    with pytest.raises(BadOption, match=r"needs --memory .*G at least"):
        planned(tmp_path, volume, scheme="sweep", memory=int(0.81 * 2**30))
    with pytest.raises(BadOption, match="engine 'reference' computes whole blocks"):
        planned(tmp_path, volume, scheme="columns", engine="reference")


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=built)])
def test_after_a_kill_the_rest_gets_the_same_bits(tmp_path: Path, engine: str) -> None:
    volume = cells((150, 14, 16))
    options: Any = {"scheme": "sweep", "tile": (16, 14, 16), "engine": engine}
    plan, whole_run = planned(tmp_path, volume, "whole", **options)
    infer(whole_run, device="cpu", threads=1)
    _, run = planned(tmp_path, volume, **options)
    asked = itertools.count()
    first = infer(run, device="cpu", threads=1, stop=lambda: next(asked) == 5)
    assert (first.computed, first.left) == (6, len(plan.grid) - 6)
    rest = infer(run, device="cpu", threads=1)
    assert (rest.skipped, rest.computed) == (6, len(plan.grid) - 6)
    assert np.array_equal(stored(run), stored(whole_run))
    (again,) = stretches(plan, range(6, len(plan.grid)), 24)
    assert again.read.start[0] > 0  # it did not begin anew


def test_tasks_that_share_a_column_give_the_same_bits(tmp_path: Path) -> None:
    volume = cells((150, 14, 16))
    options: Any = {"scheme": "sweep", "tile": (16, 14, 16)}
    _, alone = planned(tmp_path, volume, "alone", **options)
    _, shared = planned(tmp_path, volume, "shared", **options)
    infer(alone, device="cpu", threads=1)
    for task in ("2/3", "1/3", "3/3"):
        infer(shared, task=task, device="cpu", threads=1)
    assert np.array_equal(stored(shared), stored(alone))


def test_tiles_far_apart_are_swept_by_themselves(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, cells((400, 12, 12)), scheme="sweep", tile=(20, 12, 12))
    near, far = stretches(plan, [1, 2, 17], 23)
    assert [t.index for t in near.tiles] == [1, 2] and [t.index for t in far.tiles] == [17]
    assert near.read.stop[0] < far.read.start[0]


def test_a_damaged_tile_is_computed_again(tmp_path: Path) -> None:
    volume = cells((90, 14, 16))
    plan, run = planned(tmp_path, volume, scheme="sweep", tile=(16, 14, 16))
    infer(run, device="cpu", threads=1)
    before = stored(run)
    shard = Run(run).shards.paths(plan.grid[3].write)[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    result = infer(run, device="cpu", threads=1)
    assert (result.computed, result.repaired) == (1, 1)
    assert np.array_equal(stored(run), before)


def test_a_voxel_that_is_no_number_fails_its_column_and_leaves_the_others(tmp_path: Path) -> None:
    volume = cells((60, 24, 24)).astype(np.float32)
    volume[30, 20, 20] = np.nan
    plan, run = planned(tmp_path, volume, scheme="columns", halo="exact", tile=(16, 12, 12), normalize="none")
    with pytest.raises(NonFinite, match="z,y,x = 30,20,20"):
        infer(run, device="cpu", threads=1)
    result = infer(run, device="cpu", threads=1, keep_going=True)
    assert result.failed and result.computed + result.skipped == 3 * len(plan.grid) // 4
    assert all("30,20,20" in error for error in result.errors)


def infer_on_ranks(ranks: Ranks, run: Path) -> int:
    return infer(run, device="cpu", threads=1, ranks=ranks).computed


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=built)])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_the_rows_of_a_sweep(tmp_path: Path, size: int, engine: str) -> None:
    volume = cells((50, 23, 16))
    _, alone = planned(tmp_path, volume, "alone", scheme="sweep", store="probability", engine=engine)
    plan, shared = planned(tmp_path, volume, "shared", scheme="sweep", store="probability", engine=engine)
    infer(alone, device="cpu", threads=1)
    assert on_ranks(size, infer_on_ranks, shared) == [len(plan.grid)] * size
    Run(shared).require_all()
    assert np.abs(stored(shared).astype(int) - stored(alone).astype(int)).max() <= 1
    assert np.abs(stored(shared)[0] - 255 * probabilities(whole(msd(depth=4), volume))[0]).max() <= 1


def test_a_plan_for_ranks_counts_the_memory_of_each(tmp_path: Path) -> None:
    volume = cells((40, 200, 200))
    alone, _ = planned(tmp_path, volume, "alone", scheme="sweep")
    shared, _ = planned(tmp_path, volume, "shared", scheme="sweep", ranks=4)
    assert shared.memory_bytes - BASE < 0.6 * (alone.memory_bytes - BASE)  # 50 rows of 200, 6 of neighbours, scratch
    with pytest.raises(BadOption, match="these are boxes"):
        planned(tmp_path, volume, "boxes", ranks=2)
    with pytest.raises(BadOption, match=r"80 ranks for 200 rows.*use at most 66"):
        planned(tmp_path, volume, "many", scheme="sweep", ranks=80)


def test_too_many_ranks_are_refused_with_the_number_that_fits(tmp_path: Path) -> None:
    _, run = planned(tmp_path, cells((30, 11, 16)), scheme="sweep")
    with pytest.raises(AssertionError, match=r"4 ranks for 11 rows: each needs 3 at least.*use at most 3"):
        on_ranks(4, infer_on_ranks, run)
