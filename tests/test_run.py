"""The run folder: plans that cannot be changed unnoticed, files that are whole or absent."""

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import COST

from medhpc.errors import DiskFull, NoPermission, NoResult, NotARun, RunNotEmpty
from medhpc.geometry import Box
from medhpc.run import Plan, Run, clean, status
from medhpc.run.durable import partial_suffix, sweep_partials, write_durably
from medhpc.run.folder import claimed, create_run, ranges
from medhpc.run.plan import (
    VERSION,
    Blend,
    Cost,
    Halo,
    HaloRow,
    NetworkUsed,
    Normalization,
    Source,
    Stored,
)
from medhpc.run.shards import shard_shape

length = st.integers(1, 10**6)
index = st.tuples(length, length, length)
real = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=12)
rows = st.builds(HaloRow, halo=length, max_error=real, mean_error=real, flipped=real, work=real)
plans = st.builds(
    Plan,
    source=st.builds(
        Source,
        path=texts,
        channel=st.none() | st.integers(0, 9),
        fingerprint=st.dictionaries(texts, st.integers() | texts | st.tuples(length, length)),
        shape=index,
        voxel_size=st.none() | st.tuples(real, real, real),
        affine=st.none() | st.tuples(*[st.tuples(real, real, real, real)] * 4),
    ),
    network=st.builds(
        NetworkUsed,
        classes=st.lists(texts, max_size=3).map(tuple),
        receptive_radius=st.none() | index,
        minimum_shape=index,
    ),
    normalization=st.builds(Normalization, mean=st.lists(real).map(tuple), std=st.lists(real).map(tuple)),
    halo=st.builds(Halo, size=index, tolerance=real, table=st.lists(rows, max_size=3).map(tuple)),
    blend=st.builds(Blend, window=index, step=index),
    stored=st.builds(Stored, chunk=index, shard=index),
    cost=st.builds(Cost, seconds_per_voxel=real, bytes_per_voxel=real),
    tile=index,
    region=st.builds(Box, start=index, stop=index),
    request=st.dictionaries(texts, st.none() | texts | real | st.booleans(), max_size=3),
)


def plan_of(shape=(20, 30, 40), tile=(10, 15, 20), channels=1, dtype="uint8") -> Plan:
    """A plan for a volume that does not exist."""
    shard, chunk = shard_shape(tile, shape)
    return Plan(
        source=Source(
            path="/nowhere/volume.tif",
            channel=None,
            level=0,
            copy="",
            fingerprint={"bytes": 1},
            shape=shape,
            channels=1,
            dtype="uint16",
            voxel_size=(1.0, 0.5, 0.5),
            unit="um",
            affine=None,
        ),
        network=NetworkUsed(
            path="identity",
            digest="0" * 64,
            name="Identity",
            classes=(),
            receptive_radius=(0, 0, 0),
            minimum_shape=(1, 1, 1),
            stride=(1, 1, 1),
        ),
        normalization=Normalization(source="none"),
        halo=Halo(size=(2, 2, 2), how="exact", tolerance=0.0),
        blend=Blend(mode="none"),
        stored=Stored(kind="raw", dtype=dtype, channels=channels, chunk=chunk, shard=shard),
        cost=COST,
        tile=tile,
        region=Box.whole(shape),
    )


def new_run(folder: Path, **options) -> Run:
    with claimed(folder):
        return create_run(folder, plan_of(**options))


def fill(run: Run, value: int = 1) -> None:
    for tile in run.plan.grid:
        values = np.full((run.plan.stored.channels, *tile.write.shape), value, run.plan.stored.dtype)
        run.commit(tile, values, time.monotonic())


# --- the plan ------------------------------------------------------------------------------------


@given(plans)
def test_a_plan_survives_its_file(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest
    assert hash(again.tile) == hash(plan.tile)  # tuples, not lists


@given(plans, st.data())
def test_a_plan_that_was_edited_is_refused(plan, data):
    file = json.loads(plan.to_json())
    where = data.draw(st.sampled_from(["tile", "cost", "stored", "source", "region"]))
    part = file["plan"][where]
    if isinstance(part, list):
        part[0] += 1
    else:
        name = data.draw(st.sampled_from(sorted(part)))
        part[name] = "edited"
    with pytest.raises(NotARun, match="plan.json"):
        Plan.from_json(json.dumps(file))


@settings(max_examples=200)
@given(st.data())
def test_no_damage_to_a_plan_goes_unnoticed(data):
    plan = plan_of()
    text = bytearray(plan.to_json().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(text[: data.draw(st.integers(0, len(text)))])
    try:
        assert Plan.from_json(damaged.decode(errors="surrogateescape")) == plan  # white space was changed
    except NotARun as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"null", b'"plan"', b"\xff\xfe\x00", b'{"version": 1}', b"{"])
def test_what_is_no_plan_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(NotARun):
        Run(tmp_path)


def test_a_plan_of_another_version_is_refused(tmp_path):
    file = json.loads(plan_of().to_json()) | {"version": VERSION + 1}
    (tmp_path / "plan.json").write_text(json.dumps(file))
    with pytest.raises(NotARun, match=f"version {VERSION + 1}"):
        Run(tmp_path)


def test_the_digest_is_the_same_in_every_process_and_release():
    assert plan_of().digest == GOLDEN_DIGEST


GOLDEN_DIGEST = "cb0168a6a2c94d1a"  # a change of the plan's fields needs a new VERSION, and then a new digest here


def test_every_field_counts_in_the_digest():
    plan = plan_of()
    changed = [
        dataclasses.replace(plan, **{field.name: "changed"})
        for field in dataclasses.fields(plan)
        if field.name not in ("source", "network", "normalization", "halo", "blend", "stored", "cost", "region")
    ]
    assert len({plan.digest, *(other.digest for other in changed)}) == len(changed) + 1


def test_a_plan_of_a_million_tiles_costs_nothing():
    began = time.process_time()
    plan = plan_of(shape=(12800, 12800, 12800), tile=(128, 128, 128))
    again = Plan.from_json(plan.to_json())
    grid = again.grid
    assert len(grid) == 10**6
    assert grid[10**6 - 1].write.stop == (12800, 12800, 12800)
    assert grid.read_amplification == pytest.approx((132 / 128 - 4 / 12800) ** 3)
    assert len(plan.to_json()) < 5000
    assert time.process_time() - began < 1


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_without_a_plan_is_no_run(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(NotARun, match="medhpc tile"):
            Run(folder)


def test_a_run_is_not_planned_twice(tmp_path):
    new_run(tmp_path / "run")
    with pytest.raises(RunNotEmpty, match="medhpc infer"), claimed(tmp_path / "run"):
        pass
    assert Run(tmp_path / "run").plan == plan_of()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunNotEmpty, match=r"thesis\.tex"), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("run", ["file", "file/run", "file/a/run"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, run):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunNotEmpty, match="folder"), claimed(tmp_path / run):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_was_half_made_is_made_anew(tmp_path):
    folder = tmp_path / "run"
    new_run(folder, channels=3)
    (folder / "plan.json").rename(folder / f"plan.json.{partial_suffix()}")
    run = new_run(folder)
    assert run.shards.array.shape[0] == 1
    fill(run)
    assert status(folder).complete


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_every_number(numbers):
    text = ranges(sorted(numbers), most=100)
    parts = [part.split("-") for part in text.split(",") if part]
    named = [n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)]
    assert named == sorted(numbers)


def test_long_lists_of_tiles_are_cut():
    assert ranges(list(range(0, 100, 2)), most=2) == "0,2,... (48 more ranges)"


def test_clean_keeps_what_has_no_result(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run)
    with pytest.raises(NoResult, match="medhpc stitch"):
        clean(run.folder)
    assert status(run.folder, verify=True).complete

    out = tmp_path / "out.tif"
    out.touch()
    run.add_result(out)
    before = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    freed = clean(run.folder)
    after = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    assert freed == before - after > 0
    assert status(run.folder).cleaned
    assert clean(run.folder) == 0


def test_a_result_that_is_gone_does_not_count(tmp_path):
    run = new_run(tmp_path / "run")
    run.add_result(tmp_path / "gone.tif")
    with pytest.raises(NoResult):
        clean(run.folder)
    clean(run.folder, force=True)
    assert not run.has_results


# --- files that are whole or absent --------------------------------------------------------------


@given(st.binary(max_size=200), st.none() | st.binary(max_size=200))
def test_what_is_written_is_what_is_read(tmp_path_factory, content, before):
    folder = tmp_path_factory.mktemp("durable")
    path = folder / "a" / "file"
    if before is not None:
        write_durably(path, before)
    write_durably(path, memoryview(content))
    assert path.read_bytes() == content
    assert list(folder.rglob("*.partial")) == []


class Refusing:
    """A system call that fails after a few good calls."""

    def __init__(self, call, good: int, number: int) -> None:
        self.call, self.left, self.number = call, good, number

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))
        return self.call(*arguments, **options)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, name, number):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    kinds = {errno.ENOSPC: DiskFull, errno.EDQUOT: DiskFull, errno.EACCES: NoPermission, errno.EROFS: NoPermission}
    with monkeypatch.context() as patch:
        patch.setattr(os, name, Refusing(getattr(os, name), 0, number))
        with pytest.raises(kinds.get(number, OSError)) as caught:
            write_durably(path, b"after")
    assert str(tmp_path) in str(caught.value) or number == errno.EIO
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_short_writes_are_completed(tmp_path, monkeypatch):
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: whole(file, bytes(content)[:3]))
        write_durably(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_the_umask_is_respected(tmp_path, mask):
    before = os.umask(mask)
    try:
        run = new_run(tmp_path / "run")
        fill(run)
    finally:
        os.umask(before)
    for path in (run.folder, *run.folder.rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another group to give the folder to")
def test_the_group_of_the_folder_is_respected(tmp_path):
    group = os.getegid() + 4321
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2775)
    run = new_run(tmp_path / "run")
    fill(run)
    for path in (run.folder, *run.folder.rglob("*")):
        assert path.stat().st_gid == group, path


def test_files_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    died = subprocess.run(
        [sys.executable, "-c", "from medhpc.run.durable import partial_suffix; print(partial_suffix())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here = partial_suffix()
    for name in (f"3.{died}", f"3.{here}", "3.another.host.1.abc.partial", "thesis.tex"):
        (tmp_path / name).touch()
    sweep_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"3.{here}", "3.another.host.1.abc.partial", "thesis.tex"}


# --- shards --------------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(1, 700)] * 3), st.data())
def test_a_tile_is_a_whole_number_of_shards_and_a_shard_of_chunks(volume, data):
    tile = tuple(data.draw(st.integers(1, n)) for n in volume)
    shard, chunk = shard_shape(tile, volume)
    for t, v, s, c in zip(tile, volume, shard, chunk, strict=True):
        assert t % s == 0 or t == v
        assert s % c == 0
        assert c <= 64 or c == s
        assert s <= max(t, 128)
        assert s <= 192 or t != v and all(t % n or not 64 <= t // n <= 192 for n in range(1, t))


def test_the_default_shard_and_chunk():
    assert shard_shape((256, 128, 384), (2304, 1280, 1024)) == ((128, 128, 128), (64, 64, 64))
    assert shard_shape((500, 60, 59_999), (500, 60, 59_999)) == ((128, 60, 128), (64, 60, 64))
    assert shard_shape((320, 192, 544), (2304, 1280, 1024)) == ((160, 192, 136), (40, 64, 34))
    assert shard_shape((1, 1024, 1024), (1, 5000, 5000)) == ((1, 128, 128), (1, 64, 64))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_is_committed_is_what_is_stored(tmp_path_factory, data):
    shape = tuple(data.draw(st.integers(1, 20)) for _ in range(3))
    tile = tuple(data.draw(st.integers(1, n)) for n in shape)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    shard, chunk = shard_shape(tile, shape, edge=4, chunk=2)
    plan = plan_of(shape=shape, tile=tile, dtype="int16", channels=2)
    plan = dataclasses.replace(
        plan, region=Box(start, stop), stored=dataclasses.replace(plan.stored, shard=shard, chunk=chunk)
    )
    folder = tmp_path_factory.mktemp("run")
    with claimed(folder):
        run = create_run(folder, plan)
    expected = np.random.default_rng(0).integers(-99, 99, (2, *shape)).astype(np.int16)
    order = data.draw(st.permutations(range(len(run.plan.grid)))) if len(run.plan.grid) < 50 else range(len(plan.grid))
    for number in order:
        tile = run.plan.grid[number]
        run.commit(tile, expected[(slice(None), *tile.write.slices)], time.monotonic())
    run.require_all()
    region = (slice(None), *plan.region.slices)
    assert np.array_equal(run.shards.array[region], expected[region])
    outside = run.shards.array[:]
    outside[region] = 0
    assert not outside.any()


def test_no_two_tiles_share_a_file(tmp_path):
    run = new_run(tmp_path / "run", shape=(50, 300, 300), tile=(20, 256, 100))
    files = [path for tile in run.plan.grid for path in run.shards.paths(tile.write)]
    assert len(files) == len(set(files))


def test_zeros_are_stored_too(tmp_path):
    run = new_run(tmp_path / "run")
    fill(run, 0)
    assert all(path.is_file() for tile in run.plan.grid for path in run.shards.paths(tile.write))
    assert status(run.folder, verify=True).complete


def test_equal_numbers_give_equal_bytes(tmp_path):
    a, b = (new_run(tmp_path / name) for name in "ab")
    fill(a)
    fill(b)
    assert a.digests() == b.digests()
    fill(a)  # once more, over what is there
    assert a.digests() == b.digests()


def test_the_array_is_plain_zarr(tmp_path):
    import zarr

    run = new_run(tmp_path / "run", channels=2)
    fill(run, 7)
    array = zarr.open_array(run.folder / "prediction.zarr", mode="r")
    assert array.shape == (2, 20, 30, 40)
    assert (array[:] == 7).all()


def test_the_codec_itself_notices_flipped_bytes(tmp_path):
    folder = tmp_path / "a"
    run = new_run(folder)
    fill(run)
    path = run.shards.paths(run.plan.grid[0].write)[0]
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="(?i)checksum|crc"):
        run.shards.array[:]
