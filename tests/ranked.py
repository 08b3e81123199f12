"""Functions on several ranks: processes of this machine that meet as torchrun's do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from medhpc.ranks.group import joined

PROCESSES = multiprocessing.get_context("forkserver")
# Takes seconds, once; who is forked from it has them. Optimisers import torch._dynamo when they are first used.
PROCESSES.set_forkserver_preload(["torch", "torch._dynamo", "medhpc.dip.denoise", "medhpc.cli.dip", "pytest"])


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(ranks, *arguments)` returns on each; both must be importable, or can be pickled."""
    port = free_port()
    ends, processes = [], []
    for rank in range(size):
        here, there = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=_one, args=(there, rank, size, port, function, arguments))
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    try:
        answers = [_answer(end) for end in ends]
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # who waits for others as a test is broken off
    failed = [text for failure, text in answers if failure]
    assert not failed, "\n".join(failed)
    return [value for _, value in answers]


def _one(end: Any, rank: int, size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment(rank, size, port))
    try:
        with joined("cpu") as ranks:
            end.send_bytes(pickle.dumps((False, function(ranks, *arguments))))  # not by files of torch
    except BaseException:
        end.send_bytes(pickle.dumps((True, f"rank {rank} of {size}:\n{traceback.format_exc()}")))


def _answer(end: Any) -> tuple[bool, Any]:
    try:
        return pickle.loads(end.recv_bytes())
    except EOFError:
        return True, "a rank was killed"


# --- commands ------------------------------------------------------------------------------------


class Command:
    """A command on one of several ranks, which torchrun would have started; what it prints goes to files."""

    def __init__(self, folder: Path, variables: dict[str, str], main: Callable[..., Any], words: tuple[str, ...]):
        self.printed = [folder / f"{name}-{variables['RANK']}" for name in ("out", "err")]
        self.process: ForkServerProcess = PROCESSES.Process(target=_be, args=(self.printed, variables, main, words))
        self.process.start()

    def ended(self) -> tuple[int | None, str, str]:
        """Exit code, and what it printed."""
        self.process.join(120)
        out, err = (path.read_text() for path in self.printed)
        return self.process.exitcode, out, err


@contextmanager
def commands(folder: Path, size: int, main: Callable[..., Any], *words: str) -> Iterator[list[Command]]:
    """``main(words)`` on several ranks; who is still there at the end of the block, as a test fails, is killed."""
    port = free_port()
    started = [Command(folder, environment(rank, size, port), main, words) for rank in range(size)]
    try:
        yield started
    finally:
        for command in started:
            command.process.kill()
            command.process.join()


def _be(printed: list[Path], variables: dict[str, str], main: Callable[..., Any], words: tuple[str, ...]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), printed, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(variables)
    sys.argv = ["medhpc", *words]
    main()


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
