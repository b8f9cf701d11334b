"""Details that a small mistake would change unnoticed: which rows the numbers compare."""

import numpy as np
import pytest

from tests.unit.train.test_text_metrics import random_texts
from train import builtin, metrics, text_metrics


@pytest.fixture(autouse=True)
def _no_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "c2st", lambda *_: (0.5, 0.01))
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))


def test_copies_of_any_training_text_are_found_although_fewer_are_compared() -> None:
    heldout, train = random_texts(50, 1), random_texts(400, 2)
    scores = text_metrics.compare_text(train[300:350], heldout, train)
    assert scores["n"] == 50
    assert scores["copy_rate"] == 1


def test_of_sorted_texts_those_that_are_compared_are_drawn_from_all() -> None:
    heldout, train, made = (sorted(random_texts(n, seed)) for n, seed in ((800, 1), (800, 2), (100, 3)))
    scores = text_metrics.compare_text(made, heldout, train)
    assert scores["ngram_js_1"] < 0.02
    assert scores["ngram_js_1_floor"] < 0.02


def test_of_sorted_rows_those_that_are_compared_are_drawn_from_all() -> None:
    rows = builtin.chain(1000, length=16)
    heldout, train = (part[np.lexsort(part.T)] for part in (rows[:400], rows[400:800]))
    scores = metrics.compare(rows[800:900], heldout, train)
    assert scores["n"] == 100
    assert scores["marginal_distance"] < 0.1
    assert scores["marginal_floor"] < 0.1


def test_the_quick_numbers_of_collapse_and_copies_are_those_of_compare() -> None:
    rows = builtin.chain(1300, length=24)
    heldout, train = rows[:100], rows[100:1300]
    made = np.concatenate([train[1000:1050], np.tile(rows[:5], (10, 1))])
    quick, whole = metrics.quick_score(made, heldout, train), metrics.compare(made, heldout, train)
    for name in ("distinct_ratio", "copy_excess"):
        assert quick[name] == pytest.approx(whole[name]), name
    assert quick["distinct_ratio"] < 0.6
    assert quick["copy_excess"] > 0.4


def test_soft_values_are_rounded_to_the_nearer() -> None:
    rows = builtin.chain(300, length=16)
    soft, plain = (
        metrics.compare(made, rows[100:200], rows[200:]) for made in (np.where(rows[:100], 0.6, 0.4), rows[:100])
    )
    assert soft["soft_share"] == 1
    assert soft["marginal_ratio"] == plain["marginal_ratio"]
