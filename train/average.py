"""The running average of a net's weights: judged and shipped in their place, because they jump with each batch."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the average towards the net's weights, in place: average = decay * average + (1 - decay) * weights."""
    torch._foreach_lerp_(list[Tensor](average.parameters()), list[Tensor](net.parameters()), 1 - decay)
