"""Intervals: how far chance may have moved a number."""

import math
from typing import Any, NamedTuple

Scores = dict[str, Any]

NORMAL_95 = 1.959964


class Estimate(NamedTuple):
    """A number and the ends of its 95 % interval, which are NaN if there is none."""

    value: float
    low: float
    high: float

    def scores(self, name: str) -> Scores:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def around(value: float, spread: float) -> Estimate:
    """An estimate whose logarithm has the standard error `spread`."""
    if not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    factor = math.exp(NORMAL_95 * spread)
    return Estimate(value, value / factor, value * factor)


def share_interval(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share among n rows (Wilson 1927)."""
    z2 = NORMAL_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = NORMAL_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def excess(share: float, other: float, n: int) -> Estimate:
    """The difference of two independent shares, each among n rows (Newcombe 1998, method 10)."""
    (low, high), (other_low, other_high) = share_interval(share, n), share_interval(other, n)
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return Estimate(share - other, share - other - below, share - other + above)
