"""A chain of jobs, submitted whole, ends in the bytes of `medhpc run`; nothing of ours stays to watch it."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from scenario import MEMORY, STITCH_WORDS, Scenario, nothing_lost, plan

from medhpc.errors import RunBusy
from medhpc.jobs import Submission, Wishes, prepare_volumes, submit, write_scripts
from medhpc.jobs.dispatch import templates
from medhpc.jobs.site import load_site
from medhpc.jobs.slurm import limits


def test_arrays_over_max_array_size(scenario):
    submission = scenario.submit(tiles_per_task=3)
    tasks = {step.name: step.tasks for step in submission.steps}
    assert (tasks["infer-0"], tasks["infer-1"]) == (20, 1)
    scenario.finish()
    assert scenario.ends("infer-0") + scenario.ends("infer-1") == ["COMPLETED"] * 21


def test_two_runs_at_once_without_sacct(scenario, tmp_path_factory):
    assert not limits().accounting
    other = Scenario(scenario.cluster, scenario.planned, tmp_path_factory.mktemp("other"))
    scenario.submit()
    other.submit()
    with pytest.raises(RunBusy, match="has live jobs"):  # the second submission of a run
        scenario.submit()
    scenario.finish()
    other.finish()
    assert [len(scenario.ends(step)) for step in ("infer-0", "repair-1", "stitch")] == [6, 2, 2]


def test_three_volumes_in_one_submission(scenario, tmp_path_factory):
    made = [plan(tmp_path_factory.mktemp(f"volume{seed}"), seed) for seed in range(3)]
    for index, each in enumerate(made):
        each.volume.rename(scenario.folder / f"cells {index}.tif")
    submission = submit(
        prepare_volumes(
            [scenario.folder / f"cells {index}.tif" for index in range(3)],
            scenario.folder / "results",
            network=made[0].network,
            suffix=".tif",
            tile_options=("--tile", "16", "--halo", "exact"),
            memory=MEMORY,
            wishes=Wishes(stitch_options=STITCH_WORDS, cpus=1, tasks=4, rounds=1, site=scenario.site),
        )
    )
    assert [(step.name, step.tasks) for step in submission.steps][:2] == [("plan", 3), ("infer-0", 4)]
    scenario.cluster.wait_for_jobs(300)
    results = scenario.folder / "results"
    for index, each in enumerate(made):
        nothing_lost(results / f"cells {index}.run", results / f"cells {index}.tif", each.expected)


def test_scripts_edited_and_submitted_by_hand(scenario):
    folder = scenario.folder / "my scripts"
    write_scripts(scenario.prepare(), folder)
    script = folder / "infer-0.sbatch"
    mine = '#SBATCH --exclude=n1\nWHO=me\necho "edited by $WHO"\n'
    script.write_text(script.read_text().replace("set -e", f"{mine}set -e", 1))
    subprocess.run([folder / "submit.sh"], check=True, cwd="/")
    scenario.finish()
    logs = [path.read_text() for path in (folder / "log").glob("infer-0-*.log")]
    assert len(logs) == 3 and all(text.startswith("edited by me\n") for text in logs)
    assert {end["NodeList"] for end in scenario.over("infer-0")} <= {"n2", "n3"}


def test_a_template_of_the_site(scenario):
    own = scenario.folder / "my templates"
    own.mkdir()
    text = (templates() / "infer.sbatch").read_text()
    mine = '#SBATCH --exclude=n1\nWHO=me\necho "edited by $WHO"\n'
    (own / "infer.sbatch").write_text(text.replace("set -e", f"{mine}set -e", 1))
    settings = scenario.folder / "site.toml"
    settings.write_text(f'medhpc = "{scenario.site.medhpc}"\ntemplates = "{own}"\n')
    submission = scenario.submit(site=load_site({"MEDHPC_SITE": str(settings)})[0])
    scenario.finish()
    assert scenario.log("infer-0").count("edited by me\n") == scenario.log("repair-1").count("edited by me\n") * 3 == 3
    assert "edited by me" not in scenario.log("stitch")  # its template was not edited
    assert {end["NodeList"] for end in scenario.over("infer-0")} <= {"n2", "n3"}
    assert "sbatch --export" not in (submission.folder / "infer-0.sbatch").read_text()


def test_tiles_on_nodes_with_gpus_the_stitch_elsewhere(cluster, tmp_path):
    """The GPUs here are devices of another kind, so the network is computed on processors beside them."""
    for_gpus = plan(tmp_path, engine="torch")  # jobs of another engine are not submitted to GPUs
    scenario = Scenario(cluster, for_gpus, tmp_path)
    seen = scenario.folder / "seen.txt"
    scenario.accident(f"""
import os
def before_tile(index):
    if first("looked " + os.environ["SLURM_JOB_ID"]):
        with open({str(seen)!r}, "a") as file: print(os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
""")
    site = dataclasses.replace(scenario.site, steps={"infer": {"partition": "gpu", "gres": "gpu:1"}})
    prepared = scenario.prepare(site=site, gpus=1)
    submit(dataclasses.replace(prepared, submission=on_processors(prepared.submission)))
    array = scenario.array("infer-0")
    assert "gres:gpu:1" in scenario.cluster.run("squeue", "-h", "-j", array, "-o", "%b").splitlines()
    scenario.finish()
    assert {end["NodeList"] for end in scenario.over("infer-0") + scenario.over("repair-1")} == {"g1"}
    assert scenario.ends("infer-0") == ["COMPLETED"] * 3
    assert scenario.over("stitch")[0]["NodeList"] != "g1"
    assert len(found := seen.read_text().split()) == 3 and set(found) <= {"0", "1"}


def on_processors(submission: Submission) -> Submission:
    """The same, but nothing asks for the device that its nodes do not have."""
    steps = (dataclasses.replace(step, options=_without_device(step.options)) for step in submission.steps)
    return dataclasses.replace(submission, steps=tuple(steps))


def _without_device(options: tuple[str, ...]) -> tuple[str, ...]:
    return options[: options.index("--device")] if "--device" in options else options


def test_an_exception_in_one_tile(scenario):
    scenario.accident("def before_tile(index):\n    if index == 17: raise ValueError('seventeen is not a good number')")
    scenario.submit(rounds=3)
    scenario.end_unfinished()
    failures = [record for record in scenario.records() if "error" in record]
    assert [record["tile"] for record in failures] == [17, 17]  # computed once and repeated once, in three rounds
    assert "seventeen" in failures[0]["traceback"] and "before_tile" in failures[0]["traceback"]
    assert "1 of 63 tiles" in scenario.log("stitch") and "17" in scenario.log("stitch")
    (scenario.folder / "accident.py").unlink()
    scenario.submit()
    scenario.finish()


def test_logs_folder_missing(scenario):
    with scenario.cluster.nothing_starts():
        submission = scenario.submit()
        (submission.folder / "log").rmdir()
    scenario.end_unfinished()
    assert scenario.ends("infer-0") == ["FAILED"] * 3
    scenario.submit()
    scenario.finish()
