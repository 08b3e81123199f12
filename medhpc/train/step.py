"""One step of a training: the loss of its patches, gradients over all ranks, new weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medhpc.nets.msd import MSD
from medhpc.ranks.group import ALONE, Ranks
from medhpc.train.checkpoint import State
from medhpc.train.examples import Patch
from medhpc.train.truth import IGNORE


def take_step(
    state: State,
    part: Iterable[Patch],
    dtype: torch.dtype,
    object_weight: float = 1.0,
    batch: int = 1,
    ranks: Ranks = ALONE,
) -> float:
    """Learn from the patches of a step; returns their mean loss.

    Parameters
    ----------
    state : State
    part : iterable of (image, targets)
        Of the patches, those of this rank: (channels, z, y, x) float32, normalised, and (z, y, x) uint8, of which at
        least one voxel is not `IGNORE`.
    dtype : torch.dtype
        Of the convolutions; weights and sums stay float32.
    object_weight : float
        What a voxel of an object weighs in the loss, one of the background being 1.
    batch : int
        Patches of all ranks.
    ranks : Ranks
    """
    state.optimizer.zero_grad()
    mean = 0.0
    for image, targets in part:
        loss = loss_of(state.network, image, targets, dtype, object_weight) / batch
        state.scaler.scale(loss).backward()
        mean += loss.item()
    mean = add_up(state.network, mean, ranks)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    return mean


def loss_of(
    network: MSD, image: np.ndarray, targets: np.ndarray, dtype: torch.dtype, object_weight: float = 1.0
) -> Tensor:
    """Mean cross-entropy over the voxels that count, each with the weight of its class."""
    device = next(network.parameters()).device
    x = torch.from_numpy(image).to(device)  # (c, z, y, x)
    y = torch.from_numpy(targets).to(device, torch.long)  # (z, y, x)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        scores = scores_of(network, x)  # (classes, z, y, x)
    weights = torch.full((len(scores),), object_weight, device=device)
    weights[0] = 1.0
    return F.cross_entropy(scores.float()[None], y[None], weights, ignore_index=IGNORE)


def add_up(network: MSD, loss: float, ranks: Ranks) -> float:
    """Add up gradients over all ranks, in place, and parts of the loss."""
    if ranks.size == 1:
        return loss
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    numbers = [gradient.numel() for gradient in gradients]
    sums = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([loss])])
    *totals, loss_in_all = ranks.total(sums).split([*numbers, 1])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view_as(gradient))
    return loss_in_all.item()


def scores_of(network: MSD, image: Tensor) -> Tensor:
    """(c, z, y, x) -> (classes, z, y, x); for a 2D network, the planes are a batch."""
    if network.ndim == 3:
        return network(image[None])[0]
    return network(image.transpose(0, 1)).transpose(0, 1)
