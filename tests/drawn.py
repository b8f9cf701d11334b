"""Rows of 0/1 drawn from simple processes."""

import torch


def coins(chances: torch.Tensor, n: int, seed: int = 0) -> torch.Tensor:
    """Independent columns, uint8 (n, length)."""
    return (torch.rand(n, len(chances), generator=torch.Generator().manual_seed(seed)) < chances).to(torch.uint8)


def two_kinds(n: int) -> torch.Tensor:
    """Rows of two clear classes: a quarter are mostly ones, the others mostly zeros."""
    rng = torch.Generator().manual_seed(0)
    mostly = torch.where(torch.arange(n)[:, None] % 4 == 0, 0.9, 0.1)
    return (torch.rand(n, 12, generator=rng) < mostly).float()
