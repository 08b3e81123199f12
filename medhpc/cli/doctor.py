"""``medhpc doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from medhpc.cli import options, show
from medhpc.errors import MedhpcError

if TYPE_CHECKING:
    from medhpc.jobs.doctor import Check

COLOURS = {"ok": "green", "warn": "yellow", "bad": "red", "unknown": "blue"}


@click.command(short_help="Check a cluster and a folder.")
@click.argument("folder", default=".")
@click.option("--no-job", is_flag=True, help="Submit no job; what nodes are like is not seen then.")
@click.option(
    "--wait", type=click.FloatRange(1), default=60, show_default=True, metavar="SECONDS", help="For the job to start."
)
@click.option("--partition", metavar="NAME", help="Instead of the one in site.toml, or the cluster's default.")
@click.option("--account", metavar="NAME", help="Instead of those in site.toml.")
@click.option("--qos", metavar="NAME", help="Instead of those in site.toml.")
@click.option("--probe", is_flag=True, hidden=True)  # what the job itself runs
@options.as_json
def doctor(folder: str, no_job: bool, wait: float, probe: bool, as_json: bool, **settings: Any) -> int:
    """Check a cluster, and the FOLDER where runs will lie: what is there, what it means for medhpc, and how to mend it.

    Submits one small job, for some things are only seen on a node. Ends with 2 where something is bad.

    \b
      medhpc doctor /scratch/me
      medhpc doctor --no-job
    """
    if probe:
        from medhpc.jobs.probe import probe as tell_and_wait

        tell_and_wait(folder)
        return 0
    from medhpc.jobs import doctor as doctors
    from medhpc.jobs.site import load_site

    site = load_site()[0].with_all(**{key: value for key, value in settings.items() if value})
    say = (lambda doing: None) if as_json else (lambda doing: click.echo(f"{doing} ...", err=True))
    checks = doctors.doctor(folder, job=not no_job, wait=wait, site=site, report=say)
    if as_json:
        show.as_json({"folder": folder, "checks": [check.as_dict() for check in checks]})
    else:
        _print(checks)
    return MedhpcError.exit_code if any(check.verdict == "bad" for check in checks) else 0


def _print(checks: list[Check]) -> None:
    """A line for what was found, and below it what it means and what to do."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = click.style(f"{check.verdict:7}", fg=COLOURS[check.verdict])
        click.echo(f"{verdict}  {check.name:{width}}  {check.found}")
        for line in filter(None, (check.means, check.mend and f"mend: {check.mend}")):
            click.echo(f"{'':7}  {'':{width}}  {line}")
