"""Settings of a site: what every job here asks for and how medhpc starts on a node, from ``site.toml``.

The command line overrides sbatch's own variables (``SBATCH_ACCOUNT`` ...), as for sbatch, and these override the file.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from medhpc.errors import BadOption

FILE = "site.toml"
VARIABLE = "MEDHPC_SITE"
DEFAULT = "default"
SBATCH_VARIABLES = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
    "gres": "SBATCH_GRES",
    "reservation": "SBATCH_RESERVATION",
}
EVERY_JOB = (
    *("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude"),
    *("mail_user", "mail_type"),
)
OURS = (  # options of sbatch that medhpc sets for each job
    *("array", "comment", "chdir", "cpus-per-task", "dependency", "error", "export", "job-name", "mem", "nodes"),
    *(
        "no-requeue",
        "ntasks",
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


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every job on a cluster asks for; empty (or 0) where nothing is asked.

    Attributes
    ----------
    partition, account, qos, constraint, gres, reservation, nodelist, exclude : str
        As the options of sbatch that are called so.
    cpus, memory : int
        For a task; memory in bytes.
    modules : tuple of str
        Loaded before medhpc starts.
    venv : str
        Folder of the virtual environment that medhpc is in.
    apptainer : str
        Image that medhpc is in.
    nv : bool
        Let the image see the node's GPUs.
    bind : tuple of str
        Folders that the image sees besides its own, as ``--bind`` takes them.
    medhpc : str
        The command on a node, where it is neither in `venv` nor the one that submits.
    scratch : str
        Folder on a node for temporary files.
    mail_user, mail_type : str
        Who hears of a job, and of what.
    templates : str
        Folder of edited sbatch files, instead of medhpc's own.
    extra : tuple of str
        Any other options of sbatch: ``--licenses=x``.

    Raises
    ------
    BadOption
        A value that cannot be meant.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    reservation: str = ""
    nodelist: str = ""
    exclude: str = ""
    cpus: int = 0
    memory: int = 0
    modules: tuple[str, ...] = ()
    venv: str = ""
    apptainer: str = ""
    nv: bool = False
    bind: tuple[str, ...] = ()
    medhpc: str = ""
    scratch: str = ""
    mail_user: str = ""
    mail_type: str = ""
    templates: str = ""
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in KEYS:
            _check(key, getattr(self, key))

    @property
    def directives(self) -> dict[str, str]:
        """Options of sbatch, without their dashes, that every job gets, whatever it asks for."""
        named = {key.replace("_", "-"): getattr(self, key) for key in EVERY_JOB}
        extra = (option[2:].partition("=") for option in self.extra)
        return {key: value for key, value in named.items() if value} | {key: value for key, _, value in extra}


def load_site(variables: Mapping[str, str] = os.environ) -> tuple[Site, dict[str, str]]:
    """The settings in force here, and where each is from.

    Parameters
    ----------
    variables : mapping of str to str
        The environment: ``MEDHPC_SITE`` names another file than the user's own.

    Returns
    -------
    Site
    dict of str to str
        For each setting the path of the file, ``"$SBATCH_ACCOUNT"`` (a variable), or ``"default"``.

    Raises
    ------
    BadOption
        The file is not TOML, or has an unknown key or an impossible value.
    """
    path = site_path(variables)
    given: dict[str, tuple[Any, str]] = {}
    for key, value in _read(path, named=bool(variables.get(VARIABLE))).items():
        given[key] = (value, str(path))
    for key, variable in SBATCH_VARIABLES.items():
        if variables.get(variable):
            given[key] = (_checked(key, variables[variable], f"${variable}"), f"${variable}")
    site = Site(**{key: value for key, (value, _) in given.items()})
    return site, {key: given[key][1] if key in given else DEFAULT for key in KEYS}


def site_path(variables: Mapping[str, str] = os.environ) -> Path:
    """Which file is read."""
    named = variables.get(VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_config_path("medhpc") / FILE


def _read(path: Path, named: bool) -> dict[str, Any]:
    """Settings of one file, checked; none where there is no file, unless the user `named` it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise BadOption(f"{VARIABLE} names {path}, which is not there; write it with 'medhpc site init'") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f'{path} is not TOML: {error}; a line looks like: partition = "gpu"') from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise BadOption(f"{path} cannot be read ({error.strerror}); let {VARIABLE} name another file") from None
    return {key: _checked(key, value, str(path)) for key, value in content.items()}


def _checked(key: str, value: Any, origin: str) -> Any:
    """A value of a file or a variable as Site keeps it."""
    if key not in KEYS:
        near = difflib.get_close_matches(key.replace("-", "_"), KEYS, n=1)
        hint = f"did you mean '{near[0]}'" if near else f"valid are {', '.join(KEYS)}"
        raise BadOption(f"{origin}: there is no setting '{key}'; {hint}")
    if isinstance(value, list):
        value = tuple(value)
    elif key == "memory":
        value = _bytes_of(value)
    elif key in FOLDERS and isinstance(value, str):
        value = os.path.expanduser(value)
    try:
        _check(key, value)
    except BadOption as error:
        raise BadOption(f"{origin}: {error}") from None
    return value


def _check(key: str, value: Any) -> None:
    expected, fits = KEYS[key]
    if not fits(value):
        shown = list(value) if isinstance(value, tuple) else value
        raise BadOption(f"{key} is {shown!r}; expected {expected}")


def _bytes_of(value: Any) -> Any:
    """Bytes of ``"16G"``; what cannot be read stays as it is, and the check tells."""
    found = re.fullmatch(r"(\d+)([KMGT])", value) if isinstance(value, str) else None
    return int(found[1]) << 10 * ("KMGT".index(found[2]) + 1) if found else value


# --- what may stand where ------------------------------------------------------------------------

Fits = Callable[[Any], bool]


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
