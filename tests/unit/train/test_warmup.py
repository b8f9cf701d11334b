"""The warm start: classes, nets, joining and calibration."""

import math

import pytest
import torch

from train import builtin, generator, warmup
from train.warmup import Choice

CHAIN = torch.tensor(builtin.chain(1200, length=10))


def two_kinds(n: int) -> torch.Tensor:
    """Rows of two clear classes: mostly ones, a quarter of them, or mostly zeros."""
    stream = torch.Generator().manual_seed(0)
    mostly = torch.where(torch.arange(n)[:, None] % 4 == 0, 0.9, 0.1)
    return (torch.rand(n, 12, generator=stream) < mostly).float()


def test_classes_are_found() -> None:
    torch.manual_seed(0)
    found = warmup.fit_classes(two_kinds(2000), Choice(classes=2, pseudo_rows=1.0))
    order = found.prior.argsort()
    assert found.prior[order].tolist() == pytest.approx([0.25, 0.75], abs=0.03)
    assert found.means[order].mean(1).tolist() == pytest.approx([0.9, 0.1], abs=0.03)


def test_expectation_maximisation_beats_one_class_where_there_are_two() -> None:
    torch.manual_seed(0)
    rows = two_kinds(1000)
    likelihoods = [warmup.fit_classes(rows, Choice(classes=k)).log_likelihood(rows) for k in (1, 2)]
    assert likelihoods[1] > likelihoods[0] + 1


def test_the_bound_of_a_net_approaches_the_entropy_of_the_chain() -> None:
    torch.manual_seed(0)
    rows = torch.tensor(builtin.chain(6000, length=10)).float()
    seen, unseen = rows[:5000], rows[5000:]
    bound, _ = warmup.fit_net(seen, unseen, warmup.fit_classes(seen, Choice()), 16, math.inf)
    independent = warmup.fit_classes(seen, Choice()).log_likelihood(unseen)
    # Nats a row of the process itself: the stationary entropy rate is about .55 nats a bit.
    assert independent < -6.5
    assert -5.9 < bound < -5.3


def test_a_warm_start_keeps_means_and_correlations() -> None:
    torch.manual_seed(0)
    made = warmup.warm_start(CHAIN, hidden=16, folds=2).double()
    rows = generator.sample(made, 20_000, seed=3).float()
    torch.testing.assert_close(rows.mean(0), CHAIN.float().mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(rows.T), torch.corrcoef(CHAIN.float().T), atol=0.15, rtol=0)


def test_the_same_seed_gives_the_same_warm_start() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(warmup.warm_start(CHAIN[:200], hidden=4, folds=2).state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_time_limit_is_kept() -> None:
    import time

    torch.manual_seed(0)
    started = time.monotonic()
    warmup.warm_start(CHAIN, hidden=64, folds=6, seconds=1.0)
    assert time.monotonic() - started < 15  # calibration and choosing the classes come on top


@pytest.mark.parametrize("rows", [10, 25])
def test_tiny_and_degenerate_sets_end_in_a_sane_generator(rows: int) -> None:
    torch.manual_seed(0)
    data = CHAIN[:rows].clone()
    data[:, 3], data[:, 7] = 0, 1
    made = warmup.warm_start(data, hidden=8, folds=6).double()
    drawn = generator.sample(made, 2000, seed=0).float()
    assert drawn[:, 3].mean() < 0.1
    assert drawn[:, 7].mean() > 0.9
