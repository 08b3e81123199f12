"""Settings of a site: what every job here asks for and how medhpc starts on a node, from ``site.toml``.

The tables ``[plan]``, ``[infer]``, ``[stitch]``, ``[dip]`` and ``[train]`` hold what one step asks for instead. The
command line overrides sbatch's own variables (``SBATCH_ACCOUNT`` ...), as for sbatch, and these override the file: both
for all.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from medhpc.errors import BadOption
from medhpc.jobs.site_keys import FOLDERS, KEYS, bytes_of, check

FILE = "site.toml"
VARIABLE = "MEDHPC_SITE"
DEFAULT = "default"
STEPS = {  # of a chain
    "plan": "plans volumes",
    "infer": "computes tiles, and repairs",
    "stitch": "puts results together",
}
TABLES = {**STEPS, "dip": "denoises", "train": "trains"}  # which have settings of their own
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
    steps : mapping of str to mapping
        For the steps of :data:`TABLES`, the settings that replace these.

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
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in KEYS:
            check(key, getattr(self, key))

    def of(self, step: str) -> Site:
        """The settings of one step."""
        return replace(self, **self.steps.get(step, {}), steps={})

    def with_all(self, **settings: Any) -> Site:
        """The same with these settings for every step, whatever its table says."""
        steps = {
            step: {key: value for key, value in table.items() if key not in settings}
            for step, table in self.steps.items()
        }
        return replace(self, **settings, steps=steps)

    def without_nodes(self, names: Sequence[str]) -> Site:
        """The same, and no job runs on these nodes."""
        steps = {
            step: {**table, "exclude": _joined(table["exclude"], names)} if "exclude" in table else table
            for step, table in self.steps.items()
        }
        return replace(self, exclude=_joined(self.exclude, names), steps=steps)

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
        For each setting the path of the file, ``"$SBATCH_ACCOUNT"`` (a variable), or ``"default"``; a setting of one
        step is called ``infer.partition``.

    Raises
    ------
    BadOption
        The file is not TOML, or has an unknown key or an impossible value.
    """
    path = site_path(variables)
    settings, steps = _read(path, named=bool(variables.get(VARIABLE)))
    given = {key: variables[variable] for key, variable in SBATCH_VARIABLES.items() if variables.get(variable)}
    origins = {key: str(path) if key in settings else DEFAULT for key in KEYS}
    origins |= {f"{step}.{key}": str(path) for step, table in steps.items() for key in table if key not in given}
    origins |= {key: f"${SBATCH_VARIABLES[key]}" for key in given}
    site = Site(**settings, steps=steps)
    return site.with_all(**{key: _checked(key, value, origins[key]) for key, value in given.items()}), origins


def site_path(variables: Mapping[str, str] = os.environ) -> Path:
    """Which file is read."""
    named = variables.get(VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_config_path("medhpc") / FILE


def _read(path: Path, named: bool) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of one file and those of its tables; none where there is no file, unless the user `named` it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise BadOption(f"{VARIABLE} names {path}, which is not there; write it with 'medhpc site init'") from None
        return {}, {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f'{path} is not TOML: {error}; a line looks like: partition = "gpu"') from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise BadOption(f"{path} cannot be read ({error.strerror}); let {VARIABLE} name another file") from None
    steps = {step: _table(content.pop(step), step, path) for step in TABLES if step in content}
    return _all_checked(content, str(path)), steps


def _table(content: Any, step: str, path: Path) -> dict[str, Any]:
    """The settings of one step."""
    if not isinstance(content, dict):
        raise BadOption(f'{path}: {step} is {content!r}; expected a table such as {step} = {{ partition = "gpu" }}')
    return _all_checked(content, f"{path}, [{step}]")


def _all_checked(table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    return {key: _checked(key, value, origin) for key, value in table.items()}


def _checked(key: str, value: Any, origin: str) -> Any:
    """A value of a file or a variable as Site keeps it."""
    if key not in KEYS:
        names = [name for name in (*KEYS, *TABLES) if name != key]  # a table in a table is no table
        near = difflib.get_close_matches(key.replace("-", "_"), names, n=1)
        hint = f"did you mean '{near[0]}'" if near else f"valid are {', '.join(KEYS)}, and tables {', '.join(TABLES)}"
        raise BadOption(f"{origin}: there is no setting '{key}'; {hint}")
    if isinstance(value, list):
        value = tuple(value)
    elif key == "memory":
        value = bytes_of(value)
    elif key in FOLDERS and isinstance(value, str):
        value = os.path.expanduser(value)
    try:
        check(key, value)
    except BadOption as error:
        raise BadOption(f"{origin}: {error}") from None
    return value


def _joined(nodes: str, names: Sequence[str]) -> str:
    return ",".join(filter(None, (nodes, *names)))
