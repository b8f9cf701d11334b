"""The losses of the adversarial game, against values computed by hand."""

import math

import pytest
import torch

from train import losses

REAL, FAKE = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0])


def test_the_relativistic_losses_compare_paired_rows() -> None:
    discriminator = (math.log1p(math.exp(-3)) + math.log(2)) / 2
    generator = (math.log1p(math.exp(3)) + math.log(2)) / 2
    assert losses.relativistic_discriminator(REAL, FAKE).item() == pytest.approx(discriminator)
    assert losses.relativistic_generator(REAL, FAKE).item() == pytest.approx(generator)
