"""Submitting: each step once, whatever the controller answers, and nothing twice."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest
from samples import msd, write_tiff

from medhpc.errors import (
    BadNetwork,
    BadOption,
    DiskFull,
    MedhpcError,
    NetworkChanged,
    NoSlurm,
    NotARun,
    NothingToDo,
    RunBusy,
    SlurmDown,
    SourceChanged,
    SubmissionRefused,
    VolumeNotFound,
)
from medhpc.infer import infer
from medhpc.jobs import (
    Wishes,
    allowance,
    cancel,
    cancellation,
    dispatch,
    live,
    prepare_folder,
    prepare_run,
    prepare_volumes,
    submit,
)
from medhpc.jobs.script import job_name
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import Association, Job, Limits, NodeKind, Partition
from medhpc.jobs.submission import Submission, submissions, submissions_in
from medhpc.jobs.targets import name_of
from medhpc.run import Run, missing
from medhpc.run.ledger import Record
from medhpc.run.missing import missing_tiles
from medhpc.run.plan import BASE
from medhpc.tiling import summarize, tile
from medhpc.volume import create_volume

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")
SITE = Site(partition="day")
NODES = NodeKind(count=4, usable=4, cpus=8, memory=2**34, gres="")
PARTITION = Partition(
    name="day",
    is_default=True,
    state="UP",
    max_time_seconds=86400,
    default_time_seconds=None,
    max_nodes=None,
    max_cpus_per_node=None,
    max_memory_per_node=None,
    max_memory_per_cpu=None,
    qos="",
    preempt_mode="OFF",
    kinds=(NODES,),
)
LIMITS = Limits(
    cluster="c",
    version="22",
    max_array_size=20,
    max_array_tasks=None,
    max_job_count=None,
    max_submit_jobs=None,
    min_job_age=300,
    kill_wait=30,
    requeue=True,
    memory_counts=True,
    accounting=False,
)


class Controller:
    """A controller that forgets nothing and loses what it is told to lose."""

    def __init__(self) -> None:
        self.queue: list[Job] = []
        self.asked = 0
        self.answers: list[str] = []  # for the next calls of sbatch: "", "lost" (runs, no answer), "down", "no"
        self.looks: list[str] = []  # for the next calls of squeue: "", "down"
        self.partitions = [PARTITION]
        self.limits = LIMITS

    def sbatch(self, script, *options, cwd):
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else ""
        if answer == "no":
            raise SubmissionRefused("sbatch refused it")
        if answer != "down":
            self._enter(script, options)
        if answer:
            raise SlurmDown("sbatch did not answer")
        return str(len(self.queue))

    def _enter(self, script, options):
        text = script.read_text()
        found = dict(re.findall(r"^#SBATCH --([a-z-]+)=\"?(.*?)\"?$", text, re.MULTILINE))
        low, _, high = found.get("array", "").partition("%")[0].partition("-")
        number = str(len(self.queue) + 1)
        self.queue.append(
            Job(
                id=number,
                array=number,
                indices=tuple(range(int(low), int(high) + 1)) if low else (),
                state="PENDING",
                hosts="",
                reason=" ".join(options),
                partition="day",
                name=found["job-name"],
                comment=found["comment"],
            )
        )

    def my_jobs(self):
        if self.looks and self.looks.pop(0) == "down":
            raise SlurmDown("squeue did not answer")
        return list(self.queue)


@pytest.fixture
def controller(monkeypatch):
    one = Controller()
    monkeypatch.setattr(dispatch, "sbatch", one.sbatch)
    for module in (dispatch, live, allowance):
        monkeypatch.setattr(module, "my_jobs", one.my_jobs)
    monkeypatch.setattr(allowance, "partitions", lambda: one.partitions)
    monkeypatch.setattr(allowance, "limits", lambda **_: one.limits)
    monkeypatch.setattr(dispatch, "PAUSE", 0.0)
    return one


@pytest.fixture
def run(tmp_path):
    """A planned run of 24 tiles."""
    write_tiff(tmp_path / "v.tif", np.random.default_rng(0).integers(0, 1000, (12, 8, 16), dtype=np.uint16))
    tile(tmp_path / "v.tif", tmp_path / "run", network="identity", store="raw", tile=(4, 4, 4))
    return tmp_path / "run"


def prepared(run, **options):
    wishes = Wishes(**({"stitch_options": ("--as", "raw"), "site": SITE} | options))
    return prepare_run(run, run.parent / "out.tif", wishes=wishes)


# --- each step once ------------------------------------------------------------------------------


def test_the_chain_is_submitted_in_order_and_written_down(run, controller):
    found = submit(prepared(run, target_seconds=1e-4))
    names = [job.name.removeprefix("medhpc-").removesuffix("-run") for job in controller.queue]
    assert names == ["infer-0", "infer-1", "repair-1", "repair-2", "stitch"]
    waits = [job.reason.partition(" --dependency=")[2] for job in controller.queue]
    assert waits == ["", "", "afterany:1:2", "afterany:3", "afterany:4"]
    [again] = submissions(run)
    assert again == found and again.complete and dict(again.jobs)["stitch"] == "5"


@pytest.mark.parametrize(
    "answers", [["lost"], ["", "lost"], ["down"], ["down", "down", "lost"], ["", "", "down", "lost"]]
)
def test_no_answer_is_followed_by_a_look_never_by_a_blind_repeat(run, controller, answers):
    controller.answers, controller.looks = answers, []
    found = submit(prepared(run))
    assert [job.name for job in controller.queue] == [job_name(step) for step in found.steps]
    assert list(found.jobs.values()) == [job.array for job in controller.queue]


def test_a_job_that_ended_before_the_look_is_known_by_its_log(run, controller, monkeypatch):
    def runs_at_once(script, *options, cwd):
        if script.name != "infer-0.sbatch" or (cwd / "log" / "infer-0-77_0.log").exists():
            return controller.sbatch(script, *options, cwd=cwd)
        (cwd / "log" / "infer-0-77_0.log").touch()
        raise SlurmDown("sbatch did not answer")

    monkeypatch.setattr(dispatch, "sbatch", runs_at_once)
    found = submit(prepared(run))
    assert found.jobs["infer-0"] == "77" and found.complete
    assert [job.name for job in controller.queue] == [job_name(step) for step in found.steps[1:]]


def test_a_controller_that_is_down_for_a_while_is_waited_for(run, controller):
    controller.answers, controller.looks = ["down"], ["", "", "down", "down", ""]
    submit(prepared(run))
    assert len(controller.queue) == 4


def test_a_controller_that_stays_down_leaves_a_chain_that_is_made_whole_later(run, controller):
    controller.answers = ["", "down"]
    controller.looks = ["", *["down"] * 1000]
    with pytest.raises(SlurmDown, match="the same command again"):
        submit(prepared(run), patience=0.05)
    assert [job.name for job in controller.queue] == ["medhpc-infer-0-run"]
    controller.looks = []
    found = submit(prepared(run))
    assert [one.id for one in submissions(run)] == [found.id] and found.complete
    assert [job.name for job in controller.queue] == [job_name(step) for step in found.steps]


def test_a_chain_that_was_cut_short_is_not_continued_for_another_result(run, controller):
    controller.answers, controller.looks = ["", "down"], ["", *["down"] * 1000]
    with pytest.raises(SlurmDown):
        submit(prepared(run), patience=0.05)
    controller.looks = []
    with pytest.raises(RunBusy, match="out.tif, was cut short"):
        submit(prepare_run(run, run.parent / "other.tif", wishes=Wishes(stitch_options=("--as", "raw"), site=SITE)))
    told = []
    submit(prepared(run), progress=told.append)
    assert "cut short" in told[0] and len(controller.queue) == 4


def test_a_job_whose_id_was_not_written_down_is_found(run, controller):
    submit(prepared(run))
    [whole] = submissions(run)
    cut = Submission(**{**vars(whole), "jobs": {"infer-0": "1"}}).saved()
    assert dispatch.finish(cut).jobs == whole.jobs and len(controller.queue) == 4


def test_a_refusal_is_told_and_what_stands_is_written_down(run, controller):
    controller.answers = ["", "no"]
    with pytest.raises(SubmissionRefused):
        submit(prepared(run))
    assert submissions(run)[0].jobs == {"infer-0": "1"}


# --- nothing twice -------------------------------------------------------------------------------


def test_a_run_with_live_jobs_is_refused(run, controller):
    submit(prepared(run))
    with pytest.raises(RunBusy, match=r"live jobs \(1, 2, 3, 4\)"):
        submit(prepared(run))
    assert len(controller.queue) == 4
    controller.queue.clear()
    submit(prepared(run))
    assert len(submissions(run)) == 2


def test_jobs_of_others_are_no_matter(run, controller, tmp_path):
    submit(prepared(run))
    shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("jobs"))
    submit(prepare_run(tmp_path / "other", tmp_path / "out2.tif", wishes=Wishes(site=SITE)))
    assert len(controller.queue) == 8


def test_two_at_once_exclude_each_other(run, controller):
    with dispatch._alone(run / "jobs"), pytest.raises(RunBusy, match="another"):
        submit(prepared(run))
    assert not controller.queue


def test_cancel_ends_what_is_live_and_the_run_can_go_on(run, controller, monkeypatch):
    submit(prepared(run))
    monkeypatch.setattr(cancellation, "scancel", lambda ids: controller.queue.clear() if ids else None)
    assert cancel(run) == ["1", "2", "3", "4"]
    assert cancel(run) == []
    submit(prepared(run))
    assert len(controller.queue) == 4


# --- what is asked for ---------------------------------------------------------------------------


def test_tasks_get_what_the_node_has_and_it_is_said(run, controller):
    found = prepared(run, site=Site(partition="day", cpus=64, memory=2**40))
    assert found.packing.infer.cpus == 8 and found.packing.infer.memory == 2**34
    assert len(found.notes) == 2


@pytest.mark.parametrize("options, message", [({"cpus": 64}, "64 cores.*have 8"), ({"memory": 2**40}, "1024.0 GiB")])
def test_what_is_asked_for_by_hand_is_given_or_refused(run, controller, options, message):
    with pytest.raises(BadOption, match=message):
        prepared(run, **options)


def test_an_account_that_is_none_is_refused_where_the_database_answers(run, controller, monkeypatch):
    ours = Association(account="lab", partition="", qos=(), default_qos="", max_submit_jobs=None)
    monkeypatch.setattr(allowance, "associations", lambda: [ours])
    assert prepared(run, site=Site(account="nobody")).targets  # nobody to ask
    controller.limits = dataclasses.replace(LIMITS, accounting=True)
    with pytest.raises(BadOption, match="no account 'nobody' for you; there are: lab"):
        prepared(run, site=Site(account="nobody"))
    assert prepared(run, site=Site(account="Lab")).targets
    monkeypatch.setattr(allowance, "associations", list)  # closed to users
    assert prepared(run, site=Site(account="nobody")).targets


def test_tasks_ask_for_the_memory_that_the_plan_expects(run, controller):
    plan = Run(run).plan
    asked = prepared(run).packing.infer.memory
    assert plan.memory_bytes <= asked < 1.5 * plan.memory_bytes < plan.cost.memory
    stitch = prepared(run).submission.steps[-1].resources
    assert BASE <= stitch.memory < 2 * BASE  # 1,536 voxels
    infer(run, tiles="0:4")
    measured = max(record["peak_memory"] for record in Run(run).ledger.records())
    assert measured <= prepared(run).packing.infer.memory < 1.5 * measured


# --- what is looked at first ---------------------------------------------------------------------


def change(volume):
    write_tiff(volume, np.ones((12, 8, 16), np.uint16))


@pytest.mark.parametrize(
    "harm, error",
    [(change, SourceChanged), (lambda volume: os.truncate(volume, 100), MedhpcError), (os.remove, VolumeNotFound)],
)
def test_an_input_that_is_another_is_refused_before_anything_is_asked(run, controller, monkeypatch, harm, error):
    harm(run.parent / "v.tif")
    monkeypatch.setattr(allowance, "partitions", pytest.fail)
    with pytest.raises(error, match="v.tif"):
        prepared(run)


def test_a_network_that_is_another_is_refused_before_anything_is_asked(on_cpus, controller, monkeypatch):
    monkeypatch.setattr(allowance, "partitions", pytest.fail)
    msd(3).save(on_cpus.parent / "net.safetensors")
    with pytest.raises(NetworkChanged, match="net.safetensors is not the one"):
        prepared(on_cpus)
    (on_cpus.parent / "net.safetensors").unlink()
    with pytest.raises(BadNetwork, match="no such network file"):
        prepared(on_cpus)


def test_no_input_is_needed_where_only_the_stitch_is_left(run, controller):
    infer(run)
    (run.parent / "v.tif").unlink()
    assert [step.name for step in prepared(run).submission.steps] == ["stitch"]


def test_other_voxels_than_those_of_the_training_are_told(tmp_path, controller):
    network, volumes = msd(2), [tmp_path / "a.tif", tmp_path / "b.tif"]
    network.card = dataclasses.replace(network.card, voxel_size=(1.0, 1.0, 1.0))
    network.save(tmp_path / "net.safetensors")
    for volume in volumes:
        with create_volume(volume, (8, 8, 8), np.uint16, voxel_size=(4.0, 1.0, 1.0), unit="um") as writer:
            writer.write(0, np.arange(512, dtype=np.uint16).reshape(8, 8, 8))
    found = prepare_volumes(volumes, tmp_path, network=tmp_path / "net.safetensors", wishes=Wishes(site=SITE))
    [note] = found.notes
    assert note.startswith(f"{volumes[0]} and 1 more: trained on voxels of 1 x 1 x 1 um; these are 4 x 1 x 1 um")
    tile(volumes[0], tmp_path / "run", network=tmp_path / "net.safetensors", device="cpu", threads=1)
    assert "trained on voxels of 1 x 1 x 1 um" in prepared(tmp_path / "run").notes[0]


@pytest.mark.parametrize("content", [None, b"", b"no network, but a text of some length"])
def test_a_network_that_is_none_is_refused(tmp_path, controller, content):
    volume, network = write_tiff(tmp_path / "a.tif", np.ones((8, 8, 8), np.uint16)), tmp_path / "net.safetensors"
    if content is not None:
        network.write_bytes(content)
    with pytest.raises(BadNetwork, match="net.safetensors"):
        prepare_volumes([volume], tmp_path / "res", network=network, wishes=Wishes(site=SITE))


def test_all_volumes_that_cannot_be_read_are_named_or_left_out(tmp_path, controller):
    volumes = [tmp_path / f"{name}.tif" for name in "abcd"]
    for volume in volumes[:2]:
        write_tiff(volume, np.ones((8, 8, 8), np.uint16))
    volumes[2].write_bytes(b"II*")
    wishes = Wishes(site=SITE)
    with pytest.raises(BadOption, match=r"2 of 4 volumes .*--skip-bad: .*c.tif.*; .*d.tif"):
        prepare_volumes(volumes, tmp_path / "res", network="identity", wishes=wishes)
    found = prepare_volumes(volumes, tmp_path / "res", network="identity", skip_bad=True, wishes=wishes)
    assert [name_of(target.out) for target in found.targets] == ["a", "b"]
    assert [note.startswith("left out: ") for note in found.notes] == [True, True]
    with pytest.raises(BadOption, match="2 of 2"):
        prepare_volumes(volumes[2:], tmp_path / "res", network="identity", skip_bad=True, wishes=wishes)


# --- what is there already -----------------------------------------------------------------------


def finished(run, **options):
    from medhpc.cli.main import run_here

    submit(prepared(run, cluster="debug", **options), call=run_here)


def test_a_result_that_is_there_is_not_made_again(run, controller):
    finished(run)
    with pytest.raises(NothingToDo, match="out.tif is there already"):
        prepared(run)
    assert prepared(run, stitch_options=("--as", "raw", "--levels", "1")).tiles == 0
    (run.parent / "out.tif").unlink()
    assert [step.name for step in prepared(run).submission.steps] == ["stitch"]


def test_a_result_that_is_older_than_the_submission_is_made_anew(run, controller):
    finished(run)
    os.utime(run.parent / "out.tif", (0, 0))
    assert prepared(run).targets


def submitted_volumes(tmp_path, *names, **options):
    volumes = [write_tiff(tmp_path / f"{name}.tif", np.ones((4, 4, 8), np.uint16)) for name in names]
    wishes = Wishes(**({"stitch_options": ("--as", "raw"), "cluster": "debug", "site": SITE} | options))
    tile_options = ("--store", "raw", "--tile", "4")
    return prepare_volumes(
        volumes, tmp_path / "res", network="identity", suffix=".tif", tile_options=tile_options, wishes=wishes
    )


def test_a_folder_of_volumes_goes_on_as_it_was_submitted(tmp_path, controller):
    from medhpc.cli.main import run_here

    submit(submitted_volumes(tmp_path, "a", "b", "c"), call=run_here)
    shutil.rmtree(tmp_path / "res" / "a.run")  # not even planned
    (tmp_path / "res" / "b.tif").unlink()
    found = prepare_folder(tmp_path / "res", wishes=Wishes(cluster="debug", site=SITE))
    assert [name_of(target.out) for target in found.targets] == ["b", "a"]
    submit(found, call=run_here)
    assert all((tmp_path / "res" / f"{name}.tif").exists() for name in "abc")
    assert Run(tmp_path / "res" / "a.run").plan.tile == (4, 4, 4)
    with pytest.raises(NothingToDo, match="all 3 results"):
        prepare_folder(tmp_path / "res", wishes=Wishes(cluster="debug", site=SITE))
    (tmp_path / "res" / "c.tif").unlink()
    found = prepare_folder(tmp_path / "res", wishes=Wishes(cluster="debug", site=SITE))
    assert (found.total, found.submission.steps[-1].options) == (2, ("--as", "raw"))
    submit(found, call=run_here)
    shutil.rmtree(tmp_path / "res" / "c.run")  # the newest submission did not plan it
    found = prepare_folder(tmp_path / "res", wishes=Wishes(cluster="debug", site=SITE))
    assert [step.name for step in found.submission.steps if step.kind == "plan"] == ["plan"]


def test_a_folder_of_several_requests_does_not_go_on_with_one(tmp_path, controller):
    submit(submitted_volumes(tmp_path, "a", cluster="slurm"))
    submit(submitted_volumes(tmp_path, "b", cluster="slurm", stitch_options=("--as", "raw", "--levels", "1")))
    with pytest.raises(BadOption, match="different options.*a.run, b.run"):
        prepare_folder(tmp_path / "res", wishes=Wishes(site=SITE))
    with pytest.raises(NotARun, match="no submission"):
        prepare_folder(tmp_path, wishes=Wishes(site=SITE))


def test_a_folder_goes_on_with_as_many_processes_and_gpus(tmp_path, controller, gpus):
    submit(submitted_volumes(tmp_path, "a", cluster="slurm", stitch_workers=3, gpus=1))
    found = prepare_folder(tmp_path / "res", wishes=Wishes(site=SITE))
    before, now = (one.steps for one in (submissions_in(tmp_path / "res")[0], found.submission))
    assert [(step.name, step.options[-2:], step.resources.gpus) for step in now] == [
        (step.name, step.options[-2:], step.resources.gpus) for step in before
    ]


def test_gpus_that_no_node_has_are_refused(run, controller):
    with pytest.raises(BadOption, match="nodes of 'day' have 0"):
        prepared(run, gpus=1)


@pytest.fixture
def gpus(monkeypatch):
    """Every node has four."""
    monkeypatch.setattr(allowance, "check_gpus", lambda *_: None)
    monkeypatch.setattr("medhpc.jobs.prepare.check_gpus", lambda *_: None)


@pytest.fixture
def on_cpus(tmp_path):
    """A run whose engine computes on CPUs."""
    write_tiff(tmp_path / "v.tif", np.zeros((8, 8, 8), np.uint16) + np.arange(8, dtype=np.uint16))
    msd(2).save(tmp_path / "net.safetensors")
    tile(tmp_path / "v.tif", tmp_path / "v.run", network=tmp_path / "net.safetensors", engine="reference", threads=1)
    return tmp_path / "v.run"


@pytest.mark.parametrize(
    "options, got",
    [
        ({"gpus": 2}, r"2 GPU\(s\) a task"),
        ({"site": Site(partition="day", extra=("--gpus=1",))}, "--gpus=1"),
    ],
)
def test_gpus_are_not_asked_for_where_the_engine_leaves_them_idle(on_cpus, controller, gpus, options, got):
    with pytest.raises(BadOption, match=f"engine 'reference'.*{got}.*--engine torch, or leave the GPUs out"):
        prepared(on_cpus, **options)
    with pytest.raises(BadOption, match=f"engine 'reference'.*{got}"):
        wishes = Wishes(**({"site": SITE} | options))
        network = on_cpus.parent / "net.safetensors"
        prepare_volumes([on_cpus.parent / "v.tif"], on_cpus.parent, network=network, wishes=wishes)
    assert not controller.asked
    assert prepared(on_cpus).packing.infer.gpus == 0


def test_gpus_are_for_the_engine_that_computes_on_them(run, controller, gpus):
    found = prepared(run, gpus=1)
    assert found.packing.infer.gpus == 1
    assert found.submission.steps[0].options[-2:] == ("--device", "cuda")


@pytest.mark.parametrize(
    "engine, count, pinned",
    [("auto", 1, ["torch"]), ("torch", 1, ["torch"]), ("auto", 0, []), ("native", None, ["native"])],
)
def test_volumes_for_gpus_are_planned_for_gpus(tmp_path, controller, gpus, engine, count, pinned):
    write_tiff(tmp_path / "a.tif", np.zeros((4, 8, 8), np.uint16))
    wishes = Wishes(gpus=count, site=SITE)
    found = prepare_volumes([tmp_path / "a.tif"], tmp_path, network="identity", engine=engine, wishes=wishes)
    command = found.submission.steps[0].command(0)
    assert [value for name, value in zip(command, command[1:], strict=False) if name == "--engine"] == pinned


def test_volumes_for_gpus_are_not_planned_for_cpus(tmp_path, controller, gpus):
    write_tiff(tmp_path / "a.tif", np.zeros((4, 8, 8), np.uint16))
    with pytest.raises(BadOption, match="engine 'native' computes on CPUs"):
        wishes = Wishes(gpus=1, site=SITE)
        prepare_volumes([tmp_path / "a.tif"], tmp_path, network="identity", engine="native", wishes=wishes)


def test_costs_are_taken_from_the_ledger_once_there_are_some(run, controller):
    assert "samples" in prepared(run).cost.source
    infer(run, tiles="0:4")
    found = prepared(run)
    assert "4 tiles" in found.cost.source and found.tiles == 20


def test_tiles_that_are_computed_in_parts_cost_what_their_parts_cost(tmp_path, controller):
    write_tiff(tmp_path / "v.tif", np.zeros((128, 128, 128), np.uint8))
    msd(2).save(tmp_path / "net.safetensors")
    options = {"tile": (64, 64, 64), "halo": 48, "memory": BASE + 8 * 2**20, "device": "cpu", "threads": 1}
    plan = tile(tmp_path / "v.tif", tmp_path / "run", network=tmp_path / "net.safetensors", **options)
    told = summarize(plan, tmp_path / "run")
    assert told["splits"]
    assert prepared(tmp_path / "run").cost.seconds == pytest.approx(told["seconds_per_tile"])


def test_a_task_has_a_column_at_least(tmp_path, controller):
    write_tiff(tmp_path / "v.tif", np.zeros((90, 16, 32), np.uint8))
    msd(2).save(tmp_path / "net.safetensors")
    options = {"scheme": "columns", "halo": "exact", "tile": (15, 16, 16), "device": "cpu", "threads": 1}
    tile(tmp_path / "v.tif", tmp_path / "run", network=tmp_path / "net.safetensors", **options)
    found = prepared(tmp_path / "run", target_seconds=1e-6).packing
    assert (found.tiles, found.tasks, found.tiles_per_task) == (12, 2, 6)
    assert prepared(tmp_path / "run", tasks=12).packing.tasks == 12  # as wished, all the same


def test_what_needs_ranks_is_not_computed_by_tasks(tmp_path, controller):
    write_tiff(tmp_path / "v.tif", np.zeros((30, 16, 32), np.uint8))
    msd(2).save(tmp_path / "net.safetensors")
    options = {"scheme": "sweep", "ranks": 2, "device": "cpu", "threads": 1}
    tile(tmp_path / "v.tif", tmp_path / "run", network=tmp_path / "net.safetensors", **options)
    with pytest.raises(BadOption, match="medhpc infer .*run --submit  first"):
        prepared(tmp_path / "run")
    infer(tmp_path / "run", device="cpu", threads=1)
    assert [step.kind for step in prepared(tmp_path / "run").submission.steps] == ["stitch"]


def test_nothing_is_submitted_without_room(run, controller, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DiskFull, match="are free"):
        prepared(run)
    assert not (run / "jobs").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cluster": "cloud"}, "slurm, local, debug"),
        ({"rounds": -1}, "retries"),
        ({"concurrent": 0}, "at a time"),
        ({"target_seconds": 0}, "target time"),
    ],
)
def test_bad_options_are_refused(run, controller, options, message):
    with pytest.raises(BadOption, match=message):
        prepared(run, **options)


def test_an_unknown_partition_is_refused_with_those_there_are(run, controller):
    with pytest.raises(BadOption, match="there are: day"):
        prepare_run(run, "out.tif", wishes=Wishes(site=Site(partition="night")))


def test_without_slurm_that_is_said(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoSlurm, match="--cluster local"):
        prepared(run)


def test_a_module_from_python_cannot_be_submitted(tmp_path, controller):
    write_tiff(tmp_path / "v.tif", np.zeros((8, 8, 8), np.uint16) + np.arange(8, dtype=np.uint16))
    tile(tmp_path / "v.tif", tmp_path / "run", network=msd(2), device="cpu", threads=1)
    with pytest.raises(BadOption, match="network file"):
        prepared(tmp_path / "run")


@pytest.mark.parametrize(
    "volume, name",
    [
        ("/data/brain.ome.tif", "brain"),
        ("brain.nii.gz", "brain"),
        ("a.b.tif", "a.b"),
        ("x.ome.zarr/", "x"),
        ("/d/brain.h5:/raw/a", "brain_raw_a"),
        ("dicom", "dicom"),
    ],
)
def test_volumes_give_their_results_a_name(volume, name):
    assert name_of(volume) == name


def test_volumes_of_one_name_are_refused(tmp_path, controller):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "v.tif", np.zeros((4, 8, 8), np.uint16))
    with pytest.raises(BadOption, match="would both be"):
        prepare_volumes(
            [tmp_path / "a/v.tif", tmp_path / "b/v.tif"], tmp_path, network="identity", wishes=Wishes(site=SITE)
        )


def planned_volumes(tmp_path):
    """Two volumes whose runs are planned, of 24 and of 2 tiles."""
    (tmp_path / "res").mkdir()
    volumes = []
    for name, shape in (("a", (12, 8, 16)), ("b", (4, 4, 8))):
        volumes.append(write_tiff(tmp_path / f"{name}.tif", np.ones(shape, np.uint16)))
        tile(volumes[-1], tmp_path / "res" / f"{name}.run", network="identity", store="raw", tile=(4, 4, 4))
    return volumes


def test_planned_volumes_are_packed_by_their_plans(tmp_path, controller):
    volumes = planned_volumes(tmp_path)
    infer(tmp_path / "res" / "a.run", tiles="0:4")
    wishes = Wishes(site=SITE)
    found = prepare_volumes(volumes, tmp_path / "res", network="identity", wishes=wishes)
    assert (found.tiles, found.total) == (22, 26)
    assert "dearest" in found.cost.source and "4 tiles" in found.cost.source
    assert found.packing.infer.seconds < 120
    assert found.needed_bytes == 22 * 2 * 64
    steps = {step.name: step.tasks for step in found.submission.steps}
    assert steps == {"infer-0": 1, "repair-1": 1, "repair-2": 1, "stitch": 2}
    wished = prepare_volumes(volumes, tmp_path / "res", network="identity", wishes=Wishes(site=SITE, tasks=11))
    assert (wished.packing.tasks, wished.packing.tiles_per_task) == (11, 2)


def test_one_volume_to_be_planned_leaves_a_guess(tmp_path, controller):
    volumes = [*planned_volumes(tmp_path), write_tiff(tmp_path / "c.tif", np.ones((4, 4, 4), np.uint16))]
    found = prepare_volumes(volumes, tmp_path / "res", network="identity", wishes=Wishes(site=SITE))
    assert found.tiles is None
    assert {step.name: step.tasks for step in found.submission.steps if step.kind == "plan"} == {"plan": 1}


STEPS_APART = Site(
    partition="day",
    steps={
        "infer": {"partition": "gpu", "gres": "gpu:a100:1", "cpus": 16},
        "stitch": {"memory": 2**35, "partition": "fat", "account": "archive"},
    },
)


@pytest.fixture
def three_partitions(controller):
    gpu = dataclasses.replace(NODES, cpus=32, gres="gpu:a100:4")
    fat = dataclasses.replace(NODES, memory=2**36)
    controller.partitions += [
        dataclasses.replace(PARTITION, name="gpu", is_default=False, kinds=(gpu,), max_time_seconds=3600),
        dataclasses.replace(PARTITION, name="fat", is_default=False, kinds=(fat,), max_time_seconds=300),
    ]
    return controller


def directives(text):
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=\"?(.*?)\"?$", text, re.MULTILINE))


def test_steps_go_to_partitions_of_their_own(run, three_partitions):
    found = prepared(run, site=STEPS_APART, gpus=1)
    assert found.partitions == {"infer": "gpu", "stitch": "fat"}
    assert found.packing.infer.cpus == 16
    texts = {name: directives(text) for name, text in dispatch.scripts(found).items()}
    for name in ("infer-0", "repair-1", "repair-2"):
        asked = texts[f"{name}.sbatch"]
        assert (asked["partition"], asked["gres"], asked["cpus-per-task"]) == ("gpu", "gpu:a100:1", "16")
    stitch = texts["stitch.sbatch"]
    assert (stitch["partition"], stitch["account"], stitch["mem"]) == ("fat", "archive", "32768M")
    assert stitch["time"] == "00:05:00" and "gres" not in stitch


def test_a_step_whose_partition_has_no_gpus_is_refused_before_it_is_submitted(run, three_partitions):
    volumes = [run.parent / "v.tif"]
    with pytest.raises(BadOption, match=r"nodes of 'day' have 0; .* plan = \{ partition = "):
        prepare_volumes(volumes, run.parent, network="identity", wishes=Wishes(site=STEPS_APART, gpus=1))


def test_options_are_for_all_steps(run, three_partitions, monkeypatch, tmp_path, capsys):
    from medhpc.cli.main import run_here

    (tmp_path / "site.toml").write_text('infer = { partition = "gpu" }\n')
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "site.toml"))
    words = ["submit", str(run), "--out", str(tmp_path / "o.tif"), "--as", "raw", "--dry-run"]
    assert run_here(words) == 0
    assert "partition  gpu (infer), day (stitch)" in capsys.readouterr().out
    assert run_here([*words, "--partition", "fat"]) == 0
    assert "partition  fat\n" in capsys.readouterr().out


def test_no_more_jobs_than_the_controller_holds(run, controller):
    controller.limits = dataclasses.replace(LIMITS, max_job_count=12)
    found = prepared(run, target_seconds=1e-4)
    assert sum(step.tasks for step in found.submission.steps) <= 12
    controller.limits = dataclasses.replace(LIMITS, max_job_count=12, max_submit_jobs=8)
    assert sum(step.tasks for step in prepared(run, target_seconds=1e-4).submission.steps) <= 8


def fail(run, host, tiles, job="7_1", error="ValueError: bad"):
    """Tiles that ended in an exception on a node."""
    opened = Run(run)
    for index in tiles:
        opened.ledger.append(Record(tile=index, plan=opened.ledger.plan, host=host, job=job, error=error))
    opened.ledger.close()


def test_a_node_on_which_all_failed_is_left_out_and_it_is_said(run, controller):
    fail(run, "n1", (5, 6, 7))
    assert prepared(run).site.exclude == ""  # nobody has done better
    infer(run, tiles="0:4")
    fail(run, "n2", (8, 9))  # too few to tell
    fail(run, "desk", (8, 9, 10), job="")  # no node
    fail(run, "n3", (8, 9, 10), error="MemoryError: no more")
    found = prepared(run)
    assert found.notes == ("no job runs on n1: 3 tiles failed there, none was done",)
    texts = dispatch.scripts(found)
    assert all(directives(texts[f"{step.name}.sbatch"])["exclude"] == "n1" for step in found.submission.steps)


def test_small_volumes_get_few_tasks(tmp_path, controller):
    for name in ("a", "b"):
        write_tiff(tmp_path / f"{name}.tif", np.zeros((4, 8, 8), np.uint16))
    found = prepare_volumes(
        [tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path, network="identity", wishes=Wishes(site=SITE)
    )
    assert {step.name: step.tasks for step in found.submission.steps} == {
        "plan": 2,
        "infer-0": 2,
        "repair-1": 1,
        "repair-2": 1,
        "stitch": 2,
    }


# --- without a cluster ---------------------------------------------------------------------------


def test_the_chain_in_this_process(run):
    from medhpc.cli.main import run_here

    told = []
    found = submit(prepared(run, cluster="debug", target_seconds=1e-5), call=run_here, progress=told.append)
    assert (run.parent / "out.tif").exists() and found.complete
    assert len(told) == 4 and not any("error" in line for line in told)


def test_the_chain_as_processes_of_this_machine(run):
    found = submit(prepared(run, cluster="local"))
    assert (run.parent / "out.tif").exists()
    logs = sorted(path.name for path in (found.folder / "log").iterdir())
    assert logs == ["infer-0-here_0.log", "repair-1-here_0.log", "repair-2-here_0.log", "stitch-here_0.log"]


# --- what is known of live jobs ------------------------------------------------------------------


def test_tiles_of_live_tasks(run, controller):
    found = submit(prepared(run, target_seconds=1e-4, rounds=0))
    tasks = {step.name: step.tasks for step in found.steps}
    assert tasks == {"infer-0": 20, "infer-1": 4, "stitch": 1}
    missing_tiles([Run(run)], found.folder / "missing-0.json")
    first = controller.queue[0]
    controller.queue[0] = Job(**{**vars(first), "id": "1_0", "indices": (0,), "state": "RUNNING", "hosts": "n1"})
    seen = live.live(Run(run))
    assert seen.known and [job.step for job in seen.jobs] == ["infer-0", "infer-1", "stitch"]
    assert np.flatnonzero(seen.running_tiles).tolist() == [0]
    assert np.flatnonzero(seen.waiting_tiles).tolist() == [20, 21, 22, 23]


def test_an_array_that_waits_with_many_tasks_taken_out(run, controller):
    """SLURM's id of it is longer than a file name may be."""
    submit(prepared(run))
    tasks = ",".join(map(str, range(1, 1000, 2)))
    controller.queue[0] = Job(**{**vars(controller.queue[0]), "id": f"1_[{tasks}]"})
    assert live.live(Run(run)).jobs[0].log == ""


def test_the_list_of_an_array_is_read_once_for_all_its_tasks(run, controller, monkeypatch):
    found = submit(prepared(run, target_seconds=1e-4, rounds=0))
    missing_tiles([Run(run)], found.folder / "missing-0.json")
    first, read = controller.queue.pop(0), []
    controller.queue += [Job(**{**vars(first), "id": f"1_{n}", "indices": (n,), "state": "RUNNING"}) for n in range(20)]
    monkeypatch.setattr(live, "listed", lambda file: read.append(file) or missing.listed(file))
    assert np.count_nonzero(live.live(Run(run)).running_tiles) == 20
    assert read == [found.folder / "missing-0.json"]


def test_an_answer_serves_for_half_a_minute(run, controller, monkeypatch):
    submit(prepared(run))
    assert len(live.live(Run(run)).jobs) == 4
    controller.queue.clear()
    assert len(live.live(Run(run)).jobs) == 4
    cache = run / "jobs" / "squeue.json"
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps(content | {"asked_at": content["asked_at"] - 31}))
    assert live.live(Run(run)).jobs == ()


def test_what_was_submitted_or_cancelled_is_asked_for_anew(run, controller, monkeypatch):
    submit(prepared(run))
    assert len(live.live(Run(run)).jobs) == 4
    monkeypatch.setattr(cancellation, "scancel", lambda ids: controller.queue.clear())
    cancel(run)
    assert live.live(Run(run)).jobs == ()
    submit(prepared(run))
    assert len(live.live(Run(run)).jobs) == 4


def test_status_names_the_command_that_goes_on(run, controller, capsys):
    from medhpc.cli.main import run_here

    submit(prepared(run))
    controller.queue.clear()
    assert run_here(["status", str(run)]) == 0
    assert f"next  medhpc submit {run} --out {run.parent}/out.tif --as raw\n" in capsys.readouterr().out


def test_no_answer_is_unknown(run, controller):
    submit(prepared(run))
    controller.looks = ["down"]
    seen = live.live(Run(run))
    assert not seen.known and "squeue" in seen.note


def test_a_damaged_submission_is_told(run, controller):
    found = submit(prepared(run))
    (found.folder / "submission.json").write_text("{")
    with pytest.raises(NotARun, match="damaged"):
        submissions(run)


def test_scripts_respect_the_umask(run, controller):
    before = os.umask(0o027)
    try:
        found = submit(prepared(run))
    finally:
        os.umask(before)
    assert (found.folder / "stitch.sbatch").stat().st_mode & 0o777 == 0o750
