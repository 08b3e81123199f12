"""What may stand in ``site.toml``: every setting, in words and as a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from medhpc.errors import BadOption

OURS = (  # options of sbatch that medhpc sets for each job
    *("array", "comment", "chdir", "cpus-per-task", "dependency", "error", "export", "job-name", "mem", "nodes"),
    *(
        "no-requeue",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "parsable",
        "requeue",
        "signal",
        "test-only",
        "time",
        "wait",
        "wrap",
    ),
)

Fits: TypeAlias = Callable[[Any], bool]


def check(key: str, value: Any) -> None:
    """Refuse a value that cannot be meant.

    Raises
    ------
    BadOption
    """
    expected, fits = KEYS[key]
    if not fits(value):
        shown = list(value) if isinstance(value, tuple) else value
        raise BadOption(f"{key} is {shown!r}; expected {expected}")


def bytes_of(value: Any) -> Any:
    """Bytes of ``"16G"``; what cannot be read stays as it is, and the check tells."""
    found = re.fullmatch(r"(\d+)([KMGT])", value) if isinstance(value, str) else None
    return int(found[1]) << 10 * ("KMGT".index(found[2]) + 1) if found else value


def _text(pattern: str) -> Fits:
    return lambda value: isinstance(value, str) and (not value or re.fullmatch(pattern, value) is not None)


def _texts(pattern: str) -> Fits:
    return lambda value: isinstance(value, tuple) and all(one and _text(pattern)(one) for one in value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _extra(value: Any) -> bool:
    return _texts(r"--[a-z][a-z-]*(=[^\x00-\x1f\x7f]*)?")(value) and not any(
        (name := option[2:].partition("=")[0]) in OURS or name.replace("-", "_") in KEYS for option in value
    )


NAME, NAMES, LINE, ABSOLUTE = r"[^\s,]+", r"[^\s]+", r"[^\x00-\x1f\x7f]+", r"/[^\x00-\x1f\x7f]*"
FOLDERS = ("venv", "apptainer", "templates", "scratch")

#: What each setting may be: in words, and as a test.
KEYS: dict[str, tuple[str, Fits]] = {
    "partition": ('a partition, or several as "a,b"', _text(NAMES)),
    "account": ("the name of an account", _text(NAME)),
    "qos": ("the name of a quality of service", _text(NAME)),
    "constraint": ('features of nodes such as "a100|h100"', _text(LINE)),
    "gres": ('what a task that needs a GPU asks for, such as "gpu:a100:1"', _text(NAMES)),
    "reservation": ("the name of a reservation", _text(NAMES)),
    "nodelist": ('a node such as "node7"', _text(NAMES)),
    "exclude": ('nodes such as "node[1-9]"', _text(NAMES)),
    "cpus": ("a number of CPUs for a task, such as 8", _count),
    "memory": ('memory for a task, such as "16G"', _count),
    "modules": ('a list of modules, such as ["python/3.12", "cuda"]', _texts(NAMES)),
    "venv": ("the folder of a virtual environment, from / or ~ on", _text(ABSOLUTE)),
    "apptainer": ("an image, from / or ~ on", _text(rf"{ABSOLUTE}|\w+://[^\s]+")),
    "nv": ("true or false", lambda value: isinstance(value, bool)),
    "bind": ('a list of folders such as ["/data", "/scratch:/tmp"]', _texts(ABSOLUTE)),
    "medhpc": ("the command that starts medhpc on a node, a word or a path", _text(LINE)),
    "scratch": ("a folder on the nodes, from / on", _text(ABSOLUTE)),
    "mail_user": ("a mail address", _text(NAMES)),
    "mail_type": ('occasions such as "END,FAIL"', _text(r"[A-Z_0-9]+(,[A-Z_0-9]+)*")),
    "templates": ("a folder of sbatch files, from / or ~ on", _text(ABSOLUTE)),
    "extra": (
        'a list of other options of sbatch such as ["--licenses=x"]; none that medhpc sets itself, '
        "none that is a setting here",
        _extra,
    ),
}
