"""The rules of the two games on rows of 0/1, side by side."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from train import losses
from train.config import Config
from train.discriminator import ResidualDiscriminator, TextbookDiscriminator

Loss = Callable[[Tensor, Tensor], Tensor]  # of the scores of real rows, and of those of generated ones


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How one game differs from the other, apart from the numbers that a preset sets.

    Attributes:
        warms_up: whether the game begins from a warm start, which ships if the game does not improve on it.
        discriminator: makes a new one for rows of a given length.
        betas: of both sides' Adam optimizers.
        anneals: whether learning rates fall to zero over the second half of the budget.
        shuffles: whether each epoch shows the rows in a new random order, or always in the given one.
    """

    warms_up: bool
    discriminator: Callable[[Config, int], nn.Module]
    discriminator_loss: Loss
    generator_loss: Loss
    betas: tuple[float, float]
    anneals: bool
    shuffles: bool


RULES = {  # by the generator's name
    "textbook": Rules(
        warms_up=False,
        discriminator=lambda config, length: TextbookDiscriminator(length),
        discriminator_loss=losses.textbook_discriminator,
        generator_loss=losses.textbook_generator,
        betas=(0.9, 0.999),
        anneals=False,
        shuffles=False,
    ),
    "nade": Rules(
        warms_up=True,
        discriminator=lambda config, length: ResidualDiscriminator(length, config.width, config.blocks),
        discriminator_loss=losses.relativistic_discriminator,
        generator_loss=losses.relativistic_generator,
        betas=(0.0, 0.99),  # adversarial training is steadier without Adam's standard momentum
        anneals=True,
        shuffles=True,
    ),
}
