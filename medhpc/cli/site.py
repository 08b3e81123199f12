"""``medhpc site``: what every job on this cluster asks for."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, show

if TYPE_CHECKING:
    from medhpc.jobs.site import Site


@click.group(short_help="Show or write the settings of this cluster.")
def site() -> None:
    """Show or write the settings of this cluster: partition, account, modules, and what else every job asks for.

    \b
      medhpc site init
      medhpc site show
    """


@site.command("show", short_help="Print the settings in force, and where each is from.")
@options.as_json
def show_site(as_json: bool) -> None:
    """Print the settings in force, and where each is from.

    \b
      medhpc site show
    """
    from medhpc.jobs.site import DEFAULT, load_site, site_path

    settings, origins = load_site()
    values = {key: _value(settings, key) for key in origins}
    path = site_path()
    if as_json:
        found = {key: {"value": value, "from": origins[key]} for key, value in values.items()}
        show.as_json({"file": str(path), "found": path.exists(), "settings": found})
        return
    given = [key for key, origin in origins.items() if origin != DEFAULT]
    rows = [{"setting": key, "value": _said(key, values[key]), "from": origins[key]} for key in given]
    click.echo(
        show.table(rows) if rows else "nothing is set: jobs ask for what the run needs, in the default partition"
    )
    click.echo(_file_in_force(path))


@site.command("init", short_help="Write a file of settings to edit.")
@click.option("--to", metavar="PATH", help="Where to, for a file that a group shares by MEDHPC_SITE.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init_site(to: str | None, force: bool) -> None:
    """Write a file of settings, with what SLURM says about partitions, accounts and limits beside them.

    \b
      medhpc site init
      MEDHPC_SITE=/shared/lab/medhpc.toml medhpc site show
    """
    from medhpc.jobs.site import VARIABLE, site_path
    from medhpc.jobs.site_file import init_site as write

    path, trouble = write(to, force=force)
    click.echo(f"{path} is written; remove the '#' before what shall be in force")
    if path.resolve() != site_path().resolve():
        click.echo(f"it is read where {VARIABLE} names it: export {VARIABLE}={shlex.quote(str(path.resolve()))}")
        click.echo(f"until then, {_file_in_force(site_path())}")
    if trouble:
        click.echo(f"without what this cluster has: {trouble}", err=True)


def _value(settings: Site, key: str) -> Any:
    """Of a setting, or of one of a step (``infer.partition``)."""
    step, _, name = key.rpartition(".")
    return getattr(settings.of(step), name)


def _file_in_force(path: Path) -> str:
    """Which file was looked at, why that one, and whether it is there."""
    from medhpc.jobs.site import VARIABLE

    why = f"named by {VARIABLE}" if os.environ.get(VARIABLE) else f"{VARIABLE} names no other"
    if path.exists():
        return f"file: {path} ({why})"
    return f"no file: {path} is not there ({why}); 'medhpc site init' writes it"


def _said(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return show.memory(value) if key.endswith("memory") else str(value)
