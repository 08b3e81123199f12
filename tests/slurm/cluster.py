"""A private SLURM cluster of virtual nodes on one host, to be thrown away: its own munge key, ports and state.

    with Cluster(Options(nodes=3)) as cluster:
        cluster.run("sinfo")

Nothing of it is found but through SLURM_CONF in ``cluster.environment``, and nothing of it survives: a second process
waits for the end of this one, however it comes, and ends every process that was started with this SLURM_CONF.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from accounting import start_accounting
from configuration import Options, Ports, user_name, write_configuration
from processes import is_abandoned, kill, marked, reap, start_reaper, with_descendants

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PREFIX = "medhpc-slurm-"  # of the folders of clusters, in /tmp
CONFIGURATION = "etc/slurm.conf"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on everybody's PATH
ATTEMPTS = 3  # to start: another process may take a port between its choice and its use


class Cluster:
    """Daemons, nodes and jobs of a private cluster.

    Parameters
    ----------
    options : Options
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.folder = Path()
        self.environment: dict[str, str] = {}
        self.ports = Ports(controller=0, accounting=0, database=0, nodes=())
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._reaper: subprocess.Popen[bytes] | None = None

    # --- from nothing to idle nodes, and back ----------------------------------------------------

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._start()
            except BaseException as error:
                self.stop()
                if attempt == ATTEMPTS or not isinstance(error, ClusterBroken):
                    raise

    def stop(self) -> None:
        """End all jobs and daemons; the folder goes."""
        if self._reaper is None:
            return
        self._reaper.communicate(b"now\n", timeout=60)
        for daemon in self._daemons.values():
            daemon.wait(10)
        self._daemons.clear()
        self._reaper = None

    def _start(self) -> None:
        for folder in filter(is_abandoned, Path("/tmp").glob(f"{PREFIX}*")):
            reap(folder, _mark(folder))
        # In /tmp, not in pytest's folder: the path of a socket ends at 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self.folder.chmod(0o755)
        for name in ("etc", "log", "run", "spool", "state"):
            (self.folder / name).mkdir()
        path = f"{os.environ['PATH']}:{SBIN}"
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / CONFIGURATION), "PATH": path}
        self._reaper = start_reaper(self.folder, _mark(self.folder))
        controller, accounting, database, *nodes = free_ports(3 + len(self.options.names))
        self.ports = Ports(controller=controller, accounting=accounting, database=database, nodes=tuple(nodes))
        write_configuration(self.folder, self.options, self.ports)
        self._start_munge()
        if self.options.accounting:
            start_accounting(self)
        self.start_controller()
        for name in self.options.names:
            self.start_node(name)
        self.wait(lambda: set(self.node_states().values()) == {"idle"}, 60, "all nodes are idle")

    def _start_munge(self) -> None:
        key, socket_ = self.folder / "etc/munge.key", self.folder / "run/munge.sock"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        options = {
            "socket": socket_,
            "key-file": key,
            "pid-file": self.folder / "run/munged.pid",
            "log-file": self.folder / "log/munged.log",
            "seed-file": self.folder / "state/munge.seed",
        }
        # --force: it would refuse a folder that others may write to, as /tmp is
        self.spawn("munged", "munged", "--foreground", "--force", *(f"--{name}={at}" for name, at in options.items()))
        self.wait(socket_.exists, 20, "munged listens")

    # --- daemons ---------------------------------------------------------------------------------

    def spawn(self, name: str, *command: str, **variables: str) -> None:
        """Start a daemon that stays in the foreground; its output goes to ``log/NAME.out``."""
        with (self.folder / f"log/{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment | variables,
                cwd=self.folder,
                start_new_session=True,
            )

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self.spawn("slurmctld", "slurmctld", "-D")
        self.wait(lambda: "is UP" in self.run("scontrol", "ping", check=False), 30, "slurmctld answers")

    def stop_controller(self) -> None:
        """Stop slurmctld; its state stays, and so do the nodes and their jobs."""
        self._end("slurmctld", signal.SIGTERM)

    @contextmanager
    def controller_stopped(self) -> Iterator[None]:
        """Have no slurmctld in the block."""
        self.stop_controller()
        try:
            yield
        finally:
            self.start_controller()

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self.spawn(f"slurmd-{name}", "slurmd", "-D", "-N", name, MEDHPC_TEST_NODE=name)

    def kill_node(self, name: str) -> None:
        """Let a node lose power: its slurmd and everything that runs there ends at once."""
        self._end(f"slurmd-{name}", signal.SIGKILL)
        kill(lambda: self.processes_on(name))

    def _end(self, name: str, by: signal.Signals) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(by)
        daemon.wait(30)

    # --- nodes -----------------------------------------------------------------------------------

    def node_states(self) -> dict[str, str]:
        """For each node: idle, mixed, allocated, drained, down ..."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def set_down(self, name: str) -> None:
        """Declare a node dead: its jobs go back into the queue; what runs there goes on for some seconds."""
        self._update(name, "down")

    def drain(self, name: str) -> None:
        """Let a node take no more jobs."""
        self._update(name, "drain")

    def resume(self, name: str) -> None:
        """Let a node take jobs again."""
        self._update(name, "resume")

    def _update(self, name: str, state: str) -> None:
        self.run("scontrol", "update", f"nodename={name}", f"state={state}", "reason=test")

    def heal(self) -> None:
        """After a test, whatever it did: no job, every daemon runs, every node is idle."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        self.run("scancel", f"--user={user_name()}")
        self.wait_for_jobs(30)
        for name, state in self.node_states().items():
            kill(lambda name=name: self.processes_on(name))  # a node that was set down keeps them for seconds
            if f"slurmd-{name}" not in self._daemons:
                self.start_node(name)
            if state.startswith(("down", "drain")):
                self.resume(name)
        self.wait(lambda: set(self.node_states().values()) == {"idle"}, 60, "all nodes are idle again")

    @contextmanager
    def nothing_starts(self) -> Iterator[None]:
        """Jobs wait while the block runs."""
        self.run("scontrol", "update", "partition=cpu", "state=down")
        try:
            yield
        finally:
            self.run("scontrol", "update", "partition=cpu", "state=up")

    # --- jobs ------------------------------------------------------------------------------------

    def run(self, *command: str | Path, check: bool = True, timeout: float = 120) -> str:
        """What a command prints, in the cluster's environment."""
        found = subprocess.run(
            [str(word) for word in command], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert not check or found.returncode == 0, f"{command}: {found.returncode}\n{found.stdout}{found.stderr}"
        return found.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit lines of shell as a batch job; its id. Its log lies at :meth:`log`."""
        path = self.folder / f"job-{secrets.token_hex(4)}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        output = f"--output={self.folder}/log/job-%A_%a.log"
        return self.run("sbatch", "--parsable", output, "--mem=50", *options, path)

    def jobs(self) -> list[str]:
        """Live jobs, a line each: id, name, state, reason or nodes; arrays by their tasks.

        A line is there, too, where slurmctld does not answer: not to know is not to have none.
        """
        command = ["squeue", "--noheader", "--array", "--format=%i %j %T %R"]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        return found.stdout.splitlines() if found.returncode == 0 else [found.stderr.strip()]

    def wait_for_jobs(self, seconds: float) -> None:
        """Wait until no job is left."""
        self.wait(lambda: not self.jobs(), seconds, "all jobs are over")

    def finished(self) -> list[dict[str, str]]:
        """How jobs ended, in this order: what slurmctld has noted of each (JobId, Name, JobState, NodeList ...)."""
        path = self.folder / "log/jobs.txt"
        text = path.read_text() if path.exists() else ""
        return [dict(re.findall(r"(\w+)=(\S*)", job)) for job in re.split(r"^(?=JobId=)", text, flags=re.M)[1:]]

    def processes_on(self, name: str) -> set[int]:
        """What runs on a node for its jobs."""
        daemon = self._daemons.get(f"slurmd-{name}")
        found = with_descendants(marked(_mark(self.folder), f"MEDHPC_TEST_NODE={name}"))
        return found - {daemon.pid} if daemon else found

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something is so; ends early where a daemon has died."""
        end = time.monotonic() + seconds
        pause = 0.02
        while not condition():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{', '.join(dead)} ended" if dead else f"not within {seconds} s"
                raise ClusterBroken(f"{what}: {why}\n{self.report()}")
            time.sleep(pause)
            pause = min(0.3, 1.3 * pause)  # to look costs time of the processors that are waited for

    def report(self) -> str:
        """Nodes, jobs, how jobs ended, and the ends of the daemons' logs: for a failed test."""
        ends = [
            " ".join(end.get(key, "") for key in ("JobId", "Name", "JobState", "NodeList")) for end in self.finished()
        ]
        parts = {"nodes": str(self.node_states()), "jobs": "\n".join(self.jobs()), "over": "\n".join(ends)}
        parts |= {path.name: path.read_text(errors="replace")[-800:] for path in (self.folder / "log").glob("*.out")}
        return "\n".join(f"--- {name}\n{text}" for name, text in parts.items())


class ClusterBroken(Exception):
    """Something did not happen in time; the logs are in the message."""


def _mark(folder: Path) -> str:
    """What all processes of a cluster have in their environment."""
    return f"SLURM_CONF={folder / CONFIGURATION}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def missing_programs(names: Sequence[str] = PROGRAMS) -> list[str]:
    """Those of the programs that are not installed."""
    path = f"{os.environ['PATH']}:{SBIN}"
    return [name for name in names if not shutil.which(name, path=path)]
