"""The project as others meet it: the wheel, the sbatch templates, the layers."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medhpc.nets.msd import MSD

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = ("info", "train msd", "tile", "infer", "stitch", "evaluate", "run")
TEMPLATES = sorted(path.name for path in (ROOT / "slurm_templates").iterdir())


def run(*command: str | Path, **options) -> str:
    found = subprocess.run(command, capture_output=True, text=True, **options)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder of a virtual environment into which the wheel was installed; dependencies come from this one."""
    folder = tmp_path_factory.mktemp("installed")
    tools = [sys.executable, "-m"]
    run(*tools, "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    run(*tools, "pip", "--python", python, "install", "--no-deps", "--no-index", *folder.glob("*.whl"))
    [packages] = (folder / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def test_the_wheel_brings_command_templates_and_licence(installed, tmp_path):
    version = run(installed / "bin/medhpc", "--version", cwd=tmp_path)
    code = "import medhpc, pathlib; print(pathlib.Path(medhpc.__file__).parent)"
    package = Path(run(installed / "bin/python", "-c", code, cwd=tmp_path).strip())
    assert re.fullmatch(r"medhpc, version \d+\.\d+\.\d+\S*\n", version)
    assert package.is_relative_to(installed)
    assert sorted(path.name for path in (package / "slurm_templates").iterdir()) == TEMPLATES
    assert (package / "py.typed").exists()
    for name in COMMANDS:
        run(installed / "bin/medhpc", *name.split(), "--help", cwd=tmp_path)
    assert list(package.parent.glob("medhpc-*.dist-info/licenses/LICENSE"))


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".sbatch")])
def test_templates_are_sound_shell(name):
    path = ROOT / "slurm_templates" / name
    run("bash", "-n", path)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is missing: make dev"
    run(shellcheck, path)


def template(name: str, tmp_path: Path, **variables: str) -> str:
    """What the template's `medhpc` calls are, with a stand-in that prints its arguments."""
    fake = tmp_path / "medhpc"
    fake.write_text('#!/bin/bash\nprintf "[%s]" "$@"; echo\n')
    fake.chmod(0o755)
    variables = {"MEDHPC": str(fake), "PATH": os.environ["PATH"]} | variables
    return run("bash", ROOT / "slurm_templates" / name, env=variables)


def test_infer_template_takes_its_share(tmp_path):
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_JOB_ID": "12"}
    text = template("infer.sbatch", tmp_path, RUN="/a b/c.run", **array)
    assert text == "[infer][--task][4/8][--missing][/a b/c.run/jobs/missing-12.json][--threads][1][--][/a b/c.run]\n"


@pytest.mark.slow
def test_infer_template_fills_a_run_with_the_installed_wheel(installed, tmp_path):
    volume, folder, network = (str(tmp_path / name) for name in ("volume.tif", "a run", "network.safetensors"))
    tifffile.imwrite(
        volume, np.random.default_rng(0).integers(0, 999, (40, 64, 64), np.uint16), metadata={"axes": "ZYX"}
    )
    MSD(1, 2, depth=3).save(network)
    medhpc = str(installed / "bin/medhpc")
    run(medhpc, "tile", volume, folder, "--network", network, "--tile", "32", "--halo", "exact")
    environment = os.environ | {
        "MEDHPC": medhpc,
        "RUN": folder,
        "SLURM_ARRAY_TASK_MAX": "1",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_CPUS_PER_TASK": "1",
    }
    [template] = installed.glob("lib/python*/site-packages/medhpc/slurm_templates/infer.sbatch")
    for task in "01":
        run("bash", template, env=environment | {"SLURM_ARRAY_TASK_ID": task})
    found = json.loads(run(medhpc, "status", folder, "--json"))
    assert (found["total"], found["done"]) == (8, 8)


def test_stitch_template(tmp_path):
    text = template("stitch.sbatch", tmp_path, RUN="a.run", OUT="p.tif")
    assert text == "[stitch][--as][mask][--][a.run][p.tif]\n"
    text = template("stitch.sbatch", tmp_path, RUN="a.run", OUT="my cells.ome.zarr", KIND="labels", TABLE="c.csv")
    assert text == "[stitch][--as][labels][--objects][c.csv][--][a.run][my cells.ome.zarr]\n"


def test_plan_template(tmp_path):
    text = template("plan.sbatch", tmp_path, VOLUME="a b.tif", RUN="a.run", NET="n.safetensors")
    assert text == "[tile][--network][n.safetensors][--memory][14G][--threads][1][--][a b.tif][a.run]\n"


@pytest.fixture
def srun(tmp_path):
    """A stand-in that prints its two options and runs the rest."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "[%s]" "${@:1:2}"; exec "${@:3}"\n')
    srun.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_train_template(tmp_path, srun):
    told = {"VOLUME": "a b.tif", "TRUTH": "a.csv", "NET": "n.safetensors", "SLURM_CPUS_PER_TASK": "4"}
    text = template("train.sbatch", tmp_path, **told, **srun)
    assert text == (
        "[--kill-on-bad-exit=1][--cpus-per-task=4][train][msd][--out][n.safetensors][--minutes][180][--]"
        "[a b.tif][a.csv]\n"
    )


def test_sweep_template(tmp_path, srun):
    text = template("sweep.sbatch", tmp_path, RUN="a b.run", **srun)
    assert text == "[--kill-on-bad-exit=1][--cpus-per-task=1][infer][--][a b.run]\n"


def test_dip_template(tmp_path, srun):
    text = template("dip.sbatch", tmp_path, VOLUME="a b.nii", CLEAN="c.nii", **srun)
    assert text == "[--kill-on-bad-exit=1][--cpus-per-task=1][dip][--][a b.nii][c.nii]\n"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".sbatch")])
def test_templates_say_what_is_missing(name, tmp_path):
    found = subprocess.run(
        ["bash", ROOT / "slurm_templates" / name], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert found.returncode != 0
    assert "set RUN" in found.stderr or "set VOLUME" in found.stderr


def test_every_dependency_says_why():
    lines = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]")[0].splitlines()
    assert [line for line in lines if line.strip() and "# " not in line] == []


def test_constraints_are_plain_and_leave_torch_to_the_site():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    names = {pin.partition("==")[0].lower() for pin in pins}
    assert not names & {"torch", "torchvision", "triton"}
    assert not [name for name in names if name.startswith(("nvidia", "cuda"))]


def test_importing_medhpc_is_light():
    code = "import sys, medhpc, medhpc.geometry, medhpc.errors; print(*sys.modules)"
    modules = run(sys.executable, "-c", code).split()
    assert not {"torch", "numpy", "click", "zarr"} & set(modules)


def test_every_module_has_its_place_in_the_layers():
    """Also checked by import-linter in `make lint`; here, so that a new module without a place fails first."""
    [layers] = [
        contract["layers"]
        for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    placed = set(re.findall(r"\w+", " ".join(layers)))
    modules = {
        path.stem for path in (ROOT / "medhpc").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"__init__"} <= placed
