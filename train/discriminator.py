"""Discriminators: rows of values in, one score a row out. They train the generator and never ship."""

import torch
from torch import Tensor, nn


class TextbookDiscriminator(nn.Module):
    """The textbook discriminator: Linear(L, 1) and a sigmoid. Returns probabilities, shape (rows,).

    Being linear, it sees only column means, so it cannot teach a generator a correlation.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.linear = nn.Linear(length, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(rows)).squeeze(1)


class ResidualDiscriminator(nn.Module):
    """A residual MLP with layer normalisation. Returns logits, shape (rows,)."""

    def __init__(self, length: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(length, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, rows: Tensor) -> Tensor:
        # Rows are 0/1; centring them spares the first layer from learning it.
        hidden = self.enter(2 * rows - 1)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.leave(hidden).squeeze(1)
