"""The command line: documented, quick, and one line where the user can mend something."""

import errno
import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from stored import run_of

from medhpc.cli import main, show
from medhpc.cli.main import group
from medhpc.cli.options import Memory
from medhpc.errors import BrokenFile, MedhpcError

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "skimage",
    "matplotlib",
    "zarr",
    "tifffile",
    "h5py",
    "nibabel",
    "pydicom",
    "dask",
    "rich",
}


def commands(command: click.Command = group, name: str = "medhpc") -> Iterator[tuple[str, click.Command]]:
    """All commands by their full names."""
    if isinstance(command, click.Group):
        for child, found in command.commands.items():
            yield from commands(found, f"{name} {child}")
    else:
        yield name, command


COMMANDS = dict(commands())


def ends_with(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_the_commands_of_the_contract_are_there():
    here = ("info", "convert", "train msd", "tile", "infer", "status", "stitch", "evaluate", "run", "clean", "demo")
    cluster = ("submit", "script", "report", "cancel", "doctor", "site show", "site init")
    assert {f"medhpc {word}" for word in (*here, *cluster)} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_an_example(name):
    assert re.search(rf"^  {name}( |$)", inspect.cleandoc(COMMANDS[name].help), re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    options = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    options = [option for option in options if not option.hidden]
    assert [option.opts for option in options if not (option.help or "").endswith(".")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_mentions_every_command(name):
    assert name in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers(name, capsys):
    assert ends_with([*name.split()[1:], "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: {name} ")


def test_help_imports_nothing_heavy():
    code = "import sys, medhpc.cli.main; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(found.stdout.split()) == set()


# --- errors --------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch):
    """Make `medhpc status` raise what the test wants."""

    def arrange(error: BaseException) -> list[str]:
        def look(*_, **__):
            raise error

        monkeypatch.setattr("medhpc.jobs.watch.look", look)
        return ["status", "some.run"]

    return arrange


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BrokenFile("a.tif is cut short"), 2, "a.tif is cut short"),
        (MedhpcError("two\nlines"), 2, "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), 2, "no space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/x"), 2, "no permission"),
        (OSError(errno.EROFS, "Read-only file system"), 2, "no permission"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_is_one_line(failing, capsys, error, code, line):
    assert ends_with(failing(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip().startswith("medhpc: error: ") and line in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_a_bug_keeps_its_traceback(failing, error):
    with pytest.raises(type(error)):
        main(failing(error))


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["infer", "some.run", "--taks", "1/2"], "--task"),
        (["stich"], "stitch"),
        (["tile", "a.tif", "a.run"], "--network"),
        (["tile", "a.tif", "a.run", "--network", "n", "--tile", "64,64"], "Z,Y,X"),
        (["tile", "a.tif", "a.run", "--network", "n", "--halo", "wide"], "auto, exact or a number"),
        (["tile", "a.tif", "a.run", "--network", "n", "--memory", "lots"], "8G"),
        (["convert", "a.tif", "b.tif", "--voxel-size", "1,0,1"], "positive"),
        (["train", "msd", "a.tif", "--out", "n.safetensors"], "pairs"),
        (["stitch", "some.run", "o.tif", "--as", "maks"], "mask"),
        (["evaluate", "a.tif"], "TRUTH"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_advice(capsys, arguments, advice):
    assert ends_with(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("medhpc: error: ") and advice in err
    assert err.count("\n") == 1


def test_no_command_prints_the_help(capsys):
    assert ends_with([]) == 2
    assert "The main job, step by step:" in capsys.readouterr().err


EARLY = {
    "infer a.run --task 5/3": "'5/3' is not K/N",
    "infer a.run --tiles 7:9": "beyond the run's 1 tiles",
    "tile none.tif b.run --network identity": "none.tif",
    "tile volume.tif b.run --network none.safetensors": "no such network file",
    "run volume.tif out.docx --network identity": ".docx",
    "run volume.tif none/out.tif --network identity": "folder does not exist",
    "train msd volume.tif volume.tif --out net.pt": "end its name in .safetensors",
    "tile volume.tif b.run --network identity --tile 50,50": "'50,50' is not Z,Y,X (three positive whole numbers, or",
}


def test_a_mistake_is_told_before_torch_is_loaded(tmp_path):
    run_of(tmp_path / "a.run", np.zeros((4, 5, 6), np.uint8))
    tifffile.imwrite(tmp_path / "volume.tif", np.ones((4, 5, 6), np.uint8), photometric="minisblack")
    code = "import sys; sys.modules['torch'] = None; from medhpc.cli import main\n"  # importing torch fails
    code += "for line in sys.argv[1:]:\n  try: main(line.split())\n  except SystemExit: pass"
    command = [sys.executable, "-c", code, *EARLY]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stderr.splitlines()
    assert len(told) == len(EARLY)
    for line, expected in zip(told, EARLY.values(), strict=True):
        assert line.startswith("medhpc: error: ") and expected in line


def test_a_missing_volume_in_a_real_process(tmp_path):
    command = [sys.executable, "-c", "from medhpc.cli import main; main()", "info", str(tmp_path / "none.tif")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("medhpc: error: ") and found.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error():
    command = (
        f"'{sys.executable}' -c 'from medhpc.cli import main; main()' tile --help | head -1; echo ${{PIPESTATUS[0]}}"
    )
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert found.stderr == ""


# --- values --------------------------------------------------------------------------------------


@given(st.integers(1, 2**50), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB"]))
def test_memory_is_read_as_slurm_does(count, unit, ending):
    assert Memory().convert(f"{count}{unit}{ending}", None, None) == count * 1024 ** " KMGT".index(unit or " ")


@given(st.integers(0, 10**18))
def test_a_size_is_short_and_near(count):
    value, unit = show.size(count).split()
    assert len(value) <= 5
    assert float(value) * 1000 ** show.BYTES.index(unit) == pytest.approx(count, rel=6e-3)


@given(st.floats(0.1, 1e8))
def test_a_duration_is_near(seconds):
    words = show.duration(seconds).split()
    lengths = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    total = sum(float(value) * lengths[unit] for value, unit in zip(words[::2], words[1::2], strict=True))
    assert total == pytest.approx(seconds, rel=0.06)


def test_next_to_no_time_is_no_power_of_ten():
    assert show.duration(2.2e-05) == "under 0.1 s"


def test_fields_and_tables_are_aligned(capsys):
    show.fields({"shape": "2 x 3", "voxel size": "5 um\n2 um"})
    print(show.table([{"halo": "4", "error": "0.1", "": ""}, {"halo": "16", "error": "-", "": "<- chosen"}]))
    assert capsys.readouterr().out.splitlines() == [
        "shape       2 x 3",
        "voxel size  5 um",
        "            2 um",
        "halo  error",
        "   4    0.1",
        "  16      -  <- chosen",
    ]


def test_without_a_terminal_a_quick_command_is_silent(capsys):
    with show.bar("infer", "tiles") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_long_command_says_how_it_stands_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(show, "LINE_SECONDS", 0.05)
    with show.stages("tiles", "planning") as report:
        time.sleep(0.2)
        report("infer", 3, 1200)
        time.sleep(0.2)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and lines[0].startswith("planning, ") and lines[-1].startswith("infer: 3 of 1,200 tiles, ")
    assert len(lines) <= 8


def test_the_help_lists_every_command_once(capsys):
    assert ends_with(["--help"]) == 0
    listed = re.findall(r"^  (\w[\w-]*)  +\w", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(group.commands)


def test_json_is_json(capsys):
    show.as_json({"done": 3, "rate": None})
    assert json.loads(capsys.readouterr().out) == {"done": 3, "rate": None}
