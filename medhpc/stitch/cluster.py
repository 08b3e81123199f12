"""The units of a stitch on a Dask cluster: a running one, or one that is started for it (:mod:`.workers`).

The driver keeps everything that decides (ledger, lock, order of the steps); workers do units, and the files that these
finish are the only truth. A worker that is lost costs the units that it was at: Dask gives them to others.

Whoever may talk to a Dask scheduler or worker may run code as its user. What is started here therefore demands
certificates, made for one stitch and known to its processes only; processes of this machine listen on its loopback
only. A scheduler at an ADDRESS is as safe as its owner made it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medhpc
from medhpc.errors import NoWorkers
from medhpc.run import Run
from medhpc.stitch.order import Order
from medhpc.stitch.unit import do_unit, forget, raised
from medhpc.stitch.where import CONNECT, Where
from medhpc.stitch.workers import started
from medhpc.stitch.write import Do

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK = 5.0  # seconds between two looks at whether there are workers
AGAIN = 1.0  # seconds after which a lost unit is looked at again
PATIENCE = 120.0  # seconds without any worker


@contextmanager
def on_cluster(where: Where, order: Order, scratch: Path) -> Iterator[Do]:
    """Have units done by workers while the block runs.

    Parameters
    ----------
    where : Where
    order : Order
    scratch : Path
        Folder of this stitch, that the workers see too.

    Raises
    ------
    NoWorkers
        No scheduler there, or no worker is left.
    """
    import dask
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    # No pages on what workers do: they would need no certificate.
    pages: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    patience = {"distributed.comm.timeouts.connect": f"{CONNECT} s"}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(patience if where.kind == "address" else patience | pages))
        for name in ("distributed", "asyncio"):
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL, root=name))
        cluster, check = stack.enter_context(started(where, scratch, comment(Run(order.run))))
        try:
            client = stack.enter_context(Client(cluster, timeout=CONNECT, set_as_default=False))
        except OSError as error:
            raise NoWorkers(f"no Dask scheduler answers{where.at}; look whether it runs, and at its address") from error
        yield _doing(client, where, order, check)
        if where.kind == "address":
            client.run(forget, wait=False, on_error="ignore")


def comment(run: Run) -> str:
    """What jobs of workers carry, as all jobs of the run do: they are seen with them, and cancelled."""
    return f"medhpc run={run.id} step=stitch-worker"


def _doing(client: Client, where: Where, order: Order, check: Callable[[], None]) -> Do:
    text, stitch = dataclasses.replace(order, threads=where.threads).to_json(), secrets.token_hex(4)
    look = _watch(client, where, check)

    def do(step: str, numbers: Sequence[int]) -> Iterator[None]:
        finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        unit = functools.partial(do_unit, text, medhpc.__version__, stitch, step)
        futures = client.map(unit, numbers, key=[f"medhpc-{step}-{number}-{stitch}" for number in numbers])
        for future in futures:
            future.add_done_callback(finished.put)
        try:
            for _ in futures:
                future = _next(finished, look)
                _check(future, where)
                future.release()  # else it would be done again for nothing, should its worker be lost
                yield
        finally:
            client.cancel(futures)

    return do


def _next(finished: queue.SimpleQueue[Future], look: Callable[[], None]) -> Future:
    """Wait for a unit that is done, or cannot be done."""
    while True:
        try:
            future = finished.get(timeout=LOOK)
        except queue.Empty:
            look()
            continue
        if future.status != "lost":
            return future
        look()  # lost with its worker, before we heard of it: it is done again
        later = threading.Timer(AGAIN, finished.put, [future])
        later.daemon = True
        later.start()


def _check(future: Future, where: Where) -> None:
    """Raise what kept a unit from being done."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise NoWorkers(f"the Dask scheduler{where.at} is gone; what is done is kept: stitch again to go on")
    try:
        outcome = future.result()
    except KilledWorker as error:
        raise NoWorkers(
            "a slab ended several workers one after the other, perhaps for want of memory; what is done is kept: "
            "stitch again with fewer workers on a machine, or with more memory for each"
        ) from error
    except (ImportError, AttributeError) as error:
        raise NoWorkers(f"workers{where.at} cannot load medhpc ({error}); start them where it is installed") from error
    if outcome:
        raise raised(outcome)


def _watch(client: Client, where: Where, check: Callable[[], None]) -> Callable[[], None]:
    """What is called while nothing happens: it gives up where there are no workers, unless the first are in a queue."""
    queued, alone = where.kind == "slurm", time.monotonic()

    def look() -> None:
        nonlocal queued, alone
        check()
        if client.status == "running" and client.nthreads():
            queued, alone = False, time.monotonic()
        elif not queued and time.monotonic() - alone > PATIENCE:
            raise NoWorkers(
                f"no Dask worker{where.at} for {PATIENCE:.0f} s; what is done is kept: "
                "see that there are workers, and stitch again to go on"
            )

    return look
