"""Generators: noise, rounding, and that a seed means the same everywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import generator
from train.generator import GENERATORS, Generator

ARGUMENTS = {"width": 16, "blocks": 1}


def small(name: str, length: int = 12) -> Generator:
    torch.manual_seed(3)
    extra = ARGUMENTS if name == "residual" else {}
    return generator.build({"name": name, "length": length, **extra}).double().eval()


@pytest.fixture(params=GENERATORS)
def made(request: pytest.FixtureRequest) -> Generator:
    return small(request.param)


def test_samples_are_rounded(made: Generator) -> None:
    rows = generator.sample(made, 50, seed=1)
    assert rows.shape == (50, 12)
    assert rows.dtype == torch.uint8
    assert set(rows.unique().tolist()) <= {0, 1}


def test_a_seed_always_gives_the_same_rows_and_more_rows_continue_them(made: Generator) -> None:
    rows = generator.sample(made, 40, seed=7)
    assert torch.equal(generator.sample(made, 40, seed=7), rows)
    assert torch.equal(generator.sample(made, 9, seed=7), rows[:9])
    assert not torch.equal(generator.sample(made, 40, seed=8), rows)


def test_a_row_depends_on_its_own_noise_only(made: Generator) -> None:
    noise = torch.cat([generator.draw_noise(made, 5, seed) for seed in range(40)])
    together = generator.generate(made, noise)
    assert torch.equal(together[35:40], generator.sample(made, 5, seed=7))


def test_nothing_asked_for_is_nothing_given(made: Generator) -> None:
    assert generator.sample(made, 0, seed=1).shape == (0, 12)


def test_config_builds_the_same_network(made: Generator) -> None:
    again = generator.build(made.config()).double().eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(generator.sample(again, 20, seed=1), generator.sample(made, 20, seed=1))


@given(st.floats(0, 1, exclude_max=True))
def test_normal_noise_is_always_finite(uniform: float) -> None:
    for kind in (torch.float32, torch.float64):
        assert torch.isfinite(generator.normal_noise(torch.tensor([uniform], dtype=kind))).all()


def test_training_passes_rounded_values_and_a_gradient() -> None:
    residual = small("residual").train()
    rows = residual(torch.rand(64, residual.noise_size, dtype=torch.float64))
    assert torch.equal(rows.round(), rows.detach())
    rows.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in residual.parameters())
