"""The generators of the baselines of 0/1 rows, which `train.baselines` fits.

They are compared with the GAN and never ship, so they are not in the catalogue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.generator import Generator


class IndependentGenerator(Generator):
    """Independent bits: bit = [noise < P(bit = 1)]. It knows nothing but the column means."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.probability = nn.Parameter(torch.full((length,), 0.5))

    def forward(self, noise: Tensor) -> Tensor:
        return (noise < self.probability).to(noise)


class GaussianGenerator(Generator):
    """The dichotomised Gaussian: bit = [W z + b > 0] with standard normal z.

    Emrich and Piedmonte (1991), "A method for generating high-dimensional multivariate binary variates". With
    unit-length rows of W, b sets the marginals and W W' is the latent (tetrachoric) correlation.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.linear = nn.Linear(length, length)

    def forward(self, noise: Tensor) -> Tensor:
        return (self.linear(normal_noise(noise)) > 0).to(noise)


class AutoregressiveGenerator(Generator):
    """One bit after another: bit i = [noise_i < P(bit i = 1 | the bits before it)].

    MADE (Germain et al. 2015) with one hidden layer and linear skip connections. The hidden units are sorted by degree;
    one of degree d sees the bits before d and is seen by the outputs of bit d and later.
    """

    def __init__(self, length: int, width: int = 512) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.width = width
        self.hidden = nn.Linear(length, width)
        self.output = nn.Linear(width, length)
        self.direct = nn.Linear(length, length, bias=False)
        position, degree = torch.arange(length), torch.arange(width) * length // width
        self.hidden_mask: Tensor
        self.output_mask: Tensor
        self.register_buffer("hidden_mask", degree[:, None] > position, persistent=False)
        self.register_buffer("output_mask", position[:, None] >= degree, persistent=False)
        self.known = [int((degree <= i).sum()) for i in range(length)]  # hidden units that bit i may see

    def logits(self, bits: Tensor, input_dropout: float = 0.0, dropout: float = 0.0) -> Tensor:
        """The logit of P(bit i = 1 | the bits before it) for all bits at once: (rows, length)."""
        signs = F.dropout(2 * bits - 1, input_dropout)
        hidden = F.linear(signs, self.hidden.weight * self.hidden_mask, self.hidden.bias)
        hidden = F.dropout(hidden.relu(), dropout)
        output = F.linear(hidden, self.output.weight * self.output_mask, self.output.bias)
        return output + F.linear(signs, self.direct.weight.tril(-1))

    def forward(self, noise: Tensor) -> Tensor:
        """Each hidden unit is computed once, as soon as the bits that it sees are known."""
        signs = torch.zeros_like(noise)
        hidden = noise.new_zeros(len(noise), self.width)
        start = 0
        for i, end in enumerate(self.known):
            seen = signs[:, :i]
            hidden[:, start:end] = F.linear(seen, self.hidden.weight[start:end, :i], self.hidden.bias[start:end]).relu()
            logit = hidden[:, :end] @ self.output.weight[i, :end] + self.output.bias[i]
            logit = logit + seen @ self.direct.weight[i, :i]
            signs[:, i] = 2 * (noise[:, i] < logit.sigmoid()).to(noise) - 1
            start = end
        return (signs + 1) / 2


def normal_noise(noise: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1), by the inverse distribution function; always finite."""
    edge = torch.finfo(noise.dtype).eps / 2
    return torch.special.ndtri(noise.clamp(edge, 1 - edge))
