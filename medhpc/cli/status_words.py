"""What is said of runs in words: how they stand, what is to be done next, and the jobs."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medhpc.cli import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from medhpc.jobs.live import Live, LiveJob
    from medhpc.jobs.progress import Overview, Progress, Unplanned, View


OLD = 10.0  # seconds from which on an answer of SLURM tells its age


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do next."""

    words: str = ""
    command: str = ""  # as it can be pasted: never in quotes, it may have its own


# --- how it stands -------------------------------------------------------------------------------


def state(found: Progress | Unplanned) -> str:
    """Where a run is on its way, in one line."""
    from medhpc.jobs.progress import Phase, Progress

    jobs, phase = found.live.jobs, found.phase
    if phase in (Phase.TO_PLAN, Phase.PLANNING):
        return f"{phase}: {_job(jobs, 'plan')}"
    if phase in (Phase.TO_STITCH, Phase.STITCHING):
        return f"all tiles done; {_job(jobs, 'stitch')}"
    if phase == Phase.WAITING:
        return f"waiting: {_waits(jobs[0], jobs)}"
    if isinstance(found, Progress) and phase == Phase.RUNNING and not any(job.running for job in jobs):
        return f"running: a tile was recorded {show.duration(time.time() - found.status.seen_at)} ago"
    if phase == Phase.NO_PLAN:
        return "not planned: no job is left that plans it"
    if phase == Phase.CANCELLED:
        return "cancelled: no job is left"
    if phase == Phase.UNKNOWN:
        return "unknown: SLURM does not say whether there are jobs"
    if phase == Phase.STOPPED:
        return "stopped: no job is left" if found.live.known else "stopped: nobody is seen at work"
    if phase == Phase.NOT_BEGUN:
        return "not begun: no job, and no tile so far"
    return str(phase)


def why(found: Progress | Unplanned) -> str:
    """Why nothing came of its jobs, and where it is told; "" where that is not known, or in the ledger."""
    return f"{found.why.error}\nlog {show.path(found.why.log)}" if found.why else ""


def _job(jobs: Sequence[LiveJob], kind: str) -> str:
    """What the job of this kind does now, first one that runs."""
    ours = [job for job in jobs if job.kind == kind]
    job = next((job for job in ours if job.running), ours[0])
    return f"{job.step} (job {job.id}) runs on {job.hosts}" if job.running else _waits(job, jobs)


def _waits(job: LiveJob, jobs: Sequence[LiveJob]) -> str:
    """What a job waits for."""
    from medhpc.jobs.live import KINDS

    name = f"{job.step} (job {job.id}) waits"
    before = [other for other in jobs if KINDS.index(other.kind) < KINDS.index(job.kind)]
    if job.reason == "Dependency" and before:
        steps = dict.fromkeys(other.step for other in before)
        return f"{name} for {', '.join(steps)}"
    return f"{name} ({job.reason})" if job.reason not in ("", "None") else f"{name} for its turn"


def counts(found: Progress) -> str:
    """How many tiles are in which state, in one line."""
    from medhpc.jobs.progress import TileState

    status = found.status
    parts = [f"{status.done:,} of {status.total:,} tiles done"]
    others = (TileState.RUNNING, TileState.WAITING)
    parts += [f"{count:,} {each.name.lower()}" for each in others if (count := found.count(each))]
    return ", ".join([*parts, *([f"{status.failed:,} failed"] if status.failed else [])])


# --- what to do next -----------------------------------------------------------------------------


def advice(found: View) -> list[Advice]:
    """What can be done next, the best first."""
    from medhpc.jobs.progress import Overview, Progress

    if found.at_work:
        place = found.folder if isinstance(found, Overview) else found.run
        return [Advice(words="wait; to look on:", command=f"medhpc status {show.word(place)} --watch")]
    if isinstance(found, Progress):
        return _advice_on_run(found)
    if isinstance(found, Overview):
        return [Advice(words=_again(found))]
    again = "give the medhpc submit command of its volume again"
    if found.why:
        return [Advice(words=f"mend that, then {again}")]
    return [Advice(words=f"look into {show.path(found.log)}, then {again}" if found.log else again)]


def _advice_on_run(found: Progress) -> list[Advice]:
    from medhpc.jobs.progress import Phase

    run, phase = show.word(found.run), found.phase
    if phase == Phase.CLEANED:
        return [Advice(words="nothing: plan and ledger stand; another result needs a new run")]
    if phase == Phase.READY:
        return [Advice(words="nothing; to remove its tiles:", command=f"medhpc clean {run}")]
    submitted = _submitted(found.run)
    if submitted:
        return [Advice(words="mend that, then:" if found.why else "", command=submitted)]
    if found.status.complete:
        return [Advice(command=f"medhpc stitch {run} OUT")]
    here = f"medhpc infer {run}"
    if not on_login_node():
        return [Advice(command=here)]
    return [Advice(command=f"medhpc submit {run} --out OUT"), Advice(words="or on this machine:", command=here)]


def _again(found: Overview) -> str:
    from medhpc.jobs.progress import Phase, Progress

    left = [run for run in found.runs if run.phase not in (Phase.READY, Phase.CLEANED)]
    if not left:
        return "nothing: all results are there"
    again = f"the same medhpc submit ... --out-dir {show.word(found.folder)} again: it does what is missing"
    if any(run.why for run in left):
        return f"mend what failed, then {again}"
    logs = [run.log for run in left if not isinstance(run, Progress) and run.log]
    failed = [run.run for run in left if isinstance(run, Progress) and run.status.failed]
    if logs:
        return f"look into {show.path(logs[0])}, then {again}"
    return f"medhpc status {show.word(failed[0])} says why tiles failed; then {again}" if failed else again


def on_login_node() -> bool:
    """Whether jobs can be submitted from here, and this is none."""
    return shutil.which("sbatch") is not None and "SLURM_JOB_ID" not in os.environ


def _submitted(run: str) -> str:
    """The command that submitted a run last, to be given again; "" where none did."""
    from medhpc.jobs import submissions

    for submission in reversed(submissions(run)):
        for step, target in submission.targets_of("stitch"):
            if Path(target.run) == Path(run).resolve():
                table = ["--objects", target.objects] if target.objects else []
                words = [run, "--out", target.out, *step.options, *table]
                return " ".join(["medhpc submit", *map(show.word, words)])
    return ""


def next_lines(found: View) -> dict[str, str]:
    """The advice as a field; each command on a line of its own."""
    return {"next": "\n".join(line for each in advice(found) for line in (each.words, each.command) if line)}


# --- jobs ----------------------------------------------------------------------------------------


def jobs_table(live: Live, most: int) -> dict[str, str]:
    """What is known of jobs, as a field; those that run first."""
    if not live.known:
        return {"jobs": f"unknown: {live.note}"} if live.note else {}
    jobs = sorted(live.jobs, key=lambda job: not job.running)
    if not jobs:
        return {}
    age = time.time() - live.asked_at
    lines = [_counted(jobs) + (f", as SLURM said {show.duration(age)} ago" if age >= OLD else "")]
    if most:
        lines.append(show.table([_row(job) for job in jobs[:most]]))
    if most and len(jobs) > most:
        lines.append(f"and {len(jobs) - most} more")
    if any(job.by_hand for job in jobs):
        lines.append("submitted by hand: which tiles they are at is not known")
    return {"jobs": "\n".join(lines)}


def _row(job: LiveJob) -> dict[str, str]:
    return {"job": job.id, "step": job.step, "state": job.state, "on": job.hosts or job.reason}


def _counted(jobs: Iterable[LiveJob]) -> str:
    """How many run and how many wait; of an array that waits, all tasks are one."""
    running = [job.running for job in jobs]
    told = {"running": sum(running), "waiting": len(running) - sum(running)}
    return ", ".join(f"{count} {name}" for name, count in told.items() if count)
