"""The text of a new ``site.toml``: every setting with what SLURM answers beside it, none of them in force yet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from medhpc.errors import BadOption, NoSlurm, SlurmDown
from medhpc.jobs import slurm
from medhpc.jobs.site import TABLES, VARIABLE, site_path
from medhpc.jobs.site_keys import KEYS
from medhpc.jobs.slurm import Association, Limits, Partition, Qos, as_time
from medhpc.run.durable import write_durably

Value: TypeAlias = str | int | bool | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What SLURM said about itself."""

    limits: Limits
    partitions: tuple[Partition, ...]
    associations: tuple[Association, ...]
    qualities: tuple[Qos, ...]


def init_site(path: str | Path | None = None, *, force: bool = False) -> tuple[Path, str]:
    """Write a new file of settings.

    Parameters
    ----------
    path : path, optional
        The file that is read here, unless given.
    force : bool
        Replace a file that is there.

    Returns
    -------
    path
    str
        Why SLURM's answers are missing in it; empty where they are not.

    Raises
    ------
    BadOption
        The file is there.
    NoPermission, DiskFull
    """
    path = Path(path).expanduser() if path else site_path()
    if path.exists() and not force:
        raise BadOption(f"{path} is there already; edit it, or give --force to write it anew")
    trouble = ""
    try:
        answers = ask_slurm()
    except (NoSlurm, SlurmDown) as error:
        answers, trouble = None, str(error)
    write_durably(path, site_text(answers).encode())
    return path, trouble


def ask_slurm() -> Answers:
    """Ask for everything that a site's settings can name.

    Raises
    ------
    NoSlurm, SlurmDown
    """
    return Answers(
        limits=slurm.limits(),
        partitions=tuple(slurm.partitions()),
        associations=tuple(slurm.associations()),
        qualities=tuple(slurm.qualities()),
    )


def site_text(answers: Answers | None) -> str:
    """The file, as TOML; without `answers` its examples are made up."""
    entries = (_entry(key, answers) for key in (*KEYS, *TABLES))
    return "\n\n".join("\n".join(lines) for lines in (_head(answers), *entries)) + "\n"


def _head(answers: Answers | None) -> list[str]:
    where = f"cluster {answers.limits.cluster}, SLURM {answers.limits.version}" if answers else "SLURM was not asked"
    return [
        f"# Settings of medhpc for this site ({where}).",
        "# A line is in force once the '#' before it is removed. Options of a command override it.",
        f"# 'medhpc site show' prints what is in force. A group shares a file by setting {VARIABLE} to its path.",
    ]


def _entry(key: str, answers: Answers | None) -> list[str]:
    known, first = _known(key, answers) if answers else ([], "")
    comments = [f"# {' '.join(line.split())}" for line in (ABOUT[key], *known)]
    return [*comments, f"#{key} = {_toml(first or EXAMPLES[key])}"]


def _known(key: str, answers: Answers) -> tuple[list[str], Value]:
    """What SLURM says about a setting, and the value that most jobs have."""
    if key == "partition":
        first = sorted(answers.partitions, key=lambda one: not one.is_default)
        return [_partition(one) for one in first], first[0].name if first else ""
    if key == "account":
        names = list(dict.fromkeys(one.account for one in answers.associations))
        return _listed("Yours, the default first", names), names[0] if names else ""
    if key == "qos":
        names = list(dict.fromkeys(name for one in answers.associations for name in one.qos))
        found = {one.name: _qos(one) for one in answers.qualities}
        return _listed("Yours", [found.get(name, name) for name in names]), names[0] if names else ""
    if key == "gres":
        gres = [one.gres for one in answers.partitions if one.gpus_per_node]
        return _listed("Nodes here have", dict.fromkeys(gres)), ""
    if key == "infer":
        with_gpus = [one.name for one in answers.partitions if one.gpus_per_node]
        return [], {"partition": with_gpus[0], "gres": "gpu:1"} if with_gpus else ""
    return [], ""


def _listed(title: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{title}: {', '.join(names)}."] if names else []


def _partition(partition: Partition) -> str:
    nodes = f"{partition.nodes} node{'s' * (partition.nodes != 1)}"
    parts = [f"{partition.name}{' (default)' if partition.is_default else ''}: {nodes}"]
    parts += [f"up to {partition.cpus_per_node} CPUs and {partition.memory_per_node / 2**30:.3g}G each"]
    parts += [partition.gres] if partition.gres else []
    limit = partition.max_time_seconds
    parts += ["no time limit" if limit is None else f"at most {as_time(limit)}"]
    parts += [partition.state] if partition.state != "UP" else []
    return "- " + ", ".join(parts)


def _qos(qos: Qos) -> str:
    limits = [f"at most {as_time(qos.max_time_seconds)}"] if qos.max_time_seconds is not None else []
    limits += [f"{qos.max_submit_jobs} jobs"] if qos.max_submit_jobs is not None else []
    return f"{qos.name} ({', '.join(limits)})" if limits else qos.name


def _toml(value: Value) -> str:
    """A value as TOML; for these types it is spelt as in JSON, but for tables."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


ABOUT = {
    "partition": "Where jobs run; without it, in the default partition.",
    "account": "Who pays.",
    "qos": "Quality of service.",
    "constraint": "Features that nodes must have.",
    "gres": "What a task that needs a GPU asks for.",
    "reservation": "Nodes that are reserved for you.",
    "nodelist": "The node that must be used.",
    "exclude": "Nodes that must not be used.",
    "cpus": "CPUs of a task; without it, as many as the run was planned for.",
    "memory": "Memory of a task; without it, what the run was measured to need.",
    "modules": "Loaded before medhpc starts on a node.",
    "venv": "The virtual environment that medhpc is in, where nodes see another one than the login node.",
    "apptainer": "An Apptainer image that medhpc is in.",
    "nv": "Let the image see GPUs.",
    "bind": "Folders that the image must see: your data.",
    "medhpc": "The command that starts medhpc on a node, where it is not the one that submits.",
    "scratch": "A fast folder on every node, for temporary files.",
    "mail_user": "Who gets mail; without it, you.",
    "mail_type": "When there is mail. ARRAY_TASKS would send one for every task.",
    "templates": "Your own versions of the sbatch files that 'medhpc script' writes.",
    "extra": "Other options of sbatch, for every job.",
    "plan": "What planning asks for instead: any setting from above. (Also as a table [plan] at the end of this file.)",
    "infer": "What computing tiles asks for instead, as where GPUs have a partition of their own.",
    "stitch": "What the stitch asks for instead.",
    "dip": "What denoising asks for instead.",
    "train": "What training asks for instead.",
}

EXAMPLES: dict[str, Value] = {
    "partition": "gpu",
    "account": "mylab",
    "qos": "normal",
    "constraint": "a100|h100",
    "gres": "gpu:1",
    "reservation": "course",
    "nodelist": "node7",
    "exclude": "node[1-9]",
    "cpus": 8,
    "memory": "16G",
    "modules": ["python/3.12"],
    "venv": "/home/me/medhpc/.venv",
    "apptainer": "/home/me/medhpc.sif",
    "nv": True,
    "bind": ["/data"],
    "medhpc": "/opt/medhpc/bin/medhpc",
    "scratch": "/scratch/local",
    "mail_user": "me@example.org",
    "mail_type": "END,FAIL",
    "templates": "/home/me/sbatch",
    "extra": ["--licenses=fast_disk"],
    "plan": {"partition": "gpu", "qos": "short"},
    "infer": {"partition": "gpu", "gres": "gpu:1"},
    "stitch": {"partition": "cpu", "memory": "64G"},
    "dip": {"partition": "gpu", "gres": "gpu:4"},
    "train": {"partition": "cpu", "memory": "16G"},
}
