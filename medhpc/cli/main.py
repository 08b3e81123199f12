"""The command group, and how errors end: one line and a number, never a traceback for what a user can mend."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import medhpc
from medhpc.cli import (
    demo,
    dip,
    dip_plan,
    doctor,
    engines,
    evaluation,
    infer,
    jobs,
    report,
    runs,
    scaling,
    site,
    status,
    training,
    volumes,
)
from medhpc.errors import MedhpcError, ToldElsewhere

INTERRUPTED = 130  # 128 + SIGINT, as the shell reports it


SECTIONS = {
    "The main job, step by step": (runs.tile, infer.infer, status.status, runs.stitch, evaluation.evaluate),
    "All of it at once": (runs.run,),
    "On a cluster": (jobs.submit, jobs.script, jobs.cancel, doctor.doctor, site.site),
    "Networks": (training.train, engines.engines),
    "Denoising": (dip.dip, dip_plan.dip_plan),
    "Volumes": (volumes.info, volumes.convert),
    "Also": (report.report, runs.clean, scaling.bench, demo.demo),
}


class _InSections(click.Group):
    """Lists its commands by what they are for."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(80)) for command in commands])


@click.group(
    "medhpc", cls=_InSections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(medhpc.__version__, prog_name="medhpc", help="Print the version and end.")
def group() -> None:
    """Segment volumes larger than memory: train a network, tile, infer, stitch, evaluate.

    \b
      medhpc train msd brain.tif cells.csv --out net.safetensors --radius 6
      medhpc run brain.tif cells.ome.zarr --network net.safetensors --as labels

    The second is `tile`, `infer` and `stitch` in one; on a cluster they run one by one, `infer` as a job array.
    Every step can be killed and started again; what was finished is kept.
    """


for command in itertools.chain.from_iterable(SECTIONS.values()):
    group.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process.

    Exit codes: 0 done; 2 an error that the user can mend, told in one line on stderr; 130 interrupted. Anything
    unexpected keeps its traceback and ends with 1.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of ``sys.argv[1:]``.
    """
    # Threads of torch that spin while they wait slow everything on a shared node, themselves too (ten times, measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = group.main(arguments, prog_name="medhpc", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(_usage(error), error.exit_code)
    except ToldElsewhere as error:
        code = error.exit_code
    except MedhpcError as error:
        code = _fail(str(error), error.exit_code)
    except click.Abort:
        code = _fail("interrupted; start the same command again to go on", INTERRUPTED)
    except OSError as error:
        if _of_the_machine(error) is None:
            raise
        code = _fail(f"{_of_the_machine(error)}: {error}", MedhpcError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def run_here(arguments: Sequence[str]) -> int:
    """Run the command line in this process and give its exit code."""
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _fail(message: str, code: int) -> int:
    click.echo(f"medhpc: error: {' '.join(message.splitlines())}", err=True)
    return code


def _usage(error: click.ClickException) -> str:
    """What is wrong with the command line, and where it is explained."""
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see '{error.ctx.command_path} --help')"
    return message


def _of_the_machine(error: OSError) -> str | None:
    """Name what stopped us where it is the disk or its permissions; None for anything else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left; make room and start the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission"
    return None
