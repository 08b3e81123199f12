"""What an unfinished stitch has done so far, and whose turn it is.

What a stitch works on is named after what it was asked for: its folder here, and its stage beside OUT. A worker that
outlives its stitch (killed, cut off from the network) can therefore never write into what another request makes; and
it makes no folder anew, so that nothing of it is left once its stitch has ended.
"""

from __future__ import annotations

import fcntl
import glob
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medhpc.errors import BadOption
from medhpc.run.durable import partial_suffix, room_and_rights, sweep_partials, write_durably
from medhpc.run.shards import DurableStore


class Scratch:
    """A folder of finished steps; each is written whole or not at all.

    Parameters
    ----------
    root : Path
        Where all stitches of a run keep theirs.
    result : str
        What stands for OUT; one stitch at a time works for it.
    request : str
        What stands for everything that the result depends on.
    """

    def __init__(self, root: Path, result: str, request: str) -> None:
        self.folder = root / f"{result}-{request}"
        self._lock = root / f"{result}.lock"  # never removed: who waits must not get the lock of a file that is gone
        self._all = f"{result}-*"

    def has(self, step: str) -> bool:
        """Whether a step is finished."""
        return (self.folder / step).exists()

    def save(self, step: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Finish a step by its arrays."""
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        self._finish(step, content.getbuffer())

    def load(self, step: str, *names: str) -> dict[str, np.ndarray]:
        """These arrays of a finished step."""
        with np.load(self.folder / step, allow_pickle=False) as file:
            return {name: file[name] for name in names}

    def mark(self, step: str) -> None:
        """Finish a step whose result lies elsewhere."""
        self._finish(step, b"")

    def forget(self, *patterns: str) -> None:
        """Let finished steps be done again."""
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                path.unlink()

    @property
    def is_open(self) -> bool:
        """Whether the stitch that this belongs to goes on (as far as this machine can see)."""
        return self.has("request.json")

    @contextmanager
    def locked(self, stage: Path) -> Iterator[None]:
        """Keep other stitches of the same result out while the block runs; remove the folder when it ends well.

        What another request has left unfinished is removed first. `stage` is what the result is made in.

        Raises
        ------
        BadOption
            Another process is at it.
        """
        with room_and_rights(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _lock(lock, self.folder)
            with room_and_rights(self.folder):
                self._begin(stage)
            yield
            discard(self.folder)
        finally:
            os.close(lock)

    def _begin(self, stage: Path) -> None:
        for other in self.folder.parent.glob(self._all):
            if other != self.folder:
                _discard_stage(other)
                shutil.rmtree(other)
        sweep_discarded(stage.parent)
        if not self.is_open:
            write_durably(self.folder / "request.json", json.dumps({"stage": str(stage)}).encode())
        sweep_partials(self.folder)

    def _finish(self, step: str, content: bytes | memoryview) -> None:
        _require(self.folder)
        write_durably(self.folder / step, content)


class FencedStore(DurableStore):
    """Never makes its folder `aside` anew: where that is gone, the stitch has ended without this writer."""

    def _commit(self, key: str, content: memoryview) -> None:
        assert self.aside is not None
        _require(self.aside)
        super()._commit(key, content)


def discard(folder: Path) -> None:
    """Remove a folder at once: half of it could be taken for what is done."""
    discarded = folder.with_name(f"{folder.name}.{partial_suffix()}")
    folder.rename(discarded)
    shutil.rmtree(discarded)


def sweep_discarded(folder: Path) -> None:
    """Remove what a kill has left of folders like this one."""
    for discarded in folder.parent.glob(f"{glob.escape(folder.name)}.*.partial"):
        shutil.rmtree(discarded)


def _discard_stage(scratch: Path) -> None:
    """Remove the stage of an unfinished stitch, if it stands outside its folder."""
    request = scratch / "request.json"
    stage = Path(json.loads(request.read_text())["stage"]).parent if request.exists() else scratch
    if stage != scratch and stage.name.endswith(".partial"):
        sweep_discarded(stage)
        if stage.exists():
            discard(stage)


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone: the stitch that wrote here has ended")


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadOption(f"another process stitches the same result (see {folder}); wait for it, or end it") from None
    except OSError:  # a file system without locks: nothing can be told
        return
