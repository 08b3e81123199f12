"""The commands and the Python of README.md run, and print what README.md says they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medhpc.demo_data import write_demo

README = (Path(__file__).parents[1] / "README.md").read_text()
QUICKLY = {"--minutes 2": "--steps 4 --depth 4", "minutes=2": "steps=4, depth=4"}

NOT_AFTER_FOUR_STEPS = {"mean distance"}  # between cells that were found


def block(name: str) -> str:
    """The fenced text behind a mark of that name, trained for a few steps only."""
    text = README.partition(f"<!-- README:{name} -->")[2].split("```")[1].partition("\n")[2]
    for slow, quick in QUICKLY.items():
        text = text.replace(slow, quick)
    return text


def labels(output: str) -> set[str]:
    """The names in ``name  value`` lines."""
    return set(re.findall(r"^([a-z][a-z ,/]*?)  +\S", output, re.MULTILINE))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The files that README.md works on, with fewer planes."""
    write_demo(tmp_path, shape=(96, 384, 384), cells=430)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    steps = block("commands").split("$ ")[1:]
    assert len(steps) >= 6
    for step in steps:
        command, _, promised = step.partition("\n")
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
        assert found.returncode == 0, f"{command}\n{found.stdout}{found.stderr}"
        assert labels(promised) - NOT_AFTER_FOUR_STEPS <= labels(found.stdout), command


@pytest.mark.slow
def test_the_python(folder):
    exec(compile(block("python"), "README.md", "exec"), {})
    assert (folder / "cells.ome.zarr").is_dir() and (folder / "cells.csv").exists()


def test_pictures_and_links_are_there():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert [link for link in links if not (Path(__file__).parents[1] / link).exists()] == []
