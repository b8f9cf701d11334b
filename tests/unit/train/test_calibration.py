"""Column means and constraints of a fitted generator."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.drawn import coins
from train import builtin, calibration, generator, kinds, text_calibration
from train.constraints import satisfied_by
from train.nade import NadeGenerator

CHAIN = torch.tensor(builtin.chain(1200, length=10))


def test_means_that_differ_by_chance_are_drawn_together() -> None:
    rows = coins(torch.full((100,), 0.3), 400)
    plain, drawn = (
        (means - 0.3).square().mean().sqrt() for means in (rows.float().mean(0), calibration.likely_means(rows))
    )
    assert plain > 0.02  # the standard error is sqrt(.3 * .7 / 400) = .023
    assert drawn < plain / 2


def test_means_that_differ_more_than_by_chance_stay() -> None:
    rows = coins(torch.linspace(0.1, 0.9, 100), 400)
    torch.testing.assert_close(calibration.likely_means(rows), rows.float().mean(0), atol=0.005, rtol=0)


def test_rare_ones_do_not_become_rarer_as_means_are_drawn_together() -> None:
    counts = []
    for seed in range(20):
        rows = coins(torch.full((64,), 0.01), 200, seed)
        counts.append((rows.sum(), 200 * calibration.likely_means(rows).sum()))
    found, kept = torch.tensor(counts).sum(0)
    torch.testing.assert_close(kept, found, rtol=1e-5, atol=0)


def test_constant_columns_stay_beside_others() -> None:
    rows = coins(torch.tensor([0.0, 1.0, *[0.3] * 20]), 400)
    assert calibration.likely_means(rows)[:2].tolist() == [0, 1]


@pytest.mark.parametrize("length", [1, 3, 4])
def test_means_of_few_and_of_constant_columns_stay(length: int) -> None:
    assert (calibration.likely_means(torch.ones(5, length, dtype=torch.uint8)) == 1).all()


def test_calibration_brings_the_wanted_means_to_long_rows_too() -> None:
    torch.manual_seed(0)
    made = NadeGenerator(length=600, hidden=4, nets=1, classes=2)
    torch.nn.init.normal_(made.direct, std=0.02)
    wanted = torch.linspace(0.1, 0.9, 600)
    calibration.calibrate(made, wanted, rows=10_000)
    error = generator.sample(made.double(), 8000, seed=9).float().mean(0) - wanted
    # The 8000 rows have a sampling error of .0056 in the middle columns. That of calibration, with about as many rows,
    # is far smaller, because it averages probabilities, not bits.
    assert error.square().mean().sqrt() < 0.0056
    assert error.abs().max() < 4.5 * 0.0056


def test_the_rounds_of_calibration_average_out_the_scatter_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ROWS", 400)
    torch.manual_seed(0)
    made = NadeGenerator(length=60, hidden=4, nets=1, classes=1)
    torch.nn.init.normal_(made.direct, std=0.5)
    calibration.calibrate(made, torch.full((60,), 0.5), rows=10_000)
    with torch.no_grad():
        found = made.probabilities(generator.draw_noise(made, 20_000, seed=9).float())
    scatter = found.var(0).div(400).mean().sqrt()
    assert (found.mean(0) - 0.5).square().mean().sqrt() < 0.6 * scatter


@pytest.mark.parametrize("opposite", [False, True])
def test_constraints_that_all_rows_satisfy_are_hardly_violated(opposite: bool) -> None:
    torch.manual_seed(0)
    rows = torch.randint(0, 2, (1000, 12), dtype=torch.uint8)
    rows[:, :4] = F.one_hot(torch.randint(0, 4, (1000,)), 4)  # exactly one of four
    rows[:, 4:7] = F.one_hot(torch.randint(0, 4, (1000,)), 4)[:, :3]  # at most one of three
    rows[:, 7], rows[:, 8] = rows[:, 9], 1 - rows[:, 9]
    if opposite:  # which leaves the pairs alone
        rows[:, 4:] = 1 - rows[:, 4:]
    made = NadeGenerator(length=12, hidden=4, nets=2, classes=2)
    means = rows.float().mean(0)
    made.bias.data[:] = torch.logit(means)
    calibration.keep_constraints(made, rows)
    calibration.calibrate(made, means, 1000)
    drawn = generator.sample(made, 20_000, 1)
    assert satisfied_by(rows.numpy()).violated_by(drawn.numpy()).mean() < 0.003
    torch.testing.assert_close(drawn.float().mean(0), means, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn[:, 10:].float().T.corrcoef(), torch.eye(2), atol=0.05, rtol=0)


def test_violations_that_fresh_rows_would_have_as_often_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    independent, opposites = torch.randint(0, 2, (2, 1000, 6), dtype=torch.uint8)
    opposites[:, 1] = 1 - opposites[:, 0]
    made = NadeGenerator(length=6, hidden=4, nets=1, classes=1)
    before = copy.deepcopy(made.state_dict())
    calibration.keep_constraints(made, independent)
    monkeypatch.setattr(calibration, "expected_violations", lambda known: 0.6)
    calibration.keep_constraints(made, opposites)  # which half of the draws are not
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_rows_that_calibrate_are_not_judged() -> None:
    for each in (calibration, text_calibration):
        first = each.SEED
        assert kinds.EVALUATION_SEED not in range(first, first + each.ROUNDS)
