"""Metrics: synthetic rows against held-out real rows, beside what fresh real rows would score.

Three sets of rows appear throughout, always in this order and, except when looking for copies, at equal n:

    synthetic   what a generator made
    heldout     real rows that it has not seen
    train       real rows that it has seen; compared with the held-out ones they give the floor, the score of fresh
                real rows

A ratio is the distance from synthetic to held-out rows divided by the same distance from training to held-out rows:
1 is as good as fresh real data. `compare` computes everything, most of it with intervals; `quick_score` computes a few
numbers in a fraction of a second. Bits are NumPy arrays uint8 (n, length). text_metrics.py has more numbers for texts.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Scores = dict[str, Any]

TRIPLES = 3000
TRIPLES_SEED = 0
FOLDS = 5
FEWEST_JUDGED = 25  # rows of each kind; with fewer, no AUC is measured
FEWEST_IN_LEAF, MOST_IN_LEAF, ROWS_PER_LEAF = 5, 20, 40  # the judge's trees want one row in a leaf per 40 rows to learn
JUDGED_VALUES = 1 << 21  # values of each kind that the classifier sees, such as 2,048 rows of 1,024 bits
SAMPLES, SAMPLED_VALUES = 10, 10_000_000  # judge up to 10 samples, of about 10,000,000 values in total
BLOCKS = 50  # the bootstrap resamples blocks of rows: with sums kept for each block, a replicate costs next to nothing
FEWEST_RESAMPLED = 10  # rows; with fewer, replicates are mostly alike and would look certain, so there is no interval
REPLICATES = 200
PAIRS_AT_ONCE = 2**21  # of columns, in all replicates together
WORDS_PER_PASS = 1 << 20  # keeps intermediate results within the cache
COMPARED_WORDS = 1 << 31  # limit of 64-bit comparisons between synthetic and real rows: about ten seconds
NORMAL_95 = 1.959964
QUICK_FOLDS, QUICK_ROWS = 2, 1000  # at each tick: the judge's folds, and the most rows of each kind
ROUNDING = 1e-12  # equal correlations may seem to differ by less than this
FEW_COUNTS = 10  # if two sets of real rows differ in fewer counts than this, the floor is mostly luck
NOTABLE_REPEATS = 0.05  # share of held-out rows also found among the training rows above which there is a warning
FOOLED_AUC = 0.45  # an AUC that is certainly below this is not luck: folds of copies teach a judge the opposite
FEWEST_VALUES = 8  # occurrences of a value in one column of real rows that make its absence telling: 2^-8 by chance
# A score whose 95 % interval reaches further than this to either side cannot tell good from bad.
RESOLUTION = {
    "c2st_auc": 0.05,
    "copy_excess": 0.02,
    "marginal_ratio": 0.5,
    "correlation_ratio": 0.5,
    "triple_ratio": 0.5,
}


# --- moments: sums over rows, from which every ratio follows -------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Sums over rows of 0/1 values. Leading axes, if any, are blocks or replicates."""

    pairs: Array  # (2, pairs): the columns i < j of each pair, as `pairs` orders them
    rows: Array  # (...): how many rows
    ones: Array  # (..., length): rows with bit i on
    both: Array  # (..., pairs): rows with bits i and j on
    triples: Array  # (..., triples): rows with three bits on, in the order of `draw_triples`
    totals: Array  # (..., length + 1): rows with that many bits on

    @classmethod
    def of(cls, bits: Bits, chosen: Array | None = None) -> "Moments":
        """The sums of some rows (rows, length), of all pairs of columns or of the chosen ones, (2, pairs)."""
        length = bits.shape[1]
        columns, chosen = _words(bits.T), pairs(length) if chosen is None else chosen
        totals = np.bincount(bits.sum(axis=1, dtype=np.int64), minlength=length + 1)
        return cls(
            chosen,
            np.array(len(bits), np.float64),
            bits.sum(axis=0, dtype=np.float64),
            _rows_with_all(columns, chosen),
            _rows_with_all(columns, draw_triples(length).T),
            totals.astype(np.float64),
        )

    @classmethod
    def resampled(cls, blocks: Sequence[Bits], weights: Array, chosen: Array) -> "Moments":
        """The sums with the rows of block b counted weights[r, b] times, for each replicate r."""
        parts = [cls.of(block, chosen) for block in blocks]
        sums = zip(*((part.rows, part.ones, part.both, part.triples, part.totals) for part in parts), strict=True)
        return cls(chosen, *(weights @ np.stack(each).astype(np.float32) for each in sums))


def _words(bits: Bits) -> Array:
    """Each row's bits packed into 64-bit words, padded with zeros: uint64 (rows, words)."""
    packed = np.packbits(bits, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def _rows_with_all(columns: Array, chosen: Array) -> Floats:
    """The number of rows in which all columns of a set are 1, (sets,).

    Args:
        columns: packed columns, uint64 (columns, words).
        chosen: sets of column numbers, (columns in a set, sets).
    """
    sums = []
    for part in np.array_split(chosen, 1 + chosen.shape[1] * columns.shape[1] // WORDS_PER_PASS, axis=1):
        words = functools.reduce(np.bitwise_and, (columns[column] for column in part))
        sums.append(np.bitwise_count(words).sum(axis=1, dtype=np.float64))
    return np.concatenate(sums)


@functools.lru_cache(maxsize=4)
def pairs(length: int) -> Array:
    """The columns i < j of every pair, (2, pairs), ordered by their distance j - i, then by i."""
    lag = np.repeat(np.arange(1, length), np.arange(length - 1, 0, -1))
    first = np.concatenate([np.arange(length - k) for k in range(1, length)]) if length > 1 else lag
    return np.stack([first, first + lag])


@functools.lru_cache(maxsize=4)
def draw_triples(length: int) -> Array:
    """Triples of different columns, (triples, 3): all if there are at most 3,000, else a seeded sample of 3,000."""
    if math.comb(length, 3) <= TRIPLES:
        every = [(i, j, k) for k in range(length) for j in range(k) for i in range(j)]
        return np.array(every, dtype=np.int64).reshape(-1, 3)
    rng = np.random.default_rng(TRIPLES_SEED)
    found = np.empty((0, 3), np.int64)
    while len(found) < TRIPLES:
        candidates = np.sort(rng.integers(0, length, (2 * TRIPLES, 3)), axis=1)
        distinct = (candidates[:, 0] < candidates[:, 1]) & (candidates[:, 1] < candidates[:, 2])
        found = np.unique(np.concatenate([found, candidates[distinct]]), axis=0)
    return rng.permutation(found)[:TRIPLES]


def correlations(moments: Moments) -> Array:
    """Pearson correlation of each pair of columns, (..., pairs); 0 where a column is constant."""
    first, second = moments.pairs
    mean = moments.ones / moments.rows[..., None]
    spread = np.sqrt(mean * (1 - mean))
    covariance = moments.both / moments.rows[..., None] - mean[..., first] * mean[..., second]
    scale = spread[..., first] * spread[..., second]
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def statistics(moments: Moments) -> dict[str, Array]:
    """Everything that has a distance and a ratio, by the names of COMPARED, each along the last axis.

    They are the column means; the Pearson correlation of every pair of columns; E[x_i x_j x_k] over the triples of
    `draw_triples`; the autocorrelation along the sequence, which is the mean correlation of columns k apart, k = 1 ..
    length / 2; and the distribution function of the number of ones in a row.
    """
    between = correlations(moments)
    return {**_without_pairs(moments), "correlation": between, "lag": _summed_by_lag(between, moments) / _lags(moments)}


def _without_pairs(moments: Moments) -> dict[str, Array]:
    """The statistics that do not need pairs of columns."""
    rows = moments.rows[..., None]
    return {
        "marginal": moments.ones / rows,
        "triple": moments.triples / rows,
        "row_sum": np.cumsum(moments.totals, axis=-1) / rows,
    }


def _lags(moments: Moments) -> Array:
    """How many pairs of columns are k apart, k = 1 .. length / 2."""
    length = moments.ones.shape[-1]
    return np.arange(length - 1, 0, -1)[: max(1, length // 2)]


def _summed_by_lag(values: Array, moments: Moments) -> Array:
    """The sums of the values of pairs (..., pairs) that are k apart, (..., lags), k = 1 .. length / 2."""
    lag = moments.pairs[1] - moments.pairs[0]
    first = np.flatnonzero(np.diff(lag, prepend=0))  # pairs come ordered by lag
    sums = np.zeros((*values.shape[:-1], max(0, moments.ones.shape[-1] - 1)))
    if len(first):
        sums[..., lag[first] - 1] = np.add.reduceat(values, first, axis=-1)
    return sums[..., : len(_lags(moments))]


# --- distances and ratios ------------------------------------------------------------------------------------

COMPARED = ("marginal", "correlation", "triple", "lag", "row_sum")
FEWEST_COLUMNS = {"correlation": 2, "triple": 3, "lag": 2}  # that must vary, or there is nothing to compare


def has_columns(name: str, *real: Moments) -> bool:
    """Whether enough columns vary in the real sets together; else a ratio of 0 to 0 would pass for a perfect one."""
    ones, rows = sum(each.ones for each in real), sum(each.rows for each in real)
    return int(np.count_nonzero((ones > 0) & (ones < rows))) >= FEWEST_COLUMNS.get(name, 0)


def distances(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """How far the statistics of two sets are apart: their mean absolute differences.

    For the numbers of ones in a row it is their Wasserstein-1 distance, the area between the distribution functions.
    """
    gaps = {name: np.abs(a[name] - b[name]) for name in a}
    row_sum = gaps.pop("row_sum").sum(axis=-1)
    means = {name: gap.mean(axis=-1) if gap.shape[-1] else np.zeros(gap.shape[:-1]) for name, gap in gaps.items()}
    return {**means, "row_sum": row_sum}


def _ratio(distance: Array | float, floor: Array | float) -> Array:
    """distance / floor: infinite if only the floor is 0, 1 if both are."""
    distance, floor = (np.where(np.less(each, ROUNDING), 0.0, each) for each in (distance, floor))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((distance == 0) & (floor == 0), 1.0, np.divide(distance, floor))


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
    found, floors = _resampled_distances(blocks, [np.stack(weights) for weights in zip(*drawn, strict=True)])
    errors = {}
    for name in COMPARED:
        ratios = _ratio(found[name], floors[name])
        kept = ratios[np.isfinite(ratios) & (ratios > 0)]
        errors[name] = float(np.std(np.log(kept))) if len(kept) > 1 else math.nan
    return errors


def _resampled_distances(blocks: list[list[Bits]], weights: list[Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The distances of synthetic and of training rows to held-out ones, in each replicate (replicates,).

    Pairs of columns come in parts: of thousands of columns, those of all blocks would take gigabytes.

    Args:
        blocks: the blocks of synthetic, held-out and training rows.
        weights: how often each block counts, (replicates, blocks), for each of the three.
    """
    every, replicates = pairs(blocks[0][0].shape[1]), len(weights[0])
    gaps, lags = np.zeros((2, replicates)), [np.zeros(())] * 3
    for part in np.array_split(every, 1 + every.shape[1] * replicates // PAIRS_AT_ONCE, axis=1):
        sets = [Moments.resampled(*each, part) for each in zip(blocks, weights, strict=True)]
        between = made, real, learned = [correlations(each) for each in sets]
        gaps += [np.abs(each - real).sum(axis=-1, dtype=np.float64) for each in (made, learned)]
        lags = [sums + _summed_by_lag(r, each) for sums, r, each in zip(lags, between, sets, strict=True)]
    s, h, t = ({**_without_pairs(each), "lag": sums / _lags(each)} for each, sums in zip(sets, lags, strict=True))
    found, floors = ({"correlation": gap / max(1, every.shape[1])} for gap in gaps)
    return found | distances(s, h), floors | distances(t, h)


def _replicates(length: int) -> int:
    """Fewer for long rows, because the pairs of columns take the time."""
    return int(np.clip(20_000_000 // max(1, length * length), 40, REPLICATES))


def _bootstrap_weights(rng: np.random.Generator, blocks: int) -> Array:
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks)).astype(np.float32)


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


# --- intervals -----------------------------------------------------------------------------------------------


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


# --- judges: can a classifier tell? --------------------------------------------------------------------------


def c2st(synthetic: Array, heldout: Array, seed: int) -> tuple[float, float]:
    """ROC AUC of a classifier trained to tell synthetic from held-out rows, and its standard error.

    A classifier two-sample test (Lopez-Paz and Oquab 2017): gradient-boosted trees (scikit-learn's defaults, but
    without early stopping and with smaller leaves for few rows), cross-validated, averaged over folds. 0.5 is chance,
    1 is always right. NaN with fewer than FEWEST_JUDGED rows of a kind. Rows beyond JUDGED_VALUES are left out.
    """
    heldout, synthetic = (kind[: JUDGED_VALUES // max(1, kind.shape[1])] for kind in (heldout, synthetic))
    rows = np.concatenate([heldout, synthetic])
    made = np.arange(len(rows)) >= len(heldout)
    return auc_over_folds(made, FOLDS, seed, lambda fit, judge: _trees(rows[fit], made[fit], rows[judge], seed))


def auc_over_folds(made: Array, folds: int, seed: int, score: Callable[[Array, Array], Array]) -> tuple[float, float]:
    """Mean ROC AUC, and its standard error, of a judge that scores each fold after learning from the others.

    Args:
        made: whether each row is synthetic, bool (rows,).
        score: returns how synthetic rows look, given the indices of the rows to learn from and of those to score.

    Returns:
        NaN for both with fewer than FEWEST_JUDGED rows of a kind.
    """
    if min(made.sum(), (~made).sum()) < FEWEST_JUDGED:
        return math.nan, math.nan
    found = []
    for fit, judge in StratifiedKFold(folds, shuffle=True, random_state=seed).split(made, made):
        scores = score(fit, judge)
        found.append(auc_with_variance(scores[made[judge]], scores[~made[judge]]))
    return _mean_over_folds(*zip(*found, strict=True))


def _mean_over_folds(aucs: Sequence[float], variances: Sequence[float]) -> tuple[float, float]:
    """Mean AUC and its standard error.

    Folds are not independent, since their training sets overlap: to 1 / folds comes the ratio of test to training rows,
    1 / (folds - 1) (Nadeau and Bengio 2003).
    """
    folds = len(aucs)
    return float(np.mean(aucs)), math.sqrt(np.mean(variances) * (1 / folds + 1 / (folds - 1)))


def auc_with_variance(positive: Array, negative: Array) -> tuple[float, float]:
    """P(positive score > negative score) + half the ties, and its variance (DeLong et al. 1988).

    The share of the other kind that a score beats is a difference of two ranks (Sun and Xu 2014). If all scores are
    equal, DeLong's variance would be 0 although nothing is known; the variance is then that of random scores.
    """
    ranks = rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    if ranks.min() == ranks.max():
        return 0.5, (m + n + 1) / (12 * m * n)
    beats = (ranks[:m] - rankdata(positive)) / n
    beaten = 1 - (ranks[m:] - rankdata(negative)) / m
    variance = sum(np.var(v, ddof=1) / len(v) for v in (beats, beaten) if len(v) > 1)
    return float(beats.mean()), float(variance)


def _trees(x: Array, y: Array, test_x: Array, seed: int) -> Array:
    """P(y = 1) of the test rows by gradient-boosted trees.

    A split needs a leaf's worth of rows on either side: with the default of 20, a judge of a hundred rows would be
    blind to columns in which one row in eight is 1.
    """
    leaf = int(np.clip(len(x) // ROWS_PER_LEAF, FEWEST_IN_LEAF, MOST_IN_LEAF))
    # With more bins than a bit has values the trees are the same, but take up to five times as long.
    trees = HistGradientBoostingClassifier(max_bins=2, early_stopping=False, min_samples_leaf=leaf, random_state=seed)
    with threadpool_limits(1):  # on a busy machine two threads took sixteen times as long
        return np.asarray(trees.fit(x, y).predict_proba(test_x)[:, 1])


def quick_c2st(synthetic: Bits, heldout: Bits, train: Bits) -> float:
    """A cheap judge for small n: mean AUC over folds of kernel ridge regression, synthetic against held-out rows.

    The kernel is exp(-2 d / mean d) of the Hamming distance d (a Laplace kernel on the corners of the cube). At most
    half of the synthetic rows are judged; others join every fit, opposed to training rows, so that the judge learns
    something even from few held-out rows. NaN with fewer rows than folds.
    """
    n = min(len(heldout), len(synthetic) // 2)
    extra = min(len(train), len(synthetic) - n)
    if n < QUICK_FOLDS:
        return math.nan
    rows = np.concatenate([heldout[:n], synthetic[:n], train[:extra], synthetic[n : n + extra]])
    made = np.repeat([False, True, False, True], [n, n, extra, extra])
    distances = _distances(_words(rows), _words(rows)).astype(np.float32)
    kernel = np.exp(-2 * distances / max(float(distances.mean()), 1e-9))
    aucs = []
    for fit, judge in StratifiedKFold(QUICK_FOLDS, shuffle=True, random_state=0).split(rows[: 2 * n], made[: 2 * n]):
        known = np.concatenate([fit, np.arange(2 * n, len(rows))])
        ridge = kernel[np.ix_(known, known)] + np.float32(0.1) * np.eye(len(known), dtype=np.float32)
        with threadpool_limits(1):
            weights = scipy.linalg.solve(ridge, made[known] - np.float32(0.5), assume_a="pos", check_finite=False)
        scores = kernel[np.ix_(judge, known)] @ weights
        aucs.append(auc_with_variance(scores[made[judge]], scores[~made[judge]])[0])
    return float(np.mean(aucs))


def utility(synthetic: Bits, heldout: Bits, label: int, seed: int) -> float:
    """Train on synthetic, test on real (Esteban et al. 2017): ROC AUC of predicting column `label` from the others.

    NaN if the held-out label is constant; else 0.5 if the synthetic one is, or if there is no other column.
    """
    (x, y), (test_x, test_y) = ((np.delete(bits, label, axis=1), bits[:, label]) for bits in (synthetic, heldout))
    if len(np.unique(test_y)) < 2:
        return math.nan
    if len(np.unique(y)) < 2 or x.shape[1] == 0:
        return 0.5
    return float(roc_auc_score(test_y, _trees(x, y, test_x, seed)))


# --- copies and collapse -------------------------------------------------------------------------------------


def copy_rate(rows: Bits, train: Bits) -> float:
    """Share of the rows that occur among the training rows."""
    return float(np.isin(_keys(rows), _keys(train)).mean())


def distinct_share(rows: Bits) -> float:
    """Distinct rows over all rows; lower than for held-out rows at the same n means mode collapse."""
    return len(np.unique(_keys(rows))) / len(rows)


def nearest(rows: Bits, others: Bits) -> tuple[Array, Array, Array]:
    """For each row: the Hamming distance to its nearest others, the index of the first of these, and their number."""
    a, b = _words(rows), _words(others)
    found = [_nearest(part, b) for part in np.array_split(a, 1 + a.size * len(b) // WORDS_PER_PASS)]
    distance, index, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return distance, index, count


def _nearest(a: Array, b: Array) -> tuple[Array, Array, Array]:
    distances = _distances(a, b)
    at_least = distances == distances.min(axis=1, keepdims=True)
    index = at_least.argmax(axis=1)
    return distances[np.arange(len(a)), index], index, at_least.sum(axis=1)


def _distances(a: Array, b: Array) -> Array:
    """Hamming distances between two sets of packed rows: uint32 (rows of a, rows of b)."""
    distances = np.zeros((len(a), len(b)), np.uint32)
    for word in range(a.shape[1]):
        distances += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return distances


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
    synthetic = synthetic[: max(1, COMPARED_WORDS // (_words(synthetic[:1]).shape[1] * (m + n)))]
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


def _keys(bits: Bits) -> Array:
    """One opaque value for each row, equal for equal rows."""
    words = _words(bits)
    return words.view(np.dtype((np.void, words.shape[1] * 8))).ravel()


# --- all numbers of a set ------------------------------------------------------------------------------------


def compare(
    synthetic: Array,
    heldout: Array,
    train: Array,
    *,
    validation: Array | None = None,
    seed: int = 0,
    label: int | None = None,
) -> Scores:
    """Every number for bits: scores, their floors, 95 % intervals (`<name>_low`, `<name>_high`) and warnings.

    All sets are sampled (by the seed) down to the size n of the smallest; only copies are looked for among all learned
    rows. With several times n synthetic rows, each ratio is the mean over samples of n: a single sample says as much
    about its own luck as about the generator. With `SAMPLES` times n, there are also limits (see `ratio_scores`).

    Args:
        synthetic: (n, length), or more rows. Values other than 0 and 1 are counted as `soft_share`, then rounded.
        heldout, train: (n, length) of 0 and 1.
        validation: (n, length), further rows that a synthetic row may be a copy of.
        label: the column that a model would predict from the others, for `utility`.

    Returns:
        A flat dictionary that JSON can hold; None where a number could not be measured. Ratios that need more columns
        that vary are left out.

    Raises:
        ValueError: a set is empty, differs in length from the others, or holds values outside [0, 1] (`heldout` and
            `train`: anything but 0 and 1).
    """
    soft = soft_share(synthetic)
    synthetic, heldout = _as_bits(synthetic, "synthetic"), _as_bits(heldout, "held-out", real=True)
    train = _as_bits(train, "training", real=True)
    _check_lengths(synthetic, heldout, train)
    rng = np.random.default_rng(seed)
    sizes = {"synthetic_rows": len(synthetic), "heldout_rows": len(heldout), "train_rows": len(train)}
    n = min(sizes.values())
    if n == 0:
        raise ValueError("there are too few rows to compare: " + ", ".join(f"{v} {k}" for k, v in sizes.items()))
    drawn, h, t = (rng.permutation(rows) for rows in (synthetic, heldout, train))
    s, h, t = drawn[:n], h[:n], t[:n]
    scores: Scores = {"n": n, **sizes, "columns": s.shape[1], "soft_share": soft}
    scores |= ratio_scores(drawn[: n * min(SAMPLES, len(drawn) // n)], h, t, seed)
    scores |= _judge_scores(s, h, t, seed) | collapse_scores(s, h)
    known = train if validation is None else np.concatenate([train, _as_bits(validation, "validation")])
    scores |= _copy_scores(s, h, known)
    if label is not None:
        scores |= {"utility": utility(s, h, label, seed), "utility_floor": utility(t, h, label, seed)}
    scores = {name: finite(score) for name, score in scores.items()}
    return {**scores, "warnings": warnings_of(scores)}


def rows_to_judge(n: int, length: int) -> int:
    """How many rows to draw from a generator that is judged against `n` real ones of this length: several samples."""
    return n * min(SAMPLES, max(1, SAMPLED_VALUES // max(1, n * length)))


def quick_score(synthetic: Bits, validation: Bits, train: Bits) -> dict[str, float]:
    """The numbers of `compare` that are cheap enough for every tick of training, on at most `QUICK_ROWS` of each set.

    `score`, the lower the better, ranks checkpoints: the judge's AUC, plus a tenth of the mean logarithm of the three
    ratios (which can still improve while the judge is always right), plus the excess of copies over validation rows.
    """
    rng = np.random.default_rng(0)
    n = min(len(synthetic), len(validation), len(train), QUICK_ROWS)
    s, h, t = (rng.permutation(bits)[:n] for bits in (synthetic, validation, train))
    moments = [Moments.of(bits) for bits in (s, h, t)]
    made, real, learned = map(statistics, moments)
    found, floors = distances(made, real), distances(learned, real)
    scores = {
        f"{name}_ratio": float(_ratio(found[name], floors[name]))
        for name in ("marginal", "correlation", "triple")
        if has_columns(name, *moments[1:])
    }
    worse = np.log(np.clip(list(scores.values()), 1.0, 100.0)).mean()
    scores["c2st_auc"] = quick_c2st(rng.permutation(synthetic)[:QUICK_ROWS], rng.permutation(validation), t)
    scores["copy_excess"], scores["copy_excess_low"], _ = excess(copy_rate(s, train), copy_rate(h, train), n)
    scores["near_copy_share"] = near_copy_share(s, h, t).value
    scores["distinct_ratio"] = distinct_share(s) / distinct_share(h)
    scores["score"] = max(scores["c2st_auc"], 0.5) + 0.1 * float(worse) + max(scores["copy_excess"], 0.0)
    return scores


def soft_share(rows: Array) -> float:
    """Share of the values that are neither 0 nor 1, and so were not rounded."""
    return float(((rows != 0) & (rows != 1)).mean()) if rows.size else 0.0


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
        estimate = float(_ratio(found, floor))
        if (few := _ratio_of_few_counts(name, found, floor, held_out, learned)) is not None:
            estimate, spread = few
            if n >= FEWEST_RESAMPLED:  # counts within a row are correlated, which the Poisson spread ignores
                errors[name] = float(np.nanmax([errors[name], spread]))
        elif together:
            scores |= around(float(_ratio(together[name], floor)), errors[name]).scores(f"{name}_limit")
        scores |= {f"{name}_distance": found, f"{name}_floor": floor}
        scores |= around(estimate, errors[name]).scores(f"{name}_ratio")
    return scores


def _judge_scores(s: Bits, h: Bits, t: Bits, seed: int) -> Scores:
    (auc, error), (floor, _) = c2st(s, h, seed), c2st(t, h, seed)
    return auc_scores("c2st", auc, error) | {"c2st_floor": floor}


def auc_scores(name: str, auc: float, error: float) -> Scores:
    """An AUC with its 95 % interval."""
    reach = NORMAL_95 * error
    return Estimate(auc, max(0.0, auc - reach), min(1.0, auc + reach)).scores(f"{name}_auc")


def collapse_scores(s: Bits, h: Bits) -> Scores:
    made, real = (np.unique(_keys(rows), return_counts=True)[1] for rows in (s, h))
    return distinct_scores(made, real) | constant_columns(s, h)


def constant_columns(s: Bits, h: Bits) -> Scores:
    """How many columns never change, although they should by the held-out rows; and how many never change in those."""
    (flat, real_flat) = ((rows.min(axis=0) == rows.max(axis=0)) for rows in (s, h))
    # If a value occurs k times or more in n real rows, the chance that n other real rows lack it is at most 2^-k.
    # The logarithm corrects for the number of columns that are tested.
    ones = h.sum(axis=0, dtype=np.int64)
    lively = np.minimum(ones, len(h) - ones) >= FEWEST_VALUES + math.log2(max(1, h.shape[1]))
    return {"constant_columns": int((flat & lively).sum()), "heldout_constant_columns": int(real_flat.sum())}


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


def _copy_scores(s: Bits, h: Bits, known: Bits) -> Scores:
    exact = excess_scores("copy", copy_rate(s, known), copy_rate(h, known), len(s))
    return exact | near_copy_share(s, h, known).scores("near_copy_share")


def excess_scores(what: str, rate: float, floor: float, n: int) -> Scores:
    """The shares of copies among `n` synthetic and `n` held-out rows, and the difference with its interval."""
    return {f"{what}_rate": rate, f"{what}_floor": floor, **excess(rate, floor, n).scores(f"{what}_excess")}


def _as_bits(rows: Array, kind: str, real: bool = False) -> Bits:
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise ValueError(f"the {kind} rows must be (rows, length), not {rows.shape}")
    if not ((rows >= 0) & (rows <= 1)).all():
        raise ValueError(f"the {kind} rows hold values outside 0 to 1")
    if real and soft_share(rows):
        raise ValueError(f"the {kind} rows hold values other than 0 and 1")
    return (rows > 0.5).astype(np.uint8)


def _check_lengths(*sets: Bits) -> None:
    lengths = {rows.shape[1] for rows in sets}
    if len(lengths) > 1:
        raise ValueError(f"rows of different lengths: {sorted(lengths)}")


def finite(score: Any) -> Any:
    return None if isinstance(score, float) and not math.isfinite(score) else score


# --- warnings ------------------------------------------------------------------------------------------------


def warnings_of(scores: Scores, *, texts: bool = False) -> list[str]:
    """What a reader must know before believing the scores, worded for rows or for texts."""
    rows = "texts" if texts else "rows"
    constant = "common words are in none or all of" if texts else "columns are constant in"
    found = []
    if scores["soft_share"]:
        found.append(
            f"{scores['soft_share']:.1%} of the synthetic values are neither 0 nor 1: rounded before measuring"
        )
    if scores["constant_columns"]:
        found.append(f"{scores['constant_columns']} {constant} the synthetic {rows}, unlike in the held-out ones")
    if scores["heldout_constant_columns"]:
        found.append(f"{scores['heldout_constant_columns']} {constant} the held-out {rows}: correlations count as 0")
    if scores["copy_floor"] > NOTABLE_REPEATS:
        found.append(repeated_rows(scores["copy_floor"], rows))
    for name in ("c2st_auc", "c2st_conv_auc"):
        high = scores.get(f"{name}_high")
        if high is not None and high < FOOLED_AUC:
            found.append(f"{name} is below 0.5 by more than chance: are {rows} copied from the held-out ones?")
    for name, fewest in FEWEST_COLUMNS.items():
        if f"{name}_ratio" not in scores and not (texts and name == "lag"):
            columns = "common words that some texts lack" if texts else "columns that vary"
            found.append(f"{name}_ratio was not measured: it needs {fewest} {columns}")
    for name, resolution in RESOLUTION.items():
        found += _too_uncertain(name, resolution, scores, texts)
    return found


def repeated_rows(share: float, rows: str = "rows") -> str:
    return (
        f"{share:.0%} of the held-out {rows} are also found among the training {rows}: copying those looks like quality"
    )


def _too_uncertain(name: str, resolution: float, scores: Scores, texts: bool) -> list[str]:
    """A warning if a score's 95 % interval is wider than the differences that matter, or if it was not measured."""
    if name not in scores:
        return []
    n, (score, low, high) = scores["n"], (scores[key] for key in (name, f"{name}_low", f"{name}_high"))
    most = JUDGED_VALUES // max(1, scores["columns"]) if name == "c2st_auc" and not texts else math.inf
    n = int(min(n, most))
    rows = f"{n} {'texts' if texts else 'rows'}"
    if name.startswith("c2st") and n < FEWEST_JUDGED:
        return [f"{name} was not measured: {rows} are too few; it needs {FEWEST_JUDGED}"]
    if name.endswith("_ratio") and n < FEWEST_RESAMPLED:
        return [f"{rows} are too few for an interval of {name}: it needs {FEWEST_RESAMPLED}"]
    if score is None or low is None:
        return [f"{name} is undefined for these {rows}"]
    if high - low <= 2 * resolution:
        return []
    # Intervals shrink with the square root of n, but not that of a ratio which is nothing but noise.
    needed = n * ((high - low) / 2 / resolution) ** 2
    helps = needed <= most and not name.endswith("_ratio")
    remedy = f"; about {_round_up(needed)} would be enough" if helps else ""
    if name.endswith("_ratio"):
        rows += f" and {scores['columns']} common words" if texts else f" of {scores['columns']} columns"
    return [f"{rows} are too few to measure {name} to within {resolution}: it may be {low:.2f} to {high:.2f}{remedy}"]


def _round_up(number: float) -> int:
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / step) * step
