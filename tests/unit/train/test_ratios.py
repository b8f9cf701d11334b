"""Ratios: equal to plain implementations, and without bias or false certainty where counts are few."""

import itertools
import math

import numpy as np
import pytest

from train import moments, ratios
from train.bits import Bits

Sets = tuple[Bits, Bits, Bits]


# Plain implementations of the definitions


def plain_correlations(rows: Bits) -> list[list[float]]:
    columns = [[float(value) for value in column] for column in rows.T]
    centred = [[value - sum(column) / len(column) for value in column] for column in columns]
    norms = [math.sqrt(sum(value * value for value in column)) for column in centred]
    return [
        [
            sum(x * y for x, y in zip(a, b, strict=True)) / (na * nb) if na * nb > 0 else 0.0
            for b, nb in zip(centred, norms, strict=True)
        ]
        for a, na in zip(centred, norms, strict=True)
    ]


def plain_correlation_distance(a: Bits, b: Bits) -> float:
    ra, rb = plain_correlations(a), plain_correlations(b)
    gaps = [abs(ra[i][j] - rb[i][j]) for i, j in itertools.permutations(range(a.shape[1]), 2)]
    return sum(gaps) / len(gaps)


def plain_lag_distance(a: Bits, b: Bits) -> float:
    ra, rb = plain_correlations(a), plain_correlations(b)
    length = a.shape[1]
    gaps = []
    for lag in range(1, length // 2 + 1):
        mean_a, mean_b = (sum(r[i][i + lag] for i in range(length - lag)) / (length - lag) for r in (ra, rb))
        gaps.append(abs(mean_a - mean_b))
    return sum(gaps) / len(gaps)


def plain_triple_distance(a: Bits, b: Bits) -> float:
    gaps = []
    for i, j, k in moments.draw_triples(a.shape[1]):
        share_a, share_b = (np.mean([row[i] * row[j] * row[k] for row in rows]) for rows in (a, b))
        gaps.append(abs(share_a - share_b))
    return float(np.mean(gaps))


def plain_marginal_distance(a: Bits, b: Bits) -> float:
    gaps = [abs(sum(map(int, x)) / len(x) - sum(map(int, y)) / len(y)) for x, y in zip(a.T, b.T, strict=True)]
    return sum(gaps) / len(gaps)


def plain_row_sum_distance(a: Bits, b: Bits) -> float:
    """At equal n, Wasserstein-1 is the mean gap between the sorted values."""
    return float(np.mean(np.abs(np.sort(a.sum(axis=1, dtype=int)) - np.sort(b.sum(axis=1, dtype=int)))))


PLAIN = {
    "marginal": plain_marginal_distance,
    "correlation": plain_correlation_distance,
    "triple": plain_triple_distance,
    "lag": plain_lag_distance,
    "row_sum": plain_row_sum_distance,
}


@pytest.mark.parametrize("name", PLAIN)
def test_ratios_equal_their_definition(sets: Sets, name: str) -> None:
    synthetic, heldout, train = sets
    distance, floor = PLAIN[name](synthetic, heldout), PLAIN[name](train, heldout)
    scores = ratios.ratio_scores(*sets, seed=0)
    assert scores[f"{name}_distance"] == pytest.approx(distance, abs=1e-9)
    assert scores[f"{name}_ratio"] == pytest.approx(distance / floor, abs=1e-9)


def test_parts_of_the_pairs_have_the_intervals_of_all_of_them(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ratios.log_ratio_errors(*chain, seed=0)
    parts: list[int] = []
    resampled = moments.Moments.resampled
    monkeypatch.setattr(moments, "PAIRS_AT_ONCE", 200 * 7)
    monkeypatch.setattr(moments.Moments, "resampled", lambda *args: [parts.append(1), resampled(*args)][1])
    assert ratios.log_ratio_errors(*chain, seed=0) == pytest.approx(whole, rel=1e-5)
    assert len(parts) == 3 * 18  # of 120 pairs


def test_several_samples_are_judged_by_their_mean_ratio(chain: Sets) -> None:
    synthetic, heldout, train = (rows[:60] for rows in chain)
    parts = synthetic[:20], synthetic[20:40], synthetic[40:]
    scores = ratios.ratio_scores(synthetic, heldout[:20], train[:20], seed=0)
    for name in moments.COMPARED:
        mean = np.mean([ratios.ratio_scores(part, heldout[:20], train[:20], 0)[f"{name}_ratio"] for part in parts])
        assert scores[f"{name}_ratio"] == pytest.approx(mean)
        assert scores[f"{name}_ratio_low"] < mean < scores[f"{name}_ratio_high"]
    assert ratios.rows_to_judge(5, 64) == 50
    assert ratios.rows_to_judge(10_000, 64) == 100_000
    assert ratios.rows_to_judge(25_000, 1024) == 25_000


@pytest.mark.parametrize(("length", "ones", "n"), [(6, 0.05, 50), (8, 0.05, 100), (8, 0.02, 300), (3, 0.5, 60)])
def test_fresh_rows_reach_the_limits_where_few_counts_make_the_floor(length: int, ones: float, n: int) -> None:
    missed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        fresh, heldout, train = ((rng.random((k, length)) < ones).astype(np.uint8) for k in (10 * n, n, n))
        scores = ratios.ratio_scores(fresh, heldout, train, seed)
        missed += any(scores[f"{name}_ratio_low"] > bound for name, bound in (("triple", 1.3), ("marginal", 1.5)))
        assert math.isfinite(scores["marginal_ratio"])
        if scores["triple_distance"]:
            assert scores["triple_ratio_low"] < scores["triple_ratio"] < scores["triple_ratio_high"] < math.inf
    assert missed <= 3


def test_rare_triples_that_are_many_times_too_many_are_missed() -> None:
    """They are spread over thousands of triples, each of which occurs in hardly any real row."""
    perfect, found = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        heldout, train, fresh = ((rng.random((n, 30)) < 0.022).astype(np.uint8) for n in (100, 100, 1000))
        made = (rng.random((1000, 30)) < 0.022 * 10 ** (1 / 3)).astype(np.uint8)
        perfect.append(ratios.ratio_scores(fresh, heldout, train, seed))
        found.append(ratios.ratio_scores(made, heldout, train, seed))
    means = [np.mean([scores["triple_ratio"] for scores in each]) for each in (perfect, found)]
    assert 0.8 < means[0] < 1.5
    assert means[1] > 5 * means[0]
    assert sum(scores["triple_ratio_low"] > 1.3 for scores in perfect) <= 1
    assert sum(scores["triple_ratio_low"] > 1.3 for scores in found) >= 6, "so few counts leave wide intervals"


def test_triples_that_no_real_row_has_are_missed() -> None:
    rng = np.random.default_rng(0)
    heldout, train = (np.eye(12, dtype=np.uint8)[rng.integers(0, 12, 2000)] for _ in range(2))
    made = (rng.random((2000, 12)) < 0.25).astype(np.uint8)
    scores = ratios.ratio_scores(made, heldout, train, 0)
    assert scores["triple_floor"] == 0
    assert scores["triple_ratio_low"] > 1.3


def test_a_floor_that_is_nothing_but_rounding_is_none() -> None:
    for seed in range(20):
        synthetic, heldout = np.random.default_rng(seed).integers(0, 2, (2, 30, 2), dtype=np.uint8)
        swapped = 1 - heldout  # has the same correlation
        assert ratios.ratio_scores(synthetic, heldout, swapped, 0)["correlation_ratio"] == np.inf
