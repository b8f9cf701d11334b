"""Intervals: those of the papers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import intervals


@given(st.integers(0, 100), st.integers(0, 100))
def test_share_intervals_hold_their_share(count: int, other: int) -> None:
    low, high = intervals.share_interval(count / 100, 100)
    assert 0 <= low <= count / 100 + 1e-12
    assert count / 100 <= high + 1e-12 <= 1 + 1e-12
    _, low, high = intervals.excess(count / 100, other / 100, 100)
    assert low <= (count - other) / 100 + 1e-12
    assert high >= (count - other) / 100 - 1e-12


def test_the_wilson_interval_is_the_one_in_the_paper() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I: 81 of 263.
    assert intervals.share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize(
    ("shares", "expected"), [((0.9, 0.3), (0.1705, 0.8090)), ((1, 0), (0.6075, 1)), ((0, 0), (-0.2775, 0.2775))]
)
def test_the_interval_of_a_difference_is_newcombes(shares: tuple[float, float], expected: tuple[float, float]) -> None:
    # Newcombe (1998), "Interval estimation for the difference between independent proportions", table II, method 10.
    assert intervals.excess(*shares, 10)[1:] == pytest.approx(expected, abs=1e-4)
