"""An MS-D network over a block on a GPU: its buffers, and the kernels over them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from medhpc.engine.gpu import kernels
from medhpc.engine.gpu.schedule import LANES, Head, Push, schedule_of
from medhpc.engine.gpu.weights import columns_of, head_weights, push_weights, taps_of
from medhpc.geometry import Index
from medhpc.nets import MSD

PITCH = 16
"""Rows start at multiples of so many voxels: sums are read and written in whole sectors."""
CHUNK = 64
"""Planes that a program of the push kernel completes; it reads two more."""
REGISTERS = 128
"""Of a thread, so that two programs of eight warps share a multiprocessor; nothing is spilled for it."""
FUSED = {"enable_fp_fusion": True}
"""Multiply-adds; named, since Triton 3.9 warns that it will do without where nobody says so."""
LARGEST = float(kernels.TOO_LARGE.value)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How the push kernel is cut to size."""

    rows: int = 4
    columns: int = 32
    warps: int = 8
    stages: int = 3


class TooLarge(Exception):  # noqa: N818 - it names a state that the caller handles
    """Numbers above what float16 holds."""


class GpuNetwork:
    """A network in the kernels; its weights are copied.

    Parameters
    ----------
    network : MSD
    device : torch.device
        A CPU where Triton interprets.
    dtype : torch.dtype
        Of maps and weights: float16 or float32. Sums, biases and the last layer are float32.
    tile : Tile, optional
    """

    def __init__(self, network: MSD, device: torch.device, dtype: torch.dtype, tile: Tile | None = None) -> None:
        self.network, self.device, self.dtype = network, device, dtype
        self.tile = tile or Tile()
        self.schedule = schedule_of(network, 32 // taps_of(network))
        self._tensors = [self._packed(step) for step in self.schedule.steps]
        self._flag = torch.zeros(1, dtype=torch.int32, device=device)
        self._head_bias = network.head_bias.detach().to(device, torch.float32)

    def bytes(self, shape: Index) -> int:
        """Memory that a block (z, y, x) takes while it is evaluated, with its scores and without the block."""
        numbers = LANES * self.schedule.blocks * self.dtype.itemsize
        numbers += 4 * (self.schedule.sums + self.network.out_channels)
        return numbers * math.prod(_pitched(shape))

    def scores(self, block: Tensor) -> Tensor:
        """Scores (outputs, z, y, x) of a block (channels, z, y, x), whose windows are taken already.

        Raises
        ------
        TooLarge
            In float16 only.
        """
        depth, height, length = block.shape[1:]
        space = _pitched((depth, height, length))
        ring = torch.zeros((self.schedule.blocks, *space, LANES), dtype=self.dtype, device=self.device)
        sums = torch.empty((max(1, self.schedule.sums), *space), dtype=torch.float32, device=self.device)
        scores = torch.empty((self.network.out_channels, *space), dtype=torch.float32, device=self.device)
        self._flag.zero_()
        for channel, numbers in enumerate(block):
            ring[channel // LANES, :, :, :length, channel % LANES] = numbers
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():  # Triton's is the current
            for step, tensors in zip(self.schedule.steps, self._tensors, strict=True):
                if isinstance(step, Push):
                    self._push(step, tensors, ring, sums, length)
                else:
                    self._head(step, tensors, ring, scores)
        if self._checked and (self._flag.item() or block.abs().max() > LARGEST):
            raise TooLarge
        return scores[..., :length]

    @property
    def _checked(self) -> bool:
        return self.dtype == torch.float16

    def _packed(self, step: Push | Head) -> tuple[Tensor, ...]:
        """Weights of a step; of a push also its places, biases and lanes."""
        if isinstance(step, Head):
            return (head_weights(self.network, self.schedule, step).to(self.device, torch.float32),)
        biases = torch.cat([bias.detach() for bias in self.network.biases])
        own = list(step.targets[: step.own])
        slots = self.schedule.blocks * LANES
        lanes = [(self.network.in_channels + m) % slots for m in own]
        return (
            push_weights(self.network, self.schedule, step).to(self.device, self.dtype),
            torch.tensor(step.places, dtype=torch.int32, device=self.device),
            biases[own].to(self.device, torch.float32),
            torch.tensor(lanes, dtype=torch.int32, device=self.device),
        )

    def _push(self, push: Push, tensors: tuple[Tensor, ...], ring: Tensor, sums: Tensor, length: int) -> None:
        tile, taps, s = self.tile, taps_of(self.network), push.dilation
        _, depth, height, pitch, _ = ring.shape
        step = s if taps == 3 else 1
        across = -(-length // tile.columns)
        tall = -(-height // (tile.rows * s)) * s
        chunks = math.ceil(depth / (step * CHUNK))
        blocks = self.schedule.ring_blocks(push.first, push.stop)
        kernels.push[(across * tall * step * chunks,)](
            ring,
            sums,
            *tensors,
            self._flag,
            depth,
            height,
            length,
            pitch,
            s,
            blocks[0],
            len(blocks),
            self.schedule.blocks,
            len(push.targets),
            push.own,
            CHUNK,
            TAPS=taps,
            N=columns_of(len(push.targets), self.network),
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            FRESH=push.fresh,
            REFLECT=self.network.padding == "reflect",
            CHECKED=self._checked,
            num_warps=tile.warps,
            num_stages=tile.stages,
            maxnreg=REGISTERS,
            **FUSED,
        )

    def _head(self, head: Head, tensors: tuple[Tensor, ...], ring: Tensor, scores: Tensor) -> None:
        voxels, tile = scores[0].numel(), 128
        blocks = self.schedule.ring_blocks(head.first, head.stop)
        kernels.head[(-(-voxels // tile),)](
            ring,
            scores,
            *tensors,
            self._head_bias,
            voxels,
            blocks[0],
            len(blocks),
            self.schedule.blocks,
            self.network.out_channels,
            M=tile,
            FRESH=head.fresh,
            **FUSED,
        )


def _pitched(shape: Index) -> Index:
    """The shape of a block in memory."""
    z, y, x = shape
    return z, y, -(-x // PITCH) * PITCH
