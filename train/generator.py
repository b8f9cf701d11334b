"""Generators: uniform noise in, rounded sequences out.

Every generator takes a block of uniform numbers, (rows, noise_size) in [0, 1), and returns (rows, length) codes, or
values in [0, 1] to be rounded to codes; other noise (Gaussian or logistic) is computed from these numbers. All
randomness of a sample is therefore drawn in one place, `noise_of`, and a row depends on its own noise only. (The game
on 0/1 rows draws its own noise, on the device that trains.) This module is a LEAF (see train/__init__.py).
"""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

ROWS_PER_PASS = 2048  # a pass stays within the cache: with 4,096 a row takes half as long again


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a request may choose about how sequences are drawn: a number in a range, or one of some names.

    Attributes:
        kind: float (whole numbers are allowed, too), int or str.
        low, high: the least and the greatest number.
        choices: the names.
    """

    kind: type[float] | type[int] | type[str]
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Raise ValueError, saying what is allowed, unless `value` is."""
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

    @classmethod
    def joined(cls, parts: Sequence["LabelledRows"]) -> "LabelledRows":
        """The rows of all parts, in order; with classes if all parts have them."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            codes=torch.cat([part.codes for part in parts]),
            labels=torch.cat(labels) if len(labels) == len(parts) else None,
        )

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


# Calls a function for each item, in order, as the built-in `map` does; `cpus.in_threads` is another.
Map = Callable[[Callable[[Tensor], LabelledRows], Iterable[Tensor]], Iterable[LabelledRows]]


class Generator(nn.Module, ABC):
    """Base of all generators.

    Attributes:
        name: in the catalogue; a generator that never ships has none, and so no `config`.
        length: how many codes a sequence has.
        code_values: how many values a code can have.
        code_type: the dtype of codes.
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
        """What `with_options` takes, by name. Each is also an attribute, whose value is the default."""
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

    def codes(self, noise: Tensor) -> Tensor:
        """Rounded codes of `code_type`, (rows, length), on the CPU, for uniform noise, (rows, noise_size)."""
        return self(noise.to(next(self.parameters()))).round().to("cpu", self.code_type)

    def stratified(self, noise: Tensor, first: int) -> Tensor:
        """As `forward`, for training: if there are several nets, rows are assigned to them in turn.

        All shapes are then known without reading the noise, which would mean waiting for the GPU.

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
    return noise_of(generator, n, torch.Generator().manual_seed(seed))


def noise_of(generator: Generator, n: int, rng: torch.Generator) -> Tensor:
    """The uniform noise of the next `n` sequences of a stream, float64 (n, noise_size)."""
    return torch.rand(n, generator.noise_size, generator=rng, dtype=torch.float64)


def generate(generator: Generator, noise: Tensor) -> Tensor:
    """Rounded sequences for rows of noise, `code_type` (rows, length), on the CPU.

    For sequences that are the same in every batch and on every machine, the generator must be in float64: the last bits
    of a matrix product do vary, but in float64 they decide a rounding only about once in 10^15 values.
    """
    with torch.inference_mode():  # many small operations are a fifth faster than under no_grad
        if 0 < len(noise) <= generator.rows_per_pass:
            return generator.codes(noise)
        rounded = [generator.codes(block) for block in noise.split(generator.rows_per_pass) if len(block)]
    return torch.cat(rounded) if rounded else torch.empty(0, generator.length, dtype=generator.code_type)


def generate_labelled(generator: Generator, noise: Tensor) -> LabelledRows:
    """What `generate` makes of the noise, with the rows' classes."""
    labels = generator.labels_of(noise)
    return LabelledRows(codes=generate(generator, noise), labels=None if labels is None else labels.cpu())


def sample(generator: Generator, n: int, seed: int) -> Tensor:
    """`n` rounded sequences for a seed, `code_type` (n, length)."""
    return sample_labelled(generator, n, seed).codes


def sample_labelled(
    generator: Generator, n: int, seed: int, tell: Callable[[int], None] = lambda rows: None, each: Map = map
) -> LabelledRows:
    """The same with the rows' classes, for any `n`: the noise of many texts is never in memory as a whole.

    Args:
        tell: is called with the number of rows after each pass.
        each: how passes are mapped to rows, one after the other or several at a time.
    """
    rng, step, parts = torch.Generator().manual_seed(seed), generator.rows_per_pass, list[LabelledRows]()
    passes = [min(step, n - first) for first in range(0, n, step)] or [0]  # even no rows have a shape
    for made in each(partial(generate_labelled, generator), (noise_of(generator, rows, rng) for rows in passes)):
        parts.append(made)
        tell(len(made.codes))
    return LabelledRows.joined(parts)
