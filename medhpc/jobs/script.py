"""The text of sbatch files: pure functions of a step, a site and a template.

A template is a whole sbatch file that works by itself. Two things in it are replaced: its ``#SBATCH`` lines, one by
one, and the block between the marks below, which sets the values of this job as bash variables. Lines above the first
command that begin with ``##`` tell how to fill it by hand, and are left out. All else stays as it is, so what someone
adds to a template is in every job.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from medhpc.errors import BadOption
from medhpc.jobs.chain import Step
from medhpc.jobs.site import Site
from medhpc.jobs.slurm import as_time

VALUES, END_OF_VALUES = "# --- values", "# --- end of values"
BY_HAND = "##"
NAME_LENGTH = 24  # of a run, in the name of a job
DIRECTIVE = re.compile(r"^##?SBATCH\s+--([a-z-]+)(?:[= ].*)?$")


def render(template: str, directives: Mapping[str, str], values: Sequence[str]) -> str:
    """A template with its directives and values replaced.

    Parameters
    ----------
    template : str
    directives : mapping of str to str
        Options of sbatch without their dashes; the value is empty for a flag.
    values : sequence of str
        Lines of bash.

    Raises
    ------
    BadOption
        The template has no block of values, or a directive has a line break.
    """
    lines = template.splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith(VALUES)]
    ends = [n for n, line in enumerate(lines) if line.startswith(END_OF_VALUES)]
    if len(starts) != 1 or len(ends) != 1 or not starts[0] < ends[0]:
        raise BadOption(f"the template has no block from '{VALUES}' to '{END_OF_VALUES}'; compare it with medhpc's own")
    head, tail = _filled(_with_directives(lines[: starts[0]], directives)), lines[ends[0] :]
    return "\n".join([*head, f"{VALUES} of this job ".ljust(100, "-"), *values, *tail]) + "\n"


def _filled(head: Sequence[str]) -> list[str]:
    """Without what is said above the first command to somebody who fills the template by hand."""
    comments = list(takewhile(lambda line: not line.strip() or line.startswith("#"), head))
    return [*(line for line in comments if not line.startswith(BY_HAND)), *head[len(comments) :]]


def _with_directives(head: Sequence[str], directives: Mapping[str, str]) -> list[str]:
    """Replace lines of options that are given, and add the others after the last such line."""
    left = dict(directives)
    result: list[str] = []
    last = 1  # after the line with the interpreter
    for line in head:
        found = DIRECTIVE.match(line)
        if found and found[1] in directives:
            if found[1] not in left:
                continue
            line = _directive(found[1], left.pop(found[1]))
        result.append(line)
        if found:
            last = len(result)
    return [*result[:last], *(_directive(name, value) for name, value in left.items()), *result[last:]]


def _directive(name: str, value: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise BadOption(f"--{name} has a line break or another control character in {value!r}; give it without")
    if re.search(r"[^\w.,:%/@+=^*\[\]|&()!-]", value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}"


def log_of(step: Step) -> str:
    """Where a step writes what it prints, from the folder of its script, in SLURM's own signs."""
    return f"log/{step.name}-%A_%a.log" if step.is_array else f"log/{step.name}-%j.log"


def job_name(step: Step) -> str:
    """What squeue shows: ``medhpc-infer-0-brain``, or ``medhpc-infer-0-brain+2`` where it is for two more runs."""
    run, more = Path(step.targets[0].run).name.removesuffix(".run"), len(step.targets) - 1
    name = re.sub(r"[^\w.-]+", "-", run, flags=re.ASCII)[:NAME_LENGTH].strip("-.")
    return "-".join(filter(None, ("medhpc", step.name, name))) + (f"+{more}" if more else "")


def directives_of(step: Step, site: Site, *, comment: str, dependency: str = "") -> dict[str, str]:
    """The options of sbatch for a step."""
    resources = step.resources
    array = f"0-{step.tasks - 1}" + (f"%{step.concurrent}" if step.concurrent else "")
    asked = {
        "job-name": job_name(step),
        "comment": comment,
        "array": array if step.is_array else "",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(resources.cpus),
        "mem": f"{max(1, -(-resources.memory // 2**20))}M",
        "time": as_time(resources.seconds),
        "gres": (site.gres or f"gpu:{resources.gpus}") if resources.gpus else "",
        "signal": f"B:USR1@{resources.warning}" if resources.warning else "",
        "output": log_of(step),
        "dependency": dependency,
    }
    return {name: value for name, value in (asked | site.directives).items() if value}


def values_of(step: Step, site: Site, medhpc: Sequence[str]) -> list[str]:
    """Lines of bash that set what the template's command uses.

    Parameters
    ----------
    step : Step
    site : Site
        Its modules are loaded, its environment activated.
    medhpc : sequence of str
        The command that starts medhpc on a node.
    """
    lines = [*environment_of(site, medhpc), array("RUNS", (target.run for target in step.targets))]
    if step.kind == "plan":
        lines.append(array("VOLUMES", (target.volume for target in step.targets)))
    elif step.kind == "stitch":
        lines.append(array("OUTS", (target.out for target in step.targets)))
        lines.append(array("TABLES", (target.objects for target in step.targets)))
    else:
        lines += [f"MISSING={shlex.quote(step.missing)}", f"OFFSET={step.offset}", f"TASKS={step.of}"]
    return [*lines, array("OPTIONS", step.options)]


def environment_of(site: Site, medhpc: Sequence[str]) -> list[str]:
    """Lines of bash: what the site loads and sets, and the command that starts medhpc."""
    lines = [f"module load {shlex.quote(module)}" for module in site.modules]
    if site.scratch:
        lines.append(f"export TMPDIR={shlex.quote(site.scratch)}")
    return [*lines, array("MEDHPC", medhpc)]


def array(name: str, words: Iterable[str]) -> str:
    """A line of bash that sets an array."""
    return f"{name}=({' '.join(map(shlex.quote, words))})"


def command_of(site: Site, here: Sequence[str]) -> list[str]:
    """How medhpc is started on a node: the site's container or command, else as it was `here`."""
    if site.apptainer:
        gpus = ["--nv"] if site.nv else []
        binds = [word for bind in site.bind for word in ("--bind", bind)]
        return ["apptainer", "exec", *gpus, *binds, site.apptainer, site.medhpc or "medhpc"]
    if site.medhpc:
        return [site.medhpc]
    if site.venv:
        return [f"{site.venv.rstrip('/')}/bin/medhpc"]
    return list(here)


def here() -> list[str]:
    """The command that started this medhpc: jobs use the same installation."""
    script = Path(sys.executable).with_name("medhpc")
    return [str(script)] if script.exists() else [sys.executable, "-m", "medhpc"]


def driver(steps: Sequence[Step]) -> str:
    """The text of ``submit.sh``, which submits the scripts of a folder as the chain that they are."""
    lines = [
        "#!/bin/bash",
        "# Submits the scripts in this folder as one chain; each waits for those before it, however they ended.",
        "set -euo pipefail",
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"',
        "mkdir -p log",
        "here=${PWD//%/%%} # for SLURM, which has signs with %",
        "",
    ]
    for step in steps:
        wait = ":".join(f"${{{_variable(name)}%%;*}}" for name in step.after)
        dependency = f' --dependency="afterany:{wait}"' if wait else ""
        output = f'--output="$here/{log_of(step)}"'
        lines.append(f"{_variable(step.name)}=$(sbatch --parsable {output}{dependency} {step.name}.sbatch)")
    last = f"${{{_variable(steps[-1].name)}%%;*}}"
    return "\n".join([*lines, f'echo "submitted; the last job is {last}"']) + "\n"


def _variable(step: str) -> str:
    return step.replace("-", "_")
