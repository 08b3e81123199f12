"""sbatch files: the text is golden, and bash reads in it what was meant, whatever the paths are called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medhpc.errors import BadOption
from medhpc.jobs.chain import Target, chain
from medhpc.jobs.dispatch import TEMPLATES, templates
from medhpc.jobs.packing import Ceiling, Packing, Resources
from medhpc.jobs.script import command_of, directives_of, driver, job_name, render, values_of
from medhpc.jobs.site import Site

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Site()
RESOURCES = Resources(cpus=4, memory=3 * 2**30, seconds=5400, warning=120)
# Prints its arguments as JSON: stands for medhpc.
ECHO = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
ODD = '/data/it\'s "a" $(touch hacked) `touch hacked`\n#SBATCH --x ;& \\ *?/v.tif'


def steps_for(*targets, folder="/runs/brain.run/jobs/20260101T000000-abcd", concurrent=None, tasks=50):
    packing = Packing(tiles=100, tasks=tasks, tiles_per_task=2, repair_tasks=4, infer=RESOURCES)
    return chain(
        targets,
        packing,
        folder=Path(folder),
        ceiling=Ceiling(array_size=40),
        stitch=RESOURCES,
        plan=RESOURCES,
        rounds=1,
        concurrent=concurrent,
        plan_options=("--network", "/nets/cells.safetensors"),
        infer_options=("--threads", "4"),
        stitch_options=("--as", "labels", "--split"),
    )


def text_of(step, site=PLAIN, medhpc=("medhpc",)):
    template = (templates() / TEMPLATES[step.kind]).read_text()
    directives = directives_of(step, site, comment=f"medhpc submission=20260101T000000-abcd step={step.name}")
    return render(template, directives, values_of(step, site, medhpc))


def heard(step, index, tmp_path):
    """What medhpc is called with, when bash runs the script as task `index`."""
    script = tmp_path / "job.sbatch"
    script.write_text(text_of(step, medhpc=ECHO), errors="surrogateescape")
    done = subprocess.run(
        ["bash", script], env={"SLURM_ARRAY_TASK_ID": str(index)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["plan", "infer-0", "infer-1", "repair-1", "stitch"])
def test_golden(name, request):
    brain = Target(
        run="/runs/brain.run", out="/results/my cells.ome.zarr", objects="/results/cells.csv", volume="/data/brain.tif"
    )
    site = Site(partition="long", account="lab", modules=("python/3.11",), scratch="/local", extra=("--licenses=x:1",))
    step = next(step for step in steps_for(brain, concurrent=8) if step.name == name)
    golden = GOLDEN / f"{name}.sbatch"
    if request.config.getoption("--golden"):
        golden.write_text(text_of(step, site))
    assert text_of(step, site) == golden.read_text()


def test_the_driver_is_golden(request):
    golden = GOLDEN / "submit.sh"
    text = driver(steps_for(Target(run="/r", out="/o", volume="/v")))
    if request.config.getoption("--golden"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_golden_files_are_sound_shell():
    subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), *sorted(GOLDEN.glob("*.sbatch")), GOLDEN / "submit.sh"],
        check=True,
    )


# Whatever a file may be called: no NUL, no slash of its own making.
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(names, names, names)
def test_bash_reads_what_was_meant(tmp_path_factory, a, b, c):
    check_all_commands(tmp_path_factory.mktemp("script"), f"/{a}", f"/{b}", f"/{c}")


def test_nothing_in_a_path_runs(tmp_path):
    check_all_commands(tmp_path, ODD, ODD + "2", ODD + "3")
    assert not (tmp_path / "hacked").exists()


def check_all_commands(tmp_path, volume, run, out):
    targets = [
        Target(run=run, out=out, objects=out + ".csv", volume=volume),
        Target(run=run + "2", out=out + "2", volume=volume + "2"),
    ]
    for step in steps_for(*targets, folder=run):
        if step.name in ("plan", "infer-1", "stitch"):
            assert heard(step, 1, tmp_path) == step.command(1)


def test_directives_are_replaced_added_and_kept():
    template = "\n".join(
        [
            "#!/bin/bash",
            "## Fill in:",
            "#SBATCH --mem=16G",
            "##SBATCH --gres=gpu:1",
            "##SBATCH --partition=gpu",
            "#SBATCH --reservation=mine",
            "",
            "module load mine",
            "## mine, too",
        ]
    )
    template += "\n# --- values\nOLD=1\n# --- end of values\necho\n"
    text = render(template, {"mem": "1M", "gres": "gpu:2", "qos": "a b"}, ["NEW=2"])
    assert text.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --mem=1M",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --reservation=mine",
        '#SBATCH --qos="a b"',
        "",
        "module load mine",
        "## mine, too",
        "# --- values of this job " + 75 * "-",
        "NEW=2",
        "# --- end of values",
        "echo",
    ]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_generated_file_tells_nobody_how_to_fill_it(kind):
    step = next(step for step in steps_for(Target(run="/r", out="/o", volume="/v")) if step.kind == kind)
    text = text_of(step)
    assert "##" not in text and "sbatch --export" not in text and "replace this block" not in text
    again = render(text, {}, ["A=1"])  # it can be a template in its turn
    assert again.count("A=1") == 1 and "MEDHPC=" not in again


@pytest.mark.parametrize(
    "runs, name",
    [
        (["/data/brain.run"], "medhpc-stitch-brain"),
        (["/data/it's a $(b)\n.run"], "medhpc-stitch-it-s-a-b"),
        (["/data/" + 50 * "long"], "medhpc-stitch-" + 6 * "long"),
        (["/data/\u8133.run"], "medhpc-stitch"),
        (["/data/a.run", "/data/b.run", "/data/c.run"], "medhpc-stitch-a+2"),
    ],
)
def test_jobs_are_called_as_their_runs(runs, name):
    assert job_name(steps_for(*(Target(run=run, out="/o") for run in runs))[-1]) == name


def test_a_template_without_values_is_refused():
    with pytest.raises(BadOption, match="values"):
        render("#!/bin/bash\nmedhpc\n", {}, [])


def test_no_directive_has_a_line_break():
    step = steps_for(Target(run="/r", out="/o"))[0]
    template = (templates() / TEMPLATES[step.kind]).read_text()
    with pytest.raises(BadOption, match="line break"):
        render(template, {"comment": "a\n#SBATCH --uid=root"}, [])


@pytest.mark.parametrize(
    "site, expected",
    [
        (Site(), ["/here/medhpc"]),
        (Site(venv="/group/venv/"), ["/group/venv/bin/medhpc"]),
        (Site(medhpc="/opt/medhpc", venv="/group/venv"), ["/opt/medhpc"]),
        (
            Site(apptainer="/images/medhpc.sif", nv=True, bind=("/data", "/scratch:/tmp")),
            ["apptainer", "exec", "--nv", "--bind", "/data", "--bind", "/scratch:/tmp", "/images/medhpc.sif", "medhpc"],
        ),
    ],
)
def test_how_medhpc_starts_on_a_node(site, expected):
    assert command_of(site, ["/here/medhpc"]) == expected
