"""Functions on several ranks: processes of this machine that meet as torchrun's do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from medhpc.ranks.group import joined

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "medhpc.dip.denoise"])  # for seconds; those that are forked do not wait


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
    answers = [_answer(end) for end in ends]
    for process in processes:
        process.join()
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
