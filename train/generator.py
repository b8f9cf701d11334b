"""Generators: uniform noise in, rounded sequences out.

Every generator takes a block of uniform numbers, (rows, noise_size) in [0, 1), and returns (rows, length) codes, or
values in [0, 1] to be rounded to codes; whatever it needs besides (Gaussian or logistic noise) it computes from them.
All randomness is therefore drawn in one place, `draw_noise`, and a row depends on its own noise only. This module is a
LEAF (see train/__init__.py).
"""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS_PER_PASS = 2048  # a pass stays within the cache: with 4,096 a row takes half as long again


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a request may choose about how sequences are drawn: a number in a range, or one of some names.

    Attributes:
        kind: float (which whole numbers are, too), int or str.
        low, high: the least and the greatest number.
        choices: the names.
    """

    kind: type[float] | type[int] | type[str]
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Raises ValueError, with what is allowed, unless `value` is."""
        if self.kind is str:
            if value not in self.choices:
                raise ValueError(f"must be one of {', '.join(map(_quoted, self.choices))}")  # "5" is not 5
        elif type(value) not in (int, self.kind) or not self.low <= value <= self.high:  # to Python, True is an int
            raise ValueError(f"must be a {'whole ' * (self.kind is int)}number from {self.low:g} to {self.high:g}")


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


TEMPERATURE = Option(kind=float, low=0.1, high=2)  # below 1: likelier sequences, less variety
CANDIDATES = Option(kind=int, low=1, high=64)  # how many are drawn for each one that is kept


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Rows of codes, generated or real, with their classes.

    Attributes:
        codes: of the generator's `code_type`, (rows, length).
        labels: the number of each row's class, int64 (rows,); None where rows have none.
    """

    codes: Tensor
    labels: Tensor | None = None

    def split(self, size: int | list[int]) -> list["LabelledRows"]:
        """The rows cut into parts, as `Tensor.split` cuts them."""
        codes = self.codes.split(size)
        labels: Sequence[Tensor | None] = [None] * len(codes) if self.labels is None else self.labels.split(size)
        return [LabelledRows(codes=some, labels=theirs) for some, theirs in zip(codes, labels, strict=True)]

    def take(self, rows: Tensor) -> "LabelledRows":
        """Some of the rows, by their numbers."""
        return LabelledRows(codes=self.codes[rows], labels=None if self.labels is None else self.labels[rows])

    def to(self, device: str | torch.device) -> "LabelledRows":
        return LabelledRows(codes=self.codes.to(device), labels=None if self.labels is None else self.labels.to(device))


class Generator(nn.Module, ABC):
    """Base of all generators.

    Attributes:
        length: how many codes a sequence has.
        code_values: how many values a code can have.
        code_type: what holds them.
        noise_size: how many uniform numbers one sequence is made from; may depend on the options chosen.
        rows_per_pass: how many sequences are best made at once.
    """

    name: str
    length: int
    code_values: int = 2
    code_type: torch.dtype = torch.uint8
    noise_size: int
    rows_per_pass: int = ROWS_PER_PASS

    @property
    def options(self) -> Mapping[str, Option]:
        """What `with_options` takes, by name. Each is an attribute, too, whose value holds where nothing is chosen."""
        return {}

    def with_options(self, **chosen: Any) -> Self:
        """This generator with some options chosen: a shallow copy, which shares the weights.

        Raises:
            ValueError: there is no such option, or it does not allow this value; the message names it.
        """
        check_options(self.options, chosen)
        made = copy.copy(self)
        for name, value in chosen.items():
            setattr(made, name, value)
        return made

    def labels_of(self, noise: Tensor) -> Tensor | None:
        """The number of each row's class, int64 (rows,), as `forward` reads it from the noise; None without classes."""
        return None

    def config(self) -> dict[str, Any]:
        """The name and the constructor's arguments, here the length alone; `catalogue.build` takes them back."""
        return {"name": self.name, "length": self.length}

    @abstractmethod
    def forward(self, noise: Tensor) -> Tensor:
        """Codes, or values in [0, 1] to be rounded to codes, (rows, length), for uniform noise, (rows, noise_size)."""

    def stratified(self, noise: Tensor, first: int) -> Tensor:
        """As `forward`, for training: where there are several nets, the rows take turns among them.

        All shapes are then known without a look at the noise, for which a GPU would have to be waited for.

        Args:
            first: how many rows were drawn before these.
        """
        return self(noise)


class TextbookGenerator(Generator):
    """The textbook generator: Linear(L, L) and a sigmoid on uniform noise. Its output is rounded when sampled."""

    name = "textbook"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.linear = nn.Linear(length, length)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(noise))


class IndependentGenerator(Generator):
    """Every bit a coin of its own: bit = [noise < P(bit)]. What a column's mean alone tells."""

    name = "independent"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = self.noise_size = length
        self.probability = nn.Parameter(torch.full((length,), 0.5))

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

    def forward(self, noise: Tensor) -> Tensor:
        return (self.linear(normal_noise(noise)) > 0).to(noise)


class AutoregressiveGenerator(Generator):
    """One bit after another: bit i = [noise_i < P(bit i = 1 | the bits before it)].

    MADE (Germain et al. 2015) with one hidden layer and linear connections past it. The hidden units are sorted by
    degree; one of degree d sees the bits before d and is seen by the outputs of bit d and later.
    """

    name = "autoregressive"

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

    def config(self) -> dict[str, Any]:
        return {**super().config(), "width": self.width}

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


def check_options(options: Mapping[str, Option], chosen: Mapping[str, Any]) -> None:
    """Refuse what these options do not allow.

    Raises:
        ValueError: there is no such option, or it does not allow this value; the message names it.
    """
    for name, value in chosen.items():
        if name not in options:
            raise ValueError(f"{name}: this model has no such option")
        try:
            options[name].check(value)
        except ValueError as problem:
            raise ValueError(f"{name}: {problem}") from None


def draw_noise(generator: Generator, n: int, seed: int) -> Tensor:
    """The uniform noise of `n` sequences for a seed, float64 (n, noise_size), the same on every machine.

    The first rows do not depend on `n`: asking for more sequences with the same seed continues the list.
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator.noise_size, generator=rng, dtype=torch.float64)


def generate(generator: Generator, noise: Tensor) -> Tensor:
    """Rounded sequences for rows of noise, `code_type` (rows, length), on the CPU.

    For sequences that are the same in every batch and on every machine the generator must be in float64: there
    the last bits of a matrix product, which do vary, decide a rounding about once in 10^15 values.
    """
    weight, kind = next(generator.parameters()), generator.code_type
    with torch.inference_mode():  # many small operations are a fifth faster than under no_grad
        blocks = noise.split(generator.rows_per_pass)
        rounded = [generator(block.to(weight)).round().to("cpu", kind) for block in blocks if len(block)]
    return torch.cat(rounded) if rounded else torch.empty(0, generator.length, dtype=kind)


def generate_labelled(generator: Generator, noise: Tensor) -> LabelledRows:
    """What `generate` makes of the noise, with the rows' classes."""
    labels = generator.labels_of(noise.to(next(generator.parameters())))
    return LabelledRows(codes=generate(generator, noise), labels=None if labels is None else labels.cpu())


def sample(generator: Generator, n: int, seed: int) -> Tensor:
    """`n` rounded sequences for a seed, `code_type` (n, length)."""
    return generate(generator, draw_noise(generator, n, seed))


def sample_labelled(generator: Generator, n: int, seed: int) -> LabelledRows:
    """The same with the rows' classes, for any `n`: the noise of many texts is never in memory as a whole."""
    rng, parts = torch.Generator().manual_seed(seed), []
    for block in torch.empty(n).split(generator.rows_per_pass):
        noise = torch.rand(len(block), generator.noise_size, generator=rng, dtype=torch.float64)
        parts.append(generate_labelled(generator, noise))
    labels = [part.labels for part in parts if part.labels is not None]
    return LabelledRows(codes=torch.cat([part.codes for part in parts]), labels=torch.cat(labels) if labels else None)
