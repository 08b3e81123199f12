"""What an unfinished stitch has done so far, and whose turn it is."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medhpc.errors import BadOption
from medhpc.run.durable import partial_suffix, room_and_rights, sweep_partials, write_durably


class Scratch:
    """A folder of finished steps; each is written whole or not at all.

    Parameters
    ----------
    folder : Path
        Of one result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, step: str) -> bool:
        """Whether a step is finished."""
        return (self.folder / step).exists()

    def save(self, step: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Finish a step by its arrays."""
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_durably(self.folder / step, content.getbuffer())

    def load(self, step: str, *names: str) -> dict[str, np.ndarray]:
        """These arrays of a finished step."""
        with np.load(self.folder / step, allow_pickle=False) as file:
            return {name: file[name] for name in names}

    def mark(self, step: str) -> None:
        """Finish a step whose result lies elsewhere."""
        write_durably(self.folder / step, b"")

    def forget(self, *patterns: str) -> None:
        """Let finished steps be done again."""
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                path.unlink()

    @contextmanager
    def locked(self, request: Mapping[str, Any]) -> Iterator[None]:
        """Keep other stitches of the same result out while the block runs; remove the folder when it ends well.

        What another `request` has left unfinished is removed first.

        Raises
        ------
        BadOption
            Another process is at it.
        """
        with room_and_rights(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, and never removed: who waits for a lock must not get that of a file that is gone.
            lock = os.open(self.folder.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _lock(lock, self.folder)
            with room_and_rights(self.folder):
                self._begin(json.dumps(request, indent=1).encode())
            yield
            self._discard()
        finally:
            os.close(lock)

    def _begin(self, request: bytes) -> None:
        for discarded in self.folder.parent.glob(f"{self.folder.name}.*.partial"):
            shutil.rmtree(discarded)
        file = self.folder / "request.json"
        if not (file.exists() and file.read_bytes() == request):
            if self.folder.exists():
                self._discard()
            write_durably(file, request)
        sweep_partials(self.folder)

    def _discard(self) -> None:
        """Remove the folder at once: half of it could be taken for what is done."""
        discarded = self.folder.with_name(f"{self.folder.name}.{partial_suffix()}")
        self.folder.rename(discarded)
        shutil.rmtree(discarded)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadOption(f"another process stitches the same result (see {folder}); wait for it, or end it") from None
    except OSError:  # a file system without locks: nothing can be told
        return
