"""Constraints: found, told from chance, and counted where rows violate them."""

from itertools import combinations, product

import numpy as np
import pytest

from train import builtin, constraints, metrics
from train.bits import Bits
from train.constraints import satisfied_by, violation_scores


def survey(n: int, seed: int) -> Bits:
    """Rows of which exactly one of the first four columns is 1, and the sixth is the opposite of the fifth."""
    rng = np.random.default_rng(seed)
    coin = rng.integers(0, 2, (n, 1))
    return np.hstack([np.eye(4)[rng.integers(0, 4, n)], coin, 1 - coin, rng.integers(0, 2, (n, 2))]).astype(np.uint8)


def test_pairs_equal_their_definition() -> None:
    rows = survey(300, 0)
    found = constraints._pairs_of(rows, 0)
    told = {(a, i, b, j) for (a, b), pairs in found.items() for i, j in np.argwhere(pairs).tolist()}
    expected = set()
    for i, j in combinations(range(rows.shape[1]), 2):
        for a, b in product((0, 1), repeat=2):
            left, right = rows[:, i] == a, rows[:, j] == b
            enough = left.sum() * right.sum() / 300 >= np.log(2 * 8 * 7 / constraints.RISK)
            if enough and not (left & right).any():
                expected.add((a, i, b, j) if a <= b else (b, j, a, i))
    exclusive = {(1, i, 1, j) for i, j in combinations(range(4), 2)}
    assert told == expected == exclusive | {(0, 4, 0, 5), (1, 4, 1, 5)}


def test_a_group_is_one_constraint() -> None:
    found = satisfied_by(survey(400, 0))
    assert found.groups == [[0, 1, 2, 3]]
    assert {key: np.argwhere(pairs).tolist() for key, pairs in found.pairs.items()} == {
        (0, 0): [[4, 5]],
        (0, 1): [],
        (1, 1): [[4, 5]],
    }
    assert len(found) == 3


def test_groups_of_several_categories_are_found_and_empty_columns_do_not_matter() -> None:
    rows = np.insert(builtin.survey(), [3, 20], 0, axis=1)
    groups = satisfied_by(rows).groups
    assert [len(group) for group in groups] == [5] * 4
    assert all((rows[:, group].sum(axis=1) == 1).all() for group in groups)


def test_a_group_with_an_exception_is_none() -> None:
    rows = survey(400, 0)
    rows[7, :4] = 0
    assert satisfied_by(rows).groups == []


def test_rows_that_violate_a_constraint_are_counted() -> None:
    known, heldout, made = survey(400, 0), survey(200, 1), survey(200, 2)
    made[:10, 4] = made[:10, 5]
    made[5:30, :4] = [1, 1, 0, 0]
    made[30:40, :4] = 0
    scores = violation_scores(made, heldout, known)
    assert (scores["violation_rate"], scores["violation_floor"], scores["constraints"]) == (40 / 200, 0, 3)
    assert scores["violation_excess_low"] > 0.1
    assert np.flatnonzero(satisfied_by(known).violated_by(made)).tolist() == list(range(40))


@pytest.mark.parametrize("length", [0, 1, 2, 40])
def test_independent_columns_have_no_constraints(length: int) -> None:
    rng = np.random.default_rng(0)
    for n in [3, 30, 300] * 15:
        rows = (rng.random((n, length)) < rng.random(length)).astype(np.uint8)
        assert violation_scores(rows, rows, rows) == {}


def test_constant_columns_are_no_constraints() -> None:
    rows = builtin.toy(200)
    rows[:, 0], rows[:, 1] = 1, 0
    assert violation_scores(rows, rows, rows) == {}


def test_fresh_real_rows_violate_as_often_as_held_out_ones() -> None:
    """Some of the pairs that training rows lack are only rare."""
    rows = np.random.default_rng(5).permutation(builtin.digits())
    scores = violation_scores(rows[:400], rows[400:800], rows[800:1300])
    assert scores["violation_floor"] > 0
    assert scores["violation_excess_low"] < 0 < scores["violation_excess_high"]


def test_how_often_fresh_rows_violate_is_told_by_the_known_ones() -> None:
    digits = builtin.digits()
    assert constraints.expected_violations(survey(400, 0)) == 0
    expected, found = [], []
    for seed in range(10):
        rows = np.random.default_rng(seed).permutation(digits)
        expected.append(constraints.expected_violations(rows[800:]))
        found.append(satisfied_by(rows[800:]).violated_by(rows[:800]).mean())
    assert np.mean(expected) == pytest.approx(np.mean(found), abs=0.002)
    assert np.mean(found) > 0.002


def test_violations_are_told() -> None:
    known, heldout = survey(400, 0), survey(200, 1)
    shuffled = np.random.default_rng(0).permuted(known[:200], axis=0)
    told = [metrics.compare(rows, heldout, known)["warnings"] for rows in (survey(200, 2), shuffled)]
    violated = "violate constraints that all training rows satisfy"
    assert [any(violated in line for line in lines) for lines in told] == [False, True]
