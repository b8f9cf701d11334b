"""Details that a small mistake would change unnoticed: where training goes, and how long it takes."""

from typing import Any

import pytest
import torch

from tests.unit.train.test_loop import ROWS, configured, new_state
from tests.unit.train.test_text_generator import warm_start
from tests.unit.train.test_warmup import CHAIN
from train import loop, text_warmup, warmup
from train.codec import END, PADDING
from train.text_generator import Scorer
from train.text_warmup import Rows, TextWarmStart, new_generator
from train.warmup import WarmStart


def test_the_game_draws_the_generator_towards_the_rows() -> None:
    config = configured(generator_rate=0.05, discriminator_rate=0.01, turns=4, head_start=0)
    state, real = new_state(config), torch.ones(64, ROWS.shape[1])
    noise = torch.rand(500, state.generator.noise_size)
    before = state.generator(noise).mean().item()
    for _ in range(60):
        loop.step(state, real, config)
    with torch.no_grad():
        made = state.generator(noise)
    assert before < 0.7
    assert made.mean().item() > 0.9


def test_the_discriminator_scores_real_rows_higher() -> None:
    config = configured(discriminator_rate=0.01)
    state, real, fake = new_state(config), torch.ones(16, ROWS.shape[1]), torch.zeros(16, ROWS.shape[1])
    for _ in range(30):
        loop.update_discriminator(state, real, fake, config, 0.0)
    assert state.discriminator(real).min() > state.discriminator(fake).max() + 1


def test_a_warm_start_in_a_hurry_is_calibrated_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "PATIENCE", 1000)
    seconds = iter(range(10**9))  # a step takes one
    monkeypatch.setattr(text_warmup.time, "monotonic", lambda: float(next(seconds)))
    fit = warm_start()
    assert fit.run(20.0, lambda: False)
    assert fit.step > 10
    assert fit.calibrated > 1
    assert fit.seconds < 25


def test_a_warm_start_learns_from_rows_as_if_they_had_not_been_counted() -> None:
    codes = torch.cat([torch.arange(3, 43).view(20, 2), torch.full((20, 1), END)], 1)  # no token is in two rows
    generator = new_generator(codes, vocabulary=43, head=43, embedding=8, hidden=16)
    fit = TextWarmStart(generator, Rows(codes), Rows(codes[:5]))
    assert (fit.train.known[:, 0] == 0).all()
    assert (fit.validation.known[:, 0] > 0).all()


def test_nets_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 100)
    monkeypatch.setattr(warmup, "affordable_folds", lambda *_: 2)
    seconds, descend = [0.0], warmup.descend  # a step takes one

    def take_a_second(*given: Any) -> None:
        seconds[0] += 1
        descend(*given)

    monkeypatch.setattr(warmup, "descend", take_a_second)
    monkeypatch.setattr(warmup.time, "monotonic", lambda: seconds[0])
    phase, steps = WarmStart(CHAIN[:200], hidden=4, folds=2), dict[int, int]()
    while not phase.run(90.0, lambda: True):
        if phase.fit is not None:
            steps[len(phase.fitted)] = phase.fit.steps
    assert [steps[net] for net in range(3)] == pytest.approx([30, 30, 30], abs=1)
    assert phase.seconds == pytest.approx(90, abs=1)


def test_the_scorer_sees_the_order_of_tokens_without_its_net() -> None:
    torch.manual_seed(0)
    scorer = Scorer(12).eval()
    torch.nn.init.zeros_(scorer.output.weight)
    torch.nn.init.normal_(scorer.weights)
    one, other, longer = scorer(torch.tensor([[3, 4, 5, END, PADDING], [3, 5, 4, END, PADDING], [3, 4, 5, END, 0]]))
    assert one != other
    assert one == longer
