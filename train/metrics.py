"""Metrics: synthetic rows against held-out real rows, beside what fresh real rows would score.

Three sets of rows appear throughout, always in this order and, except when looking for copies, at equal n:

    synthetic   what a generator made
    heldout     real rows that it has not seen
    train       real rows that it has seen; compared with the held-out ones they give the floor, the score of fresh
                real rows

`compare` computes everything, most of it with intervals; `quick_score` computes a few numbers in a fraction of a
second. Ratios (ratios.py) are 1 where synthetic rows are as good as fresh real ones. text_metrics.py has more numbers
for texts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from train.bits import Array, Bits, hamming_distances, nearest, packed_words, row_keys
from train.intervals import NORMAL_95, Estimate, Scores, around, excess, share_interval
from train.moments import Moments, distances, statistics
from train.ratios import FEWEST_COLUMNS, FEWEST_RESAMPLED, SAMPLES, has_columns, ratio, ratio_scores

FOLDS = 5
FEWEST_JUDGED = 25  # rows of each kind; with fewer, no AUC is measured
FEWEST_IN_LEAF, MOST_IN_LEAF, ROWS_PER_LEAF = 5, 20, 40  # the judge's trees want one row in a leaf per 40 rows to learn
JUDGED_VALUES = 1 << 21  # values of each kind that the classifier sees, such as 2,048 rows of 1,024 bits
COMPARED_WORDS = 1 << 31  # limit of 64-bit comparisons between synthetic and real rows: about ten seconds
QUICK_FOLDS, QUICK_ROWS = 2, 1000  # at each tick: the judge's folds, and the most rows of each kind
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
    distances = hamming_distances(packed_words(rows), packed_words(rows)).astype(np.float32)
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
    return float(np.isin(row_keys(rows), row_keys(train)).mean())


def distinct_share(rows: Bits) -> float:
    """Distinct rows over all rows; lower than for held-out rows at the same n means mode collapse."""
    return len(np.unique(row_keys(rows))) / len(rows)


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
        f"{name}_ratio": float(ratio(found[name], floors[name]))
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


def _judge_scores(s: Bits, h: Bits, t: Bits, seed: int) -> Scores:
    (auc, error), (floor, _) = c2st(s, h, seed), c2st(t, h, seed)
    return auc_scores("c2st", auc, error) | {"c2st_floor": floor}


def auc_scores(name: str, auc: float, error: float) -> Scores:
    """An AUC with its 95 % interval."""
    reach = NORMAL_95 * error
    return Estimate(auc, max(0.0, auc - reach), min(1.0, auc + reach)).scores(f"{name}_auc")


def collapse_scores(s: Bits, h: Bits) -> Scores:
    made, real = (np.unique(row_keys(rows), return_counts=True)[1] for rows in (s, h))
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
