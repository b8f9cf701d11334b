"""The mixture of Bernoulli products: its fit, and the choice of how many classes it has."""

import pytest
import torch

from tests.drawn import coins, two_kinds
from train import mixture
from train.mixture import Choice


def test_classes_are_found() -> None:
    torch.manual_seed(0)
    found = mixture.fit_mixture(two_kinds(2000), Choice(classes=2, pseudo_rows=1.0))
    order = found.prior.argsort()
    assert found.prior[order].tolist() == pytest.approx([0.25, 0.75], abs=0.03)
    assert found.means[order].mean(1).tolist() == pytest.approx([0.9, 0.1], abs=0.03)


def test_all_rows_teach_the_means_of_the_classes_that_some_have_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "EM_VALUES", 200 * 12)
    torch.manual_seed(0)
    found = mixture.fit_mixture(two_kinds(20_000), Choice(classes=2))
    means = found.means[found.prior.argsort()]
    assert (means - torch.tensor([[0.9], [0.1]])).abs().max() < 0.02  # from 200 rows: .08


def test_expectation_maximisation_beats_one_class_where_there_are_two() -> None:
    torch.manual_seed(0)
    rows = two_kinds(1000)
    likelihoods = [mixture.fit_mixture(rows, Choice(classes=k)).log_likelihoods(rows).mean() for k in (1, 2)]
    assert likelihoods[1] > likelihoods[0] + 1


def test_lower_means_by_more_than_chance_explains() -> None:
    nats = torch.tensor([-1.0, -3.0, -2.0, -2.0])
    lost = torch.tensor([0.0, 0.2, 0.4, 0.2])  # .2 on average, with a standard error of .0707
    assert mixture.is_lower(nats - lost, nats, 2.8)
    assert not mixture.is_lower(nats - lost, nats, 2.9)
    assert not mixture.is_lower(nats + lost, nats, 2)
    assert not mixture.is_lower(nats, nats, 1)


def test_of_choices_that_chance_alone_tells_apart_the_plainest_is_taken() -> None:
    rows = coins(torch.full((16,), 0.5), 400, seed=1).float()
    for seed in range(5):
        torch.manual_seed(seed)
        found = mixture.choose_mixture(rows[:300], rows[300:])
        assert (found.classes, found.pseudo_rows) == (mixture.CLASSES[0], mixture.PSEUDO_ROWS[0])


def test_the_choice_of_classes_looks_at_unseen_rows() -> None:
    rows = coins(torch.full((16,), 0.5), 400).float()
    seen, unseen = rows[:300], rows[300:]
    likeliest = mixture.choose_mixture(seen, unseen)
    assert likeliest.classes == min(mixture.CLASSES)  # more classes fit the seen rows better, by chance
    assert mixture.choose_mixture(seen, seen).classes > likeliest.classes


def test_classes_are_drawn_in_proportion() -> None:
    torch.manual_seed(0)
    posterior = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
    drawn = mixture.draw_classes(posterior.repeat(20_000, 1)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(drawn, posterior[0], atol=0.015, rtol=0)
    assert drawn[1] == 0
