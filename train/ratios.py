"""Ratios: how much further synthetic rows are from held-out ones than training rows are, with intervals.

A ratio is the distance from synthetic to held-out rows divided by the same distance from training to held-out rows:
1 is as good as fresh real data.
"""

import math

import numpy as np
import scipy.special

from train.bits import Array, Bits
from train.intervals import Scores, around
from train.moments import COMPARED, Moments, distances, resampled_distances, statistics

SAMPLES, SAMPLED_VALUES = 10, 10_000_000  # judge up to 10 samples, of about 10,000,000 values in total
FEWEST_COLUMNS = {"correlation": 2, "triple": 3, "lag": 2}  # that must vary, or there is nothing to compare
ROUNDING = 1e-12  # equal correlations may seem to differ by less than this
FEW_COUNTS = 10  # if two sets of real rows differ in fewer counts than this, the floor is mostly luck
BLOCKS = 50  # the bootstrap resamples blocks of rows: with sums kept for each block, a replicate costs next to nothing
FEWEST_RESAMPLED = 10  # rows; with fewer, replicates are mostly alike and would look certain, so there is no interval
REPLICATES = 200


def rows_to_judge(n: int, length: int) -> int:
    """How many rows to draw from a generator that is judged against `n` real ones of this length: several samples."""
    return n * min(SAMPLES, max(1, SAMPLED_VALUES // max(1, n * length)))


def ratio_scores(s: Bits, h: Bits, t: Bits, seed: int) -> Scores:
    """Every ratio of COMPARED for which there are columns, with its distance, its floor and its 95 % interval.

    With all `SAMPLES` there is also `<name>_limit`, the ratio of all of them taken together, in which hardly any of the
    synthetic rows' chance is left; its interval is that of a single sample, so rather too wide. Where the held-out
    rows' chance is all that is left, it is expected at sqrt((1 + 1 / SAMPLES) / 2) = .74; for a generator with exactly
    the moments of the training rows, at 1.02.

    Args:
        s: as many rows as `h`, or a multiple: distances are then means over samples of that size, while the interval
            stays that of one sample.
        h, t: the same number of rows each.
    """
    n, held_out, learned = len(h), Moments.of(h), Moments.of(t)
    real = statistics(held_out)
    samples = [distances(statistics(Moments.of(s[i : i + n])), real) for i in range(0, len(s), n)]
    floors = distances(statistics(learned), real)
    together = distances(statistics(Moments.of(s)), real) if len(samples) == SAMPLES else {}
    errors = log_ratio_errors(s[:n], h, t, seed)
    scores: Scores = {}
    for name in COMPARED:
        if not has_columns(name, held_out, learned):
            continue
        found, floor = float(np.mean([sample[name] for sample in samples])), float(floors[name])
        estimate = float(ratio(found, floor))
        if (few := _ratio_of_few_counts(name, found, floor, held_out, learned)) is not None:
            estimate, spread = few
            if n >= FEWEST_RESAMPLED:  # counts within a row are correlated, which the Poisson spread ignores
                errors[name] = float(np.nanmax([errors[name], spread]))
        elif together:
            scores |= around(float(ratio(together[name], floor)), errors[name]).scores(f"{name}_limit")
        scores |= {f"{name}_distance": found, f"{name}_floor": floor}
        scores |= around(estimate, errors[name]).scores(f"{name}_ratio")
    return scores


def has_columns(name: str, *real: Moments) -> bool:
    """Whether enough columns vary in the real sets together; else a ratio of 0 to 0 would pass for a perfect one."""
    ones, rows = sum(each.ones for each in real), sum(each.rows for each in real)
    return int(np.count_nonzero((ones > 0) & (ones < rows))) >= FEWEST_COLUMNS.get(name, 0)


def ratio(distance: Array | float, floor: Array | float) -> Array:
    """distance / floor: infinite if only the floor is 0, 1 if both are."""
    distance, floor = (np.where(np.less(each, ROUNDING), 0.0, each) for each in (distance, floor))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((distance == 0) & (floor == 0), 1.0, np.divide(distance, floor))


def _ratio_of_few_counts(name: str, distance: float, floor: float, *real: Moments) -> tuple[float, float] | None:
    """A ratio, and the standard error of its logarithm, where held-out and training rows differ in only a few counts.

    The number of such counts is luck, and with none the ratio would be infinite. The measured floor is therefore
    replaced by its expectation for two samples, with the counts (of ones or zeros, whichever are rarer) taken as
    Poisson with the variance of binomial ones. Few counts say little about a single moment, so each is shrunk towards
    the mean of all (Robbins 1956; a gamma prior of shape 1/2); half a count added to their sum keeps that above 0.

    Args:
        real: both real sets.

    Returns:
        None if the floor can be relied on, or is not a difference of counts.
    """
    counted = {"marginal": "ones", "triple": "triples"}.get(name)
    if counted is None or distance == 0:
        return None
    counts = sum(getattr(each, counted) for each in real)
    counts = np.minimum(counts, sum(each.rows for each in real) - counts)
    differing = float(real[0].rows) * len(counts)  # converts a mean distance into a number of counts
    if floor * differing >= FEW_COUNTS:
        return None
    mean = (counts.sum() + 0.5) / (2 * len(counts))
    expected = (counts + 0.5) / (2 + 0.5 / mean)
    expected *= 1 - expected / real[0].rows
    # The mean absolute difference of two Poisson counts (Ramasubban 1958).
    floor = float((2 * expected * (scipy.special.ive(0, 2 * expected) + scipy.special.ive(1, 2 * expected))).sum())
    return distance * differing / floor, math.sqrt(1 / (distance * differing) + 1 / floor)


def log_ratio_errors(synthetic: Bits, heldout: Bits, train: Bits, seed: int) -> dict[str, float]:
    """Bootstrap standard error of the logarithm of every ratio of COMPARED; NaN where it cannot be estimated.

    All are NaN if a set has fewer than FEWEST_RESAMPLED rows.

    Blocks of rows are resampled within each set (Efron and Tibshirani 1993). Resampling adds noise to distance and
    floor alike, which pulls the replicates towards 1; so only their spread is used, on a log scale. Where a distance is
    nothing but noise, the spread is .88 of what it should be: intervals hold the expected ratio in about 93 % of cases,
    not 95 % (EXPERIMENTS.md).
    """
    if min(len(synthetic), len(heldout), len(train)) < FEWEST_RESAMPLED:
        return dict.fromkeys(COMPARED, math.nan)
    rng = np.random.default_rng(seed)
    blocks = [np.array_split(bits, min(BLOCKS, len(bits))) for bits in (synthetic, heldout, train)]
    drawn = [[_bootstrap_weights(rng, len(each)) for each in blocks] for _ in range(_replicates(synthetic.shape[1]))]
    found, floors = resampled_distances(blocks, [np.stack(weights) for weights in zip(*drawn, strict=True)])
    errors = {}
    for name in COMPARED:
        ratios = ratio(found[name], floors[name])
        kept = ratios[np.isfinite(ratios) & (ratios > 0)]
        errors[name] = float(np.std(np.log(kept))) if len(kept) > 1 else math.nan
    return errors


def _replicates(length: int) -> int:
    """Fewer for long rows, because the pairs of columns take the time."""
    return int(np.clip(20_000_000 // max(1, length * length), 40, REPLICATES))


def _bootstrap_weights(rng: np.random.Generator, blocks: int) -> Array:
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks)).astype(np.float32)
