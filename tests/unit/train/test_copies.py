"""Copies and collapse: equal to plain implementations, and told from chance."""

import math
from typing import Any

import numpy as np
import pytest

from train import bits, builtin, copies, intervals
from train.bits import Bits

Sets = tuple[Bits, Bits, Bits]


def plain_nearest(row: Bits, others: Bits) -> int:
    return min(sum(int(x != y) for x, y in zip(row, other, strict=True)) for other in others)


def test_copies_equal_their_definition(sets: Sets) -> None:
    synthetic, _, train = sets
    synthetic = np.concatenate([synthetic[:100], train[:50]])
    among = [any(np.array_equal(row, other) for other in train) for row in synthetic]
    assert copies.copy_rate(synthetic, train) == pytest.approx(np.mean(among), abs=1e-9)
    assert copies.distinct_share(synthetic) == pytest.approx(len({bytes(row) for row in synthetic}) / 150, abs=1e-9)


def test_near_copies_equal_their_definition(sets: Sets) -> None:
    synthetic, heldout, train = sets[0][:60], sets[1][:40], sets[2][:60]
    p = 0.0
    for row in synthetic:
        to_train, to_heldout = ((row != real).sum(axis=1) for real in (train, heldout))
        least = min(to_train.min(), to_heldout.min())
        ours, others = (to_train == least).sum(), (to_heldout == least).sum()
        p += ours / (ours + others) / len(synthetic)
    expected = (p / 60) / (p / 60 + (1 - p) / 40)
    assert copies.near_copy_share(synthetic, heldout, train)[0] == pytest.approx(expected, abs=1e-9)
    distances, indices, counts = bits.nearest(synthetic, train)
    plain = [plain_nearest(row, train) for row in synthetic]
    assert distances.tolist() == plain
    assert counts.tolist() == [
        sum((row != real).sum() == distance for real in train) for row, distance in zip(synthetic, plain, strict=True)
    ]
    assert (synthetic != train[indices]).sum(axis=1).tolist() == distances.tolist()


def test_the_error_of_near_copies_counts_those_of_a_real_row_as_one() -> None:
    train, heldout = np.zeros((2, 8), np.uint8), np.ones((2, 8), np.uint8)
    train[1, :2], heldout[1, :4] = 1, 0
    synthetic = np.repeat(np.concatenate([train[:1], heldout]), [3, 2, 1], axis=0)
    share, *interval = copies.near_copy_share(synthetic, heldout, train)
    assert share == 3 / 6
    error = math.sqrt((3 * 0.5) ** 2 + (2 * 0.5) ** 2 + 0.5**2) / 6
    assert interval == pytest.approx(intervals.share_interval(share, share * (1 - share) / error**2))


def test_the_error_of_near_copies_is_how_they_scatter() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 8))

    def fresh() -> Bits:
        return (rng.random((100, 8)) < 1 / (1 + np.exp(-rng.normal(size=(100, 4)) @ weights))).astype(np.uint8)

    shares, low, high = np.transpose([copies.near_copy_share(fresh(), fresh(), fresh()) for _ in range(150)])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    errors = (high - low) / (2 * intervals.NORMAL_95)
    assert 0.95 < np.mean(errors) / np.std(shares) < 1.4, "rows near the same real row are not independent"


def near_copies(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The rows with one bit flipped in each."""
    made = rows.copy()
    made[np.arange(len(rows)), rng.integers(rows.shape[1], size=len(rows))] ^= 1
    return made


@pytest.mark.parametrize("times", [1, 8])
def test_near_copies_are_seen_however_many_rows_were_learned_from(times: int) -> None:
    rng = np.random.default_rng(times)
    learned, heldout, fresh = (rng.integers(0, 2, (n, 40)).astype(np.uint8) for n in (400 * times, 400, 400))
    _, low, high = copies.near_copy_share(fresh, heldout, learned)
    assert low < 0.5 < high
    copied = near_copies(rng.permutation(learned)[:400], rng)
    assert copies.near_copy_share(copied, heldout, learned)[0] > 0.99
    half = np.concatenate([copied[:200], fresh[:200]])
    _, low, _ = copies.near_copy_share(half, heldout, learned)
    assert low > 0.55


@pytest.mark.parametrize("times", [1, 8])
def test_near_copies_are_told_without_bias_where_many_rows_are_alike(times: int) -> None:
    """Nearly every row of four bits has an exact copy on both sides."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        learned, heldout, fresh = (rng.integers(0, 2, (n, 4)).astype(np.uint8) for n in (40 * times, 40, 200))
        found.append(copies.near_copy_share(fresh, heldout, learned)[0])
    assert abs(np.mean(found) - 0.5) < 0.03


@pytest.mark.parametrize(("learned", "judging"), [(5000, 50), (2475, 25)])
def test_fresh_rows_are_not_taken_for_near_copies_where_few_rows_judge(learned: int, judging: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=(4, 64))
        fresh, heldout, train = (
            (rng.random((n, 64)) < 1 / (1 + np.exp(-rng.normal(size=(n, 4)) @ weights))).astype(np.uint8)
            for n in (judging, judging, learned)
        )
        share, low, high = copies.near_copy_share(fresh, heldout, train)
        assert low < 0.6, share
        assert 0 <= low < share + 1e-9 < high + 2e-9 < 1 + 3e-9


def test_a_collapsed_generator_is_no_certain_copy() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        row, heldout, train = (rng.integers(0, 2, (n, 12)).astype(np.uint8) for n in (1, 30, 100))
        _, low, high = copies.near_copy_share(np.repeat(row, 30, axis=0), heldout, train)
        assert high - low > 0.3


def test_rare_values_that_fresh_rows_lack_by_chance_are_no_constant_columns() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((40, 1000, 1024)) < 4.5 / 1000).astype(np.uint8)  # 4.5 ones per column on average
    counts = [copies.collapse_scores(s, h)["constant_columns"] for s, h in zip(rows[::2], rows[1::2], strict=True)]
    assert counts == [0] * 20
    assert copies.collapse_scores(np.zeros((1000, 1), np.uint8), rows[0, :, :1])["constant_columns"] == 0
    lively = np.zeros((1000, 1024), np.uint8)
    lively[:18, 7] = 1
    assert copies.collapse_scores(np.zeros_like(lively), lively)["constant_columns"] == 1


def test_the_interval_of_distinct_rows_holds_1_for_fresh_rows() -> None:
    found = []
    for seed in range(200):
        rows = np.random.default_rng(seed).permutation(builtin.toy())
        found.append(copies.collapse_scores(rows[:200], rows[200:400]))
    low, high = ([scores[f"distinct_ratio_{end}"] for scores in found] for end in ("low", "high"))
    assert 0.93 < np.mean((np.array(low) <= 1) & (np.array(high) >= 1)) < 1
