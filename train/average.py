"""The running average of a net's weights: judged and shipped in their place, for they jump with each batch."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move averaged weights, in place, towards those of the net; `decay` is the share of themselves that they keep."""
    torch._foreach_lerp_(list[Tensor](average.parameters()), list[Tensor](net.parameters()), 1 - decay)
