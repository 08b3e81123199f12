"""Files that are either whole or absent, also after a kill, a crash or a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medhpc.errors import DiskFull, NoPermission, RunBusy


def write_durably(path: Path, content: bytes | memoryview, aside: Path | None = None) -> None:
    """Write `content` beside `path` (or into the folder `aside`), sync it, rename it into place, sync the folder.

    Raises
    ------
    DiskFull, NoPermission
        `path` is as it was before.
    """
    partial = (aside or path.parent) / f"{path.name}.{partial_suffix()}"
    with room_and_rights(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write_all(file, memoryview(content))
            os.replace(partial, path)
        except BaseException:
            with suppress(FileNotFoundError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def partial_suffix() -> str:
    """Suffix of a file that is still being written: tells which process of which host does it."""
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}.partial"


def sweep_partials(folder: Path) -> None:
    """Remove partial files that processes of this host left when they died."""
    host = socket.gethostname()
    for partial in folder.glob(f"*.{host}.*.partial"):
        process = int(partial.name.split(".")[-3])
        if not _is_alive(process):
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room_and_rights(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk or a forbidden path into our own, naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no room left for {path}; what is done is kept: make room and run the command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NoPermission(
                f"{path} cannot be written ({error.strerror}); choose a folder that you may write"
            ) from error
        raise


def check_room(folder: Path, needed: int, what: str, otherwise: str) -> int:
    """Bytes that are free where `folder` lies; `what` is going to take up to `needed` of them.

    Raises
    ------
    DiskFull
        They are fewer; says what to do `otherwise` than to make room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFull(
            f"{folder}: {free / 1e9:.3g} GB are free, {what} may take {needed / 1e9:.3g} GB; make room, or {otherwise}"
        )
    return free


@contextmanager
def alone_at(lock: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file for a block, so that one process at a time is in it; on file systems without locks, any number.

    Raises
    ------
    RunBusy
        Another process holds it; says `otherwise`.
    """
    with room_and_rights(lock.parent):
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusy(otherwise) from None
        except OSError:
            pass  # no locks here
        yield
    finally:
        os.close(descriptor)


def _write_all(file: int, content: memoryview) -> None:
    try:
        while content:
            content = content[os.write(file, content) :]
        os.fsync(file)
    finally:
        os.close(file)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
