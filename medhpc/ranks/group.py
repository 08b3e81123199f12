"""The ranks that compute together, over ``torch.distributed``: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from medhpc.errors import MedhpcError, RankLost, ToldElsewhere
from medhpc.ranks.launch import Launch, launched

PATIENCE = datetime.timedelta(minutes=30)
"""For an answer of the others; one that is dead is noticed at once between CPUs."""


class Ranks:
    """The ranks, and which of them this process is; one alone, unless told otherwise.

    Attributes
    ----------
    rank, size : int
    device : str
        Of this rank.
    waited : float
        Seconds spent so far in talking to the others, and in waiting for them.
    sent, received : int
        Bytes of the exchanges so far.
    exchanges : int
        So far.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "auto") -> None:
        self.rank, self.size, self.device = rank, size, device
        self.waited, self.sent, self.received, self.exchanges = 0.0, 0, 0, 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    @property
    def below(self) -> int | None:
        """The rank whose slab ends where ours begins."""
        return self.rank - 1 if self.rank else None

    @property
    def above(self) -> int | None:
        """The rank whose slab begins where ours ends."""
        return self.rank + 1 if self.rank + 1 < self.size else None

    def total(self, sums: Tensor) -> Tensor:
        """Add up a tensor over all ranks, in place, to the same bits on each; not for autograd."""
        if self.size > 1:
            with self._talking():
                dist.all_reduce(sums)
        return sums

    def any(self, here: bool) -> bool:
        """Whether it is so on one of them."""
        return bool(self.total(torch.tensor(int(here))).item()) if self.size > 1 else here

    def meet(self) -> None:
        """Wait until all have come here."""
        self.any(False)

    def most(self, number: int) -> int:
        """The largest of their numbers."""
        return max(int(one) for one in self.everyones(torch.tensor(number)))

    def from_first(self, number: int) -> int:
        """What the first rank says."""
        if self.size == 1:
            return number
        said = torch.tensor(number)
        with self._talking():
            dist.broadcast(said, 0)
        return int(said.item())

    def numbers_of_first(self, numbers: Sequence[float]) -> list[float]:
        """The first rank's numbers; the others give as many, of any value."""
        said = torch.tensor(numbers, dtype=torch.float64)
        if self.size > 1:
            with self._talking():
                dist.broadcast(said, 0)
        return [float(number) for number in said.tolist()]

    def everyones(self, part: Tensor) -> list[Tensor]:
        """The tensors of all ranks, which have one shape."""
        if self.size == 1:
            return [part]
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with self._talking():
            dist.all_gather(parts, part)
        return parts

    def everyones_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """As many numbers of each rank."""
        return [part.tolist() for part in self.everyones(torch.tensor(numbers, dtype=torch.float64))]

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Callable[[], None]:
        """Begin to send tensors to ranks and to fill others by them; what is returned waits until that is done."""
        sent = [(tensor.contiguous(), rank) for tensor, rank in sends]
        operations = [dist.P2POp(dist.isend, tensor, rank) for tensor, rank in sent]
        operations += [dist.P2POp(dist.irecv, tensor, rank) for tensor, rank in receives]
        self._count([tensor for tensor, _ in sent], [tensor for tensor, _ in receives])
        with self._talking():
            works = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            with self._talking():
                for work in works:
                    work.wait()
            sent.clear()  # it had to live until now

        return wait

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that fails on all ranks where it fails on one: the first of those tells why, the others are silent.

        Nobody leaves it before all have come to its end.
        """
        failure: MedhpcError | None = None
        try:
            yield
        except MedhpcError as error:
            failure = error
        flags = self.everyones(torch.tensor(int(failure is not None)))
        failed = [rank for rank, flag in enumerate(flags) if flag]
        if failure is not None and failed[0] == self.rank:
            raise failure
        if failed:
            raise ToldElsewhere(f"rank {failed[0]} of {self.size} failed, and says why")

    def _count(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        self.exchanges += bool(sent or received)
        self.sent += sum(tensor.nbytes for tensor in sent)
        self.received += sum(tensor.nbytes for tensor in received)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Count the seconds, and turn what a broken connection raises into our own error."""
        began = time.perf_counter()
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLost(
                f"rank {self.rank} of {self.size}: another rank has ended or cannot be reached (what it printed says "
                "why); what is done is kept: start the same command again to go on"
            ) from error
        finally:
            self.waited += time.perf_counter() - began


ALONE = Ranks()


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The ranks that this process was started with, for a block.

    Parameters
    ----------
    device : str
        ``auto`` or ``cuda`` give each rank of a node a GPU of its own, where there are GPUs.

    Raises
    ------
    RankLost
        They do not find each other.
    """
    launch = launched()
    if launch is None:
        yield Ranks(device=device)
        return
    device = _device_of(launch, device)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(torch.device(device))
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=launch.meeting,
            rank=launch.rank,
            world_size=launch.size,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise RankLost(
            f"rank {launch.rank} of {launch.size} cannot meet the others at {launch.meeting}: {words}"
        ) from error
    try:
        yield Ranks(launch.rank, launch.size, device)
    finally:
        dist.destroy_process_group()


def _device_of(launch: Launch, name: str) -> str:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{launch.local % torch.cuda.device_count()}"  # SLURM may show each of them its own only
    return "cpu" if name == "auto" else name
