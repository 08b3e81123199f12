"""Jobs in the queue, from what `squeue` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEGIN, SEPARATOR = "\x1e", "\x1f"  # of a record and between its fields: in names and comments, nobody types them
SQUEUE_FORMAT = BEGIN + SEPARATOR.join(("%i", "%F", "%K", "%T", "%N", "%r", "%P", "%j", "%k"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job in the queue.

    Attributes
    ----------
    id : str
        ``123``, ``123_7`` for a task of an array, ``123_[5-9%2]`` for all tasks of an array that still wait.
    array : str
        The array that it belongs to, ``123``; of a job outside of arrays, its own id.
    indices : tuple of int
        Which tasks of the array; empty outside of arrays.
    state : str
        As SLURM spells it in full: ``PENDING``, ``RUNNING``, ``COMPLETING`` ...
    hosts : str
        Where it runs; empty while it waits.
    reason : str
        Why it waits.
    """

    id: str
    array: str
    indices: tuple[int, ...]
    state: str
    hosts: str
    reason: str
    partition: str
    name: str
    comment: str


def parse_squeue(text: str) -> list[Job]:
    """Jobs of ``squeue --noheader --format=SQUEUE_FORMAT``; line breaks in names and comments are no matter.

    Raises
    ------
    ValueError
        The answer was cut off, or is in another format.
    """
    preamble, *records = text.split(BEGIN)
    if preamble.strip():
        raise ValueError(f"'{preamble.strip()[:60]}' is no line of squeue")
    if not all(record.endswith("\n") for record in records):
        raise ValueError("its last line has no end")
    return [_job(record.removesuffix("\n").split(SEPARATOR, 8)) for record in records]


def _job(fields: Sequence[str]) -> Job:
    if len(fields) != 9:
        raise ValueError(f"{len(fields)} fields of a job where squeue prints 9")
    id, array, indices, state, hosts, reason, partition, name, comment = fields
    return Job(
        id=id,
        array=array,
        indices=parse_indices(indices),
        state=state,
        hosts=hosts,
        reason=reason,
        partition=partition,
        name=name,
        comment="" if comment == "(null)" else comment,
    )


def parse_indices(text: str) -> tuple[int, ...]:
    """Tasks of an array as SLURM abbreviates them: ``0-3,8,10-20:5%2`` (``%2``: how many at a time).

    Raises
    ------
    ValueError
        Also where SLURM left some out (``0,7,...``).
    """
    text = text.partition("%")[0]
    if text in ("N/A", ""):
        return ()
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        low, dash, high = span.partition("-")
        found += range(int(low), int(high if dash else low) + 1, int(step or 1))
    return tuple(found)
