"""The ledger: what is done, on disk, readable after any accident.

One folder, one file per writing process, one line per record: ``crc32 json``. A record is appended and synced; a line
that was torn by a kill or a full disk fails its checksum and is ignored. Records are never changed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from medhpc.run.durable import room_and_rights, sync_folder

AT_ONCE = 2**18  # bytes of a ledger file that are parsed in one call


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing that happened to one tile."""

    tile: int
    plan: str  # digest of the plan it was computed for
    digest: str = ""  # of the stored bytes; empty for a failure
    stored: int = 0  # bytes
    voxels: int = 0  # in the write box
    seconds: float = 0.0  # from read to commit
    interval: float = 0.0  # seconds since this process's commit before: what a tile costs while a task runs
    cpu: float = 0.0  # processor seconds of the process since then; 0 for its first tile
    peak_memory: int = 0  # bytes, of the process so far
    host: str = ""
    job: str = ""
    time: float = 0.0  # when it was committed, seconds since 1970
    error: str = ""  # of a failure: its class and message
    where: str = ""  # of a failure: the line of code that raised it
    traceback: str = ""  # of a failure, in the first record of its kind by a process
    lost: bool = False  # its stored bytes were found damaged: what was recorded before is void

    @property
    def line(self) -> bytes:
        """The record as it stands in the file; fields that hold their default are left out."""
        filled = {name: value for name, value in asdict(self).items() if value or name == "tile"}
        text = json.dumps(filled, separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)


def parse_lines(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The fields of the records in these lines; lines that are torn or damaged are left out."""
    sound = [text for line in lines if (text := _sound_text(line))]
    # One call for many records takes half the time of a call for each.
    records: list[dict[str, Any]] = json.loads(b"[%b]" % b",".join(sound))
    return records


def this_host() -> str:
    """The node's name as SLURM has it, else that of the machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def writer_is_gone(file: str) -> bool:
    """Whether the process that wrote a ledger file of this name is known to have ended: it ran on this machine."""
    host, process, *_ = file.rsplit("-", 3)
    if host != socket.gethostname() or not Path("/proc/self").exists():
        return False
    return not Path("/proc", process).exists()


def this_job() -> str:
    """The SLURM job (and array index) of this process, or ''."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
    index = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{job}_{index}" if job and index else job


class Ledger:
    """The records of a run.

    Parameters
    ----------
    folder : Path
        Where the files lie; it exists.
    plan : str
        Digest of the plan; records of other plans are passed over.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder = folder
        self.plan = plan
        self._file: int | None = None
        self._torn = False
        self._appending = Lock()

    def append(self, record: Record) -> None:
        """Write a record to this process's own file and sync it; threads may do so at the same time.

        Raises
        ------
        DiskFull, NoPermission
            The record is not in the ledger; the tile counts as missing.
        """
        with self._appending, room_and_rights(self.folder):
            if self._file is None:
                self._file = self._create()
            # After a half-written line, start on a new one, or both would be lost.
            line = b"\n" + record.line if self._torn else record.line
            self._torn = True
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
            self._torn = False

    def close(self) -> None:
        """Close this process's file; a later append opens a new one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def records(self) -> Iterator[dict[str, Any]]:
        """All sound records of this plan, file by file, each in the order of its writing."""
        return self._records_with(b"")

    def failures(self) -> Iterator[dict[str, Any]]:
        """Those of failures; the others, of which there may be a million, are not even parsed."""
        return self._records_with(b'"error":')

    def _records_with(self, field: bytes) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                while lines := file.readlines(AT_ONCE):
                    records = parse_lines([line for line in lines if field in line])
                    yield from (record for record in records if record["plan"] == self.plan)

    def _create(self) -> int:
        name = f"{socket.gethostname()}-{os.getpid()}-{int(time.time())}-{secrets.token_hex(3)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        file = os.open(self.folder / name, flags, 0o666)
        sync_folder(self.folder)
        return file


def _sound_text(line: bytes) -> bytes | None:
    """The JSON of a line, or None where its checksum is wrong."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return text if checksum == b"%08x" % zlib.crc32(text) else None
