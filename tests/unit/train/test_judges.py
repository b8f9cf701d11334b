"""Judges: equal to plain implementations, and as certain as their scatter allows."""

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from train import judges
from train.bits import Bits

Sets = tuple[Bits, Bits, Bits]


def plain_auc(positive: Any, negative: Any) -> float:
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(wins))


def test_the_judges_auc_equals_its_definition() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 9, 40) / 8, rng.integers(0, 7, 30) / 8
    auc, variance = judges.auc_with_variance(positive, negative)
    assert auc == pytest.approx(plain_auc(positive, negative), abs=1e-9)
    wins = [
        np.mean([plain_auc([p], negative) for p in positive]),
        np.mean([plain_auc(positive, [n]) for n in negative]),
    ]
    assert wins == pytest.approx([auc, auc])
    of_rows = np.var([plain_auc([p], negative) for p in positive], ddof=1) / 40
    of_columns = np.var([plain_auc(positive, [n]) for n in negative], ddof=1) / 30
    assert variance == pytest.approx(of_rows + of_columns, abs=1e-9)
    assert judges.auc_with_variance(np.array([1.0]), np.array([0.5])) == (1, 0), "one score does not vary"


def test_the_judge_tells_ones_from_zeros_with_the_fewest_rows() -> None:
    ones = np.ones((judges.FEWEST_JUDGED, 6), np.uint8)
    assert judges.c2st(ones, 0 * ones, 0)[0] == 1


def test_the_error_of_the_judges_auc_is_how_it_scatters(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest_mean(x: Bits, y: Any, test_x: Bits, seed: int) -> Any:
        return test_x @ (x[y].mean(axis=0) - x[~y].mean(axis=0))

    monkeypatch.setattr(judges, "_trees", nearest_mean)
    pool, rng = np.concatenate(chain), np.random.default_rng(0)
    found = [judges.c2st(*(pool[rng.integers(0, 1200, 100)] for _ in range(2)), seed) for seed in range(200)]
    aucs, errors = np.transpose(found)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)
    assert 0.9 < np.mean(errors) / np.std(aucs) < 1.2, "folds share training rows, so they are not independent"


def test_the_judge_sees_a_bounded_number_of_values(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGED_VALUES", 60 * 16 + 15)
    synthetic, heldout, _ = chain
    assert judges.c2st(synthetic, heldout, 0) == judges.c2st(synthetic[:60], heldout[:60], 0)


def test_trees_of_bits_need_two_bins(chain: Sets) -> None:
    x, y = np.concatenate(chain[:2]), np.repeat([0, 1], [len(chain[0]), len(chain[1])])
    leaf = int(np.clip(len(x) // judges.ROWS_PER_LEAF, judges.FEWEST_IN_LEAF, judges.MOST_IN_LEAF))
    trees = HistGradientBoostingClassifier(early_stopping=False, min_samples_leaf=leaf, random_state=0).fit(x, y)
    assert np.array_equal(trees.predict_proba(chain[2])[:, 1], judges._trees(x, y, chain[2], 0))


@pytest.mark.parametrize(("n", "real", "made"), [(60, 0.1, 0.03), (100, 0.06, 0.02)])
def test_the_judge_of_few_rows_sees_rare_ones(n: int, real: float, made: float) -> None:
    rng = np.random.default_rng(0)
    heldout, synthetic = ((rng.random((n, 64)) < share).astype(np.uint8) for share in (real, made))
    assert judges.c2st(synthetic, heldout, 0)[0] > 0.6


def test_a_judge_that_sees_nothing_is_not_certain() -> None:
    equal = np.ones((40, 6), np.uint8)
    auc, error = judges.c2st(equal, equal, 0)
    assert auc == 0.5
    assert 0.05 < error < 0.2


def test_the_quick_judge_tells_shuffled_columns_and_not_fresh_rows(chain: Sets) -> None:
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    fresh, caught = (judges.quick_c2st(rows, heldout, train) for rows in (synthetic, shuffled))
    assert 0.4 < fresh < 0.6 < caught
