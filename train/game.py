"""What the games of both kinds of sequences share: their state, their ticks, and how they end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from train.generator import Generator
from train.phase import Stateful

Ending = Literal["epochs", "minutes", "stopped", "interrupted"]  # why a game has ended, or was interrupted


class NonFiniteError(RuntimeError):
    """A loss or a weight became infinite or NaN: the weights are lost, the last checkpoint is not."""


def check_finite(losses: Mapping[str, float], seen: int, *nets: nn.Module) -> None:
    """Check losses and weights before a state is saved.

    The losses are those of the weights before the last step, so either can be wrong alone.

    Raises:
        NonFiniteError: a loss or a weight is infinite or NaN.
    """
    if not all(map(math.isfinite, losses.values())):
        raise NonFiniteError(f"the losses are {losses} after {seen:,} sequences")
    if not all(weight.isfinite().all() for net in nets for weight in net.parameters()):
        raise NonFiniteError(f"weights are infinite or NaN after {seen:,} sequences")


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What happened since the last tick. Losses are means over its steps, `last_losses` those of its last step."""

    seen: int
    epoch: float
    seconds: float
    sequences_per_second: float
    losses: dict[str, float]
    last_losses: dict[str, float]


@dataclass(kw_only=True, eq=False)
class GameState(Stateful):
    """Everything that the game changes, for either kind of sequences.

    Attributes:
        averaged: what is judged and shipped: a moving average of the generator, or the generator itself.
        seen: real sequences shown to the discriminator so far.
        seconds: training time so far, over all sessions.
        best: the averaged weights with the best validation score so far; `best_score` is that score, and `best_seen`
            the value of `seen` at the time.
    """

    VALUES: ClassVar[tuple[str, ...]] = ("seen", "seconds", "best_score", "best_seen", "best")

    generator: Generator
    averaged: Generator
    seen: int = 0
    seconds: float = 0.0
    best_score: float = math.inf
    best_seen: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_unimproved(self) -> bool:
        """Whether the game has not improved the validation score of its start, which then ships."""
        return bool(self.best) and not self.best_seen
