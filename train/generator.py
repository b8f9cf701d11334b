"""Generators: uniform noise in, rounded sequences out.

Every generator takes a block of uniform numbers, (rows, noise_size) in [0, 1), and returns (rows, length) values in
[0, 1]; whatever it needs besides (Gaussian or logistic noise) it computes from them. All randomness is therefore
drawn in one place, `draw_noise`, and a row depends on its own noise only. This module is a LEAF: it imports the
standard library and torch only, so that it runs unchanged inside the model archive.
"""

from typing import Any

import torch
from torch import Tensor, nn

MAX_SEED = 2**32 - 1  # torch's CPU generator (Mersenne Twister) ignores the higher bits of a seed
ROWS_PER_PASS = 16_384  # bounds the memory of sampling


class Generator(nn.Module):
    """Base of all generators.

    Attributes:
        length: how many values a sequence has.
        noise_size: how many uniform numbers one sequence is made from.
    """

    name: str
    length: int
    noise_size: int

    def config(self) -> dict[str, Any]:
        """The name and the constructor's arguments; `build` takes them back."""
        raise NotImplementedError

    def forward(self, noise: Tensor) -> Tensor:
        raise NotImplementedError


class TextbookGenerator(Generator):
    """The textbook generator: Linear(L, L) and a sigmoid on uniform noise. Its output is rounded when sampled."""

    name = "textbook"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.linear = nn.Linear(length, length)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "length": self.length}

    def forward(self, noise: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(noise))


class IndependentGenerator(Generator):
    """Every bit a coin of its own: bit = [noise < P(bit)]. What a column's mean alone tells."""

    name = "independent"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.probability = nn.Parameter(torch.full((length,), 0.5))

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "length": self.length}

    def forward(self, noise: Tensor) -> Tensor:
        return (noise < self.probability).to(noise)


class GaussianGenerator(Generator):
    """The dichotomised Gaussian: bit = [W z + b > 0] with standard normal z.

    Emrich and Piedmonte (1991), "A method for generating high-dimensional multivariate binary variates". With rows
    of W of length one, b sets the marginals and W W' is the latent (tetrachoric) correlation.
    """

    name = "gaussian"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.linear = nn.Linear(length, length)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "length": self.length}

    def forward(self, noise: Tensor) -> Tensor:
        return (self.linear(normal_noise(noise)) > 0).to(noise)


def normal_noise(noise: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1), by the inverse distribution function; always finite."""
    edge = torch.finfo(noise.dtype).eps / 2
    return torch.special.ndtri(noise.clamp(edge, 1 - edge))


class ResidualGenerator(Generator):
    """A residual MLP on Gaussian latents, with logistic noise in every bit: rounding is an exact draw of each bit.

    A bit is 1 where its logit plus logistic noise is positive. While training, the rounded value is passed on and the
    gradient takes the way of the binary concrete relaxation (Maddison et al. 2017) at temperature `TAU`.
    """

    name = "residual"
    TAU = 0.66

    def __init__(self, length: int, width: int, blocks: int) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.noise_size = width + length
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, length))

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "length": self.length, "width": self.width, "blocks": len(self.blocks)}

    def forward(self, noise: Tensor) -> Tensor:
        latent, uniform = noise.split([self.width, self.length], dim=1)
        hidden = self.enter(normal_noise(latent))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        soft = torch.sigmoid((self.leave(hidden) + torch.logit(uniform, eps=1e-6)) / self.TAU)
        return (soft > 0.5).to(soft) + (soft - soft.detach())


def build(config: dict[str, Any]) -> Generator:
    """A new generator from what `Generator.config` returned, with untrained weights."""
    arguments = dict(config)
    return GENERATORS[arguments.pop("name")](**arguments)


def draw_noise(generator: Generator, n: int, seed: int) -> Tensor:
    """The uniform noise of `n` sequences for a seed, float64 (n, noise_size), the same on every machine.

    The first rows do not depend on `n`: asking for more sequences with the same seed continues the list.
    """
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator.noise_size, generator=stream, dtype=torch.float64)


@torch.no_grad()
def generate(generator: Generator, noise: Tensor) -> Tensor:
    """Rounded sequences for rows of noise, uint8 (rows, length), on the CPU.

    For sequences that are the same in every batch and on every machine the generator must be in float64: there
    the last bits of a matrix product, which do vary, decide a rounding about once in 10^15 values.
    """
    weight = next(generator.parameters())
    blocks = noise.split(ROWS_PER_PASS)
    rounded = [generator(block.to(weight)).round().to("cpu", torch.uint8) for block in blocks]
    return torch.cat(rounded) if rounded else torch.empty(0, generator.length, dtype=torch.uint8)


def sample(generator: Generator, n: int, seed: int) -> Tensor:
    """`n` rounded sequences for a seed, uint8 (n, length)."""
    return generate(generator, draw_noise(generator, n, seed))


GENERATORS: dict[str, Any] = {
    kind.name: kind for kind in (TextbookGenerator, ResidualGenerator, IndependentGenerator, GaussianGenerator)
}
