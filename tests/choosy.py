"""A generator with every option, for tests which check that options are passed on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.artifact import Artifact
from train.codec import BitsCodec
from train.generator import CANDIDATES, TEMPERATURE, Generator, Option


class ChoosyGenerator(Generator):
    """Codes below 300: 100 times the class, plus less than 100 from the maximum of `candidates` blocks of noise."""

    name = "choosy"
    length = 4
    code_values = 300
    code_type = torch.uint16
    temperature = 1.0
    candidates = 1
    label = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    @property
    def options(self) -> Mapping[str, Option]:
        return {"temperature": TEMPERATURE, "candidates": CANDIDATES, "label": Option(kind=int, low=0, high=2)}

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        return self.length * self.candidates

    def config(self) -> dict[str, Any]:
        return {"name": self.name}

    def labels_of(self, noise: Tensor) -> Tensor:
        return torch.full((len(noise),), self.label)

    def forward(self, noise: Tensor) -> Tensor:
        best = noise.view(len(noise), self.candidates, self.length).amax(1)
        return (best ** (1 / self.temperature) * 99).floor() + 100 * self.label


class NamedCodec(BitsCodec):
    """Rows unchanged, in three named classes."""

    labels = ("calm", "plain", "wild")


def choosy_artifact() -> Artifact:
    card = {"version": "1", "run_id": None}
    return Artifact(generator=ChoosyGenerator().double(), codec=NamedCodec("abcd"), card=card)
