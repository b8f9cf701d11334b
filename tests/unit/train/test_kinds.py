"""What differs between kinds of sequences: here, how a generator of 0/1 rows is completed."""

import dataclasses

import torch

from train import generator, kinds
from train.config import resolve
from train.generator import NadeGenerator
from train.prepare import prepare, resolved


def test_a_complete_generator_has_the_means_of_training_and_validation_rows() -> None:
    config = resolve({"data": "toy"})
    found = prepare(config)
    found = dataclasses.replace(found, validation=torch.ones_like(found.validation))
    made = NadeGenerator(length=5, hidden=4, nets=1, classes=2)
    kinds.of(resolved(config, found), found).complete(made)
    drawn = generator.sample(made.double(), 20_000, seed=1).float().mean(0)
    wanted = torch.cat([found.train, found.validation]).float().mean(0)
    assert (wanted - found.train.float().mean(0)).abs().max() > 0.05
    torch.testing.assert_close(drawn, wanted, atol=0.015, rtol=0)
