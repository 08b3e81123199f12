"""Half an hour of accidents: runs of 500 tiles on a private SLURM cluster, whose results must be those of `medhpc run`.

One run after the other is submitted, and again whenever its chain of jobs has ended without a result. Every few seconds
something happens to it: a process is killed, a node goes down, loses power or is drained, jobs are cancelled, the
controller is stopped, stored bytes are cut off or change. The seed decides what; when it strikes, nobody can repeat.
There is no peer.

Claims: no tile is lost, no byte of a result is another, no job is left over.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.measure import options, publish, table
from benchmarks.private_cluster import Cluster, ClusterBroken, Planned, Scenario, plan, private_cluster
from medhpc.jobs import submissions
from medhpc.run import status

SIZE = "80,80,320"  # voxels: 500 tiles
SLOWLY = "import time\ndef before_tile(index): time.sleep({seconds})"
TILE_SECONDS = 0.3  # added to each tile, so that accidents meet tiles
TILES_PER_TASK = 25
CONCURRENT = 4  # tasks: all nodes are this one machine
PAUSE = (2.0, 8.0)  # seconds between two accidents
OUTAGE = (3.0, 12.0)  # seconds without a controller
NODE_AWAY = (5.0, 20.0)  # seconds until a node is back
LONGEST = 1800  # seconds for a chain of jobs


def main() -> None:
    parser = options(__doc__, size=SIZE, rounds=1)
    parser.add_argument("--minutes", type=float, default=30, help="of accidents (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=arguments.scratch))
    print(f"what happens is kept in {folder} until it has ended well", flush=True)
    began = time.monotonic()
    planned = plan(folder, shape=arguments.size)
    with private_cluster() as cluster:
        soak = Soak(cluster, planned, folder, Random(arguments.seed), time.monotonic() + 60 * arguments.minutes)
        soak.go_on()
        ends = Counter(end["JobState"] for end in cluster.finished())
    shutil.rmtree(folder)
    result = soak.figures | {"jobs": dict(ends), "accidents": dict(soak.struck)}
    print(table(("accident", "times"), sorted(soak.struck.items())))
    print(", ".join(f"{name}: {value}" for name, value in soak.figures.items()))
    print(f"jobs by their end: {dict(ends)}")
    print(f"runs whose result is that of medhpc run: {soak.figures['runs']} of {soak.figures['runs']}")
    setting = {"minutes": arguments.minutes, "seed": arguments.seed, "minutes_in_all": (time.monotonic() - began) / 60}
    publish(arguments.results, "soak", setting | result)


@dataclass
class Soak:
    """One cluster, one run after the other, and what has happened so far."""

    cluster: Cluster
    planned: Planned
    folder: Path
    random: Random
    until: float  # by the monotonic clock: no accident after that
    struck: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    away: dict[str, float] = field(default_factory=dict)  # nodes that do not work, and when they are to be back
    without_power: set[str] = field(default_factory=set)  # of these

    def go_on(self) -> None:
        """Finish runs until the time is over, one at least."""
        while not self.figures["runs"] or time.monotonic() < self.until:
            place = self.folder / f"{self.figures['runs']}"
            place.mkdir()
            scenario = Scenario(self.cluster, self.planned, place)
            scenario.accident(SLOWLY.format(seconds=TILE_SECONDS))
            while not scenario.out.exists():
                scenario.submit(tiles_per_task=TILES_PER_TASK, concurrent=CONCURRENT)
                self.endure(scenario)
            self.check(scenario)

    def endure(self, scenario: Scenario) -> None:
        """Let accidents happen until no job is left."""
        end = time.monotonic() + LONGEST
        while self.cluster.jobs():
            if time.monotonic() > end:
                raise ClusterBroken(f"a chain of jobs does not end\n{self.cluster.report()}")
            time.sleep(self.random.uniform(*PAUSE))
            self.bring_back()
            if time.monotonic() < self.until:
                name = self.random.choice(sorted(ACCIDENTS))
                self.struck[name] += ACCIDENTS[name](self, scenario)

    def check(self, scenario: Scenario) -> None:
        """The laws, and what the run has cost."""
        self.cluster.wait(self.bring_back, 120, "all nodes are back")
        self.cluster.heal()  # what still runs on a node that was down ends, too
        found = status(scenario.run, verify=True)
        assert not found.missing_tiles, f"lost: {found.missing_tiles}"  # damaged since the stitch, they may be
        assert scenario.out.read_bytes() == self.planned.expected, f"wrong bytes in {scenario.out}"
        computed = sum("digest" in record for record in scenario.records())
        chains = len(submissions(scenario.run))
        self.figures.update(runs=1, tiles=found.total, recomputed=computed - found.total, submissions=chains)
        print(f"run {self.figures['runs']}: {chains} submissions, {computed} tiles computed", flush=True)

    def nodes(self) -> list[str]:
        """Those that work."""
        return [name for name in self.cluster.options.cpu_names if name not in self.away]

    def take_away(self, act: Callable[[str], None]) -> bool:
        """Do something to a node, unless it is the last."""
        if len(self.nodes()) < 2:
            return False
        name = self.random.choice(self.nodes())
        act(name)
        self.away[name] = time.monotonic() + self.random.uniform(*NODE_AWAY)
        return True

    def bring_back(self) -> bool:
        """Let nodes work again whose time has come; whether all of them do."""
        for name in [name for name, end in self.away.items() if end < time.monotonic()]:
            del self.away[name]
            if name in self.without_power:
                self.without_power.remove(name)
                self.cluster.start_node(name)
        states = self.cluster.node_states()
        idle = [name for name in self.nodes() if states.get(name, "").startswith(("down", "drain"))]
        for name in idle:  # a node that has just come back by itself refuses it
            self.cluster.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        return not idle and not self.away


# --- accidents: each says whether there was something to strike ----------------------------------


def kill_a_process(soak: Soak, scenario: Scenario) -> bool:
    found = [pid for name in soak.nodes() for pid in soak.cluster.processes_on(name) if works_at(pid, scenario.run)]
    if found:
        with suppress(ProcessLookupError):
            os.kill(soak.random.choice(sorted(found)), signal.SIGKILL)
    return bool(found)


def lose_power(soak: Soak, scenario: Scenario) -> bool:
    def act(name: str) -> None:
        soak.cluster.kill_node(name)
        soak.cluster.set_down(name)
        soak.without_power.add(name)

    return soak.take_away(act)


def cancel_a_job(soak: Soak, scenario: Scenario) -> bool:
    ids = [job.split()[0] for job in soak.cluster.jobs()]
    return bool(ids) and _cancel(soak, soak.random.choice(ids))


def cancel_an_array(soak: Soak, scenario: Scenario) -> bool:
    ids = [job.split()[0] for job in soak.cluster.jobs() if "medhpc-infer" in job]
    return bool(ids) and _cancel(soak, ids[0].partition("_")[0])


def stop_the_controller(soak: Soak, scenario: Scenario) -> bool:
    with soak.cluster.controller_stopped():
        time.sleep(soak.random.uniform(*OUTAGE))
    return True


def cut_off_a_shard(soak: Soak, scenario: Scenario) -> bool:
    return damage(soak, scenario, lambda content, at: content[:at])


def change_a_bit(soak: Soak, scenario: Scenario) -> bool:
    return damage(soak, scenario, lambda content, at: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


ACCIDENTS: dict[str, Callable[[Soak, Scenario], bool]] = {
    "process killed": kill_a_process,
    "node down": lambda soak, _: soak.take_away(soak.cluster.set_down),
    "node without power": lose_power,
    "node drained": lambda soak, _: soak.take_away(soak.cluster.drain),
    "job cancelled": cancel_a_job,
    "array cancelled": cancel_an_array,
    "controller stopped": stop_the_controller,
    "shard cut off": cut_off_a_shard,
    "bit changed": change_a_bit,
}


def damage(soak: Soak, scenario: Scenario, change: Callable[[bytes, int], bytes]) -> bool:
    """Change what a tile has stored, in place."""
    shards = sorted(scenario.run.glob("prediction.zarr/c/*/*/*/*"))
    if not shards:
        return False
    shard = soak.random.choice(shards)
    content = shard.read_bytes()
    shard.write_bytes(change(content, soak.random.randrange(len(content))))
    return True


def works_at(pid: int, run: Path) -> bool:
    """Whether a process computes or stitches a run."""
    try:
        return str(run).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _cancel(soak: Soak, id: str) -> bool:
    soak.cluster.run("scancel", id, check=False)
    return True


if __name__ == "__main__":
    main()
