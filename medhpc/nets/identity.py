"""The network that changes nothing: for testing pipelines, and for measuring them."""

from __future__ import annotations

from torch import Tensor, nn

from medhpc.nets.card import NetworkCard


class Identity(nn.Module):
    """Gives back what it gets: any channels, any shape, any dtype, without normalisation."""

    in_channels: int | None = None
    out_channels: int | None = None
    ndim = 3
    receptive_radius = (0, 0, 0)
    stride = (1, 1, 1)
    minimum_shape = (1, 1, 1)
    takes_raw = True

    def __init__(self) -> None:
        super().__init__()
        self.card = NetworkCard()

    def forward(self, x: Tensor) -> Tensor:
        """Return the input itself."""
        return x
