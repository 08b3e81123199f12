"""Packing tiles into tasks: laws, then examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.errors import BadOption
from medhpc.jobs.chain import Step, Target, chain
from medhpc.jobs.packing import MOST_TASKS, SPARE, START, Ceiling, Cost, Resources, pack, split_array

GIB = 2**30
ROOMY = Ceiling(cpus=64, memory=256 * GIB, seconds=86400, array_size=1001, jobs=5000)
TARGET = Target(run="/data/a.run", out="/data/a.tif")


def packed(tiles, seconds, *, target=1800.0, rounds=2, ceiling=ROOMY, memory=8 * GIB):
    cost = Cost(seconds=seconds, memory=memory, source="")
    task = Resources(cpus=8, memory=memory)
    return pack(tiles, cost, task, target_seconds=target, rounds=rounds, steps=1, ceiling=ceiling)


@given(
    tiles=st.integers(0, 10**6),
    seconds=st.floats(1e-3, 3600),
    target=st.floats(1, 86400),
    rounds=st.integers(0, 3),
    jobs=st.none() | st.integers(20, 10**5),
    array=st.none() | st.integers(100, 5000),
)
@settings(deadline=None)
def test_tasks_hold_all_tiles_and_fit(tiles, seconds, target, rounds, jobs, array):
    ceiling = Ceiling(cpus=64, memory=256 * GIB, seconds=86400, array_size=array, jobs=jobs)
    found = packed(tiles, seconds, target=target, rounds=rounds, ceiling=ceiling)
    assert found.tasks * found.tiles_per_task >= tiles
    assert (found.tasks == 0) == (tiles == 0) and (found.repair_tasks == 0) == (tiles == 0)
    assert found.infer.seconds <= 86400 and found.infer.warning < found.infer.seconds
    steps = chain([TARGET], found, folder=Path("/x"), ceiling=ceiling, stitch=found.infer, rounds=rounds)
    if jobs is not None:
        assert sum(step.tasks for step in steps) <= jobs
    if array is not None:
        assert all(step.tasks <= array for step in steps)


@given(tasks=st.integers(0, 5000), size=st.none() | st.integers(1, 700))
def test_arrays_hold_each_task_once(tasks, size):
    assert [task for array in split_array(tasks, size) for task in array] == list(range(tasks))


@given(tasks=st.integers(1, 60), array=st.integers(1, 20), rounds=st.integers(0, 3))
def test_the_shares_of_a_round_are_all_shares(tasks, array, rounds):
    ceiling = Ceiling(array_size=array)
    found = packed(tasks, 1800, ceiling=ceiling, rounds=rounds)
    steps = chain([TARGET], found, folder=Path("/x"), ceiling=ceiling, stitch=found.infer, rounds=rounds)
    shares = [step.command(index)[2] for step in steps if step.kind == "infer" for index in range(step.tasks)]
    assert shares == [f"{k}/{found.tasks}" for k in range(1, found.tasks + 1)]


def test_a_task_takes_the_target_time_and_has_spare_time():
    found = packed(1000, 60.0)
    assert (found.tiles_per_task, found.tasks) == (30, 34)
    assert found.infer.seconds == START + SPARE * 30 * 60 + found.infer.warning
    assert found.infer.warning == SPARE * 60


def test_few_jobs_make_long_tasks():
    found = packed(1000, 60.0, ceiling=Ceiling(jobs=12))
    assert found.tasks + 2 * found.repair_tasks + 1 <= 12
    assert found.tiles_per_task >= 100


def test_a_million_tiles_make_no_more_tasks_than_a_controller_bears():
    assert packed(10**6, 60.0, ceiling=Ceiling(array_size=1001)).tasks == MOST_TASKS
    day = packed(10**6, 600.0, ceiling=Ceiling(seconds=86400))  # longer tasks than a day are not allowed: more of them
    assert day.tasks > MOST_TASKS and day.infer.seconds <= 86400


def test_too_few_jobs_are_refused():
    with pytest.raises(BadOption, match="limit on jobs"):
        packed(1000, 60.0, ceiling=Ceiling(jobs=2))


def test_a_tile_that_no_job_can_finish_is_refused():
    with pytest.raises(BadOption, match="smaller tiles"):
        packed(10, 2000.0, ceiling=Ceiling(seconds=3600))


def test_each_round_asks_for_more_up_to_what_there_is():
    first = Resources(cpus=8, memory=100 * GIB, seconds=40000)
    second = first.again(ROOMY)
    assert (second.memory, second.seconds) == (150 * GIB, 80000)
    third = second.again(ROOMY)
    assert (third.memory, third.seconds) == (225 * GIB, 86400)
    assert third.again(ROOMY).memory == 256 * GIB


def test_the_chain_waits_for_all_of_the_round_before():
    ceiling = Ceiling(array_size=20)
    found = packed(50, 1800, ceiling=ceiling)
    steps = chain([TARGET], found, folder=Path("/x"), ceiling=ceiling, stitch=found.infer, rounds=2)
    assert [(step.name, step.tasks, step.offset, step.of, step.after) for step in steps] == [
        ("infer-0", 20, 0, 50, ()),
        ("infer-1", 20, 20, 50, ()),
        ("infer-2", 10, 40, 50, ()),
        ("repair-1", 7, 0, 7, ("infer-0", "infer-1", "infer-2")),
        ("repair-2", 7, 0, 7, ("repair-1",)),
        ("stitch", 1, 0, 0, ("repair-2",)),
    ]
    assert steps[3].resources.memory == int(1.5 * steps[0].resources.memory)


def test_nothing_missing_is_stitched_at_once():
    found = packed(0, 60.0)
    [step] = chain([TARGET], found, folder=Path("/x"), ceiling=ROOMY, stitch=found.infer, rounds=2)
    assert (step.name, step.after) == ("stitch", ())


def test_volumes_share_the_arrays_and_each_is_planned_and_stitched():
    targets = [Target(run=f"/o/{name}.run", out=f"/o/{name}.tif", volume=f"/i/{name}.tif") for name in "abc"]
    found = packed(50, 1800)
    steps = chain(
        targets, found, folder=Path("/x"), ceiling=Ceiling(array_size=2), stitch=found.infer, rounds=0, plan=found.infer
    )
    assert [(step.name, step.after) for step in steps if step.kind in ("plan", "stitch")] == [
        ("plan-0", ()),
        ("plan-1", ()),
        ("stitch-0", tuple(f"infer-{n}" for n in range(25))),
        ("stitch-1", tuple(f"infer-{n}" for n in range(25))),
    ]
    infer = next(step for step in steps if step.kind == "infer")
    assert infer.after == ("plan-0", "plan-1")
    assert infer.command(0)[-3:] == ["/o/a.run", "/o/b.run", "/o/c.run"]
    assert steps[1].command(0)[-2:] == ["/i/c.tif", "/o/c.run"]


@given(st.integers(1, 50))
def test_steps_survive_json(tiles):
    import json

    found = packed(tiles, 1800)
    for step in chain([TARGET], found, folder=Path("/x"), ceiling=ROOMY, stitch=found.infer, rounds=1):
        assert Step.from_dict(json.loads(json.dumps(step.as_dict()))) == step
