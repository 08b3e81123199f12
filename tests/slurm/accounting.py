"""The accounting of a private cluster: MariaDB and slurmdbd, so that `sacct` answers."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from configuration import user_name

if TYPE_CHECKING:
    from cluster import Cluster

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb", "mysql_install_db")

GRANTS = "; ".join(
    ["create database if not exists slurm_acct"]
    + [
        statement
        for host in ("localhost", "127.0.0.1")
        for statement in (
            f"create user if not exists 'slurm'@'{host}' identified by 'slurm'",
            f"grant all on slurm_acct.* to 'slurm'@'{host}'",
        )
    ]
)


def start_accounting(cluster: Cluster) -> None:
    """Start the database and slurmdbd; slurmctld comes after them."""
    data, socket = cluster.folder / "database", cluster.folder / "run/mariadb.sock"
    install = ["mysql_install_db", "--no-defaults", f"--datadir={data}", f"--user={user_name()}", "--skip-test-db"]
    cluster.run(*install, "--auth-root-authentication-method=normal")
    cluster.spawn(
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={socket}",
        f"--port={cluster.ports.database}",
        "--bind-address=127.0.0.1",
        f"--pid-file={cluster.folder}/run/mariadb.pid",
        f"--user={user_name()}",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",  # slurmdbd asks for it
        "--innodb-flush-log-at-trx-commit=0",  # it is thrown away: no waiting for the disk
        "--skip-log-bin",
    )
    sql = ["mariadb", "--no-defaults", f"--socket={socket}", "-uroot", "-e"]
    cluster.wait(lambda: _answers(cluster, *sql, "select 1"), 60, "MariaDB answers")
    cluster.run(*sql, GRANTS)
    cluster.spawn("slurmdbd", "slurmdbd", "-D")
    cluster.wait(lambda: _answers(cluster, "sacctmgr", "-n", "-P", "list", "cluster"), 60, "slurmdbd answers")
    cluster.run("sacctmgr", "-i", "add", "cluster", "private")


def _answers(cluster: Cluster, *command: str) -> bool:
    return subprocess.run(command, env=cluster.environment, capture_output=True).returncode == 0
