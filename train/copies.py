"""Copies and collapse: synthetic rows that repeat real rows, and those that repeat one another."""

import math

import numpy as np

from train.bits import Array, Bits, nearest, packed_words, row_keys
from train.intervals import Estimate, Scores, around, excess, share_interval

COMPARED_WORDS = 1 << 31  # limit of 64-bit comparisons between synthetic and real rows: about ten seconds
FEWEST_VALUES = 8  # occurrences of a value in one column of real rows that make its absence telling: 2^-8 by chance


def copy_scores(s: Bits, h: Bits, known: Bits) -> Scores:
    """How many synthetic rows repeat a known one, or are nearer to it than chance explains."""
    exact = excess_scores("copy", copy_rate(s, known), copy_rate(h, known), len(s))
    return exact | near_copy_share(s, h, known).scores("near_copy_share")


def copy_rate(rows: Bits, train: Bits) -> float:
    """Share of the rows that occur among the training rows."""
    return float(np.isin(row_keys(rows), row_keys(train)).mean())


def excess_scores(what: str, rate: float, floor: float, n: int) -> Scores:
    """The shares of copies among `n` synthetic and `n` held-out rows, and the difference with its interval."""
    return {f"{what}_rate": rate, f"{what}_floor": floor, **excess(rate, floor, n).scores(f"{what}_excess")}


def near_copy_share(synthetic: Bits, heldout: Bits, learned: Bits) -> Estimate:
    """The share of synthetic rows whose nearest real row is a learned one.

    With m learned and n held-out rows, a generator that has learned the distribution without memorising has a learned
    row nearest in m / (m + n) of the cases, since any real row is equally likely to be it; ties are split evenly. So a
    share of p is reported as (p / m) / (p / m + (1 - p) / n): 0.5 by chance, 1 for copies.

    A real row in a crowded place is nearest to many. Synthetic rows with the same nearest row therefore count as one
    cluster (Liang and Zeger 1986), or the luck of a few real rows would pass for evidence. The interval is Wilson's for
    the number of independent rows that would have the same standard error: if m and n differ much, p is near 0 or 1,
    where the error itself says little.
    """
    m, n = len(learned), len(heldout)
    synthetic = synthetic[: max(1, COMPARED_WORDS // (packed_words(synthetic[:1]).shape[1] * (m + n)))]
    (to_learned, seen, ours), (to_heldout, unseen, others) = (nearest(synthetic, rows) for rows in (learned, heldout))
    closer = np.where(to_learned == to_heldout, ours / (ours + others), to_learned < to_heldout)
    p = closer.mean()
    whose = np.where(to_learned <= to_heldout, seen, m + unseen)
    error = np.linalg.norm(np.bincount(whose, closer - p)) / len(closer)
    independent = p * (1 - p) / error**2 if error > 1e-9 else len(closer) ** 2 / np.square(np.bincount(whose)).sum()
    return Estimate(*(_as_many_of_both(share, m, n) for share in (p, *share_interval(p, independent))))


def _as_many_of_both(p: float, m: int, n: int) -> float:
    """The share that p would be with as many held-out rows as learned ones."""
    return float(p / m / (p / m + (1 - p) / n))


def collapse_scores(s: Bits, h: Bits) -> Scores:
    made, real = (np.unique(row_keys(rows), return_counts=True)[1] for rows in (s, h))
    return distinct_scores(made, real) | constant_columns(s, h)


def distinct_scores(made: Array, real: Array) -> Scores:
    """The share of distinct rows, from the number of times that each occurs.

    The interval uses the jackknife's standard error, which on average is not too small (Efron and Stein 1981): leaving
    out a row lowers the number of distinct rows only if that row occurs once.
    """
    shares, errors = [], []
    for counts in (made, real):
        n, once = counts.sum(), (counts == 1).sum() / counts.sum()
        shares.append(len(counts) / n)
        errors.append(math.sqrt(once * (1 - once) / n) / shares[-1])
    ratio = around(shares[0] / shares[1], math.hypot(*errors))
    return {"distinct_share": shares[0], "distinct_floor": shares[1], **ratio.scores("distinct_ratio")}


def distinct_share(rows: Bits) -> float:
    """Distinct rows over all rows; lower than for held-out rows at the same n means mode collapse."""
    return len(np.unique(row_keys(rows))) / len(rows)


def constant_columns(s: Bits, h: Bits) -> Scores:
    """How many columns never change, although they should by the held-out rows; and how many never change in those."""
    (flat, real_flat) = ((rows.min(axis=0) == rows.max(axis=0)) for rows in (s, h))
    # If a value occurs k times or more in n real rows, the chance that n other real rows lack it is at most 2^-k.
    # The logarithm corrects for the number of columns that are tested.
    ones = h.sum(axis=0, dtype=np.int64)
    lively = np.minimum(ones, len(h) - ones) >= FEWEST_VALUES + math.log2(max(1, h.shape[1]))
    return {"constant_columns": int((flat & lively).sum()), "heldout_constant_columns": int(real_flat.sum())}
