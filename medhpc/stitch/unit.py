"""One unit of a stitch on a worker of a Dask cluster: plain values go in, plain values come out."""

from __future__ import annotations

import functools
import socket

import medhpc
from medhpc import errors
from medhpc.errors import MedhpcError, NoWorkers
from medhpc.run.durable import room_and_rights
from medhpc.stitch.order import Order
from medhpc.stitch.work import Work, work_of


def do_unit(order: str, version: str, stitch: str, step: str, number: int) -> tuple[str, str] | None:
    """Do one unit in this process.

    Parameters
    ----------
    order : str
        As :meth:`Order.to_json` writes it.
    version : str
        Of the medhpc that gives the order.
    stitch : str
        Stands for this call of :func:`medhpc.stitch.stitch`: what an earlier one found may be read anew.
    step, number
        As :meth:`Work.do` takes them.

    Returns
    -------
    (class, message) or None
        Of an error that a user can mend.
    """
    try:
        if version != medhpc.__version__:
            raise NoWorkers(
                f"a worker on {socket.gethostname()} has medhpc {medhpc.__version__}, here is {version}; "
                "start workers with the same medhpc"
            )
        work = _work_of(order, stitch)
        with room_and_rights(work.scratch.folder):
            work.do(step, number)
    except MedhpcError as error:
        return type(error).__name__, str(error)
    return None


def forget() -> None:
    """Give back the memory of what the steps have in common."""
    _work_of.cache_clear()


def raised(outcome: tuple[str, str]) -> MedhpcError:
    """The error that :func:`do_unit` told."""
    kind, message = outcome
    error: MedhpcError = getattr(errors, kind)(message)
    return error


@functools.lru_cache(maxsize=1)
def _work_of(order: str, stitch: str) -> Work:
    """What the units of a stitch have in common, such as the table of objects, is found once per process."""
    parsed = Order.from_json(order)
    work = work_of(parsed)
    if not work.scratch.is_open:
        raise NoWorkers(
            f"a worker on {socket.gethostname()} does not see {work.scratch.folder}; "
            "the run must lie on a file system that all workers share"
        )
    return work
