"""Judges: can a classifier tell synthetic rows from held-out ones, and what does it learn from them?"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.linalg
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from train.bits import Array, Bits, hamming_distances, packed_words
from train.intervals import NORMAL_95, Estimate, Scores

# As the built-in `map`; `cpus.in_threads` is another.
Map = Callable[[Callable[[tuple[Array, Array]], Array], Iterable[tuple[Array, Array]]], Iterable[Array]]

FOLDS = 5
FEWEST_JUDGED = 25  # rows of each kind; with fewer, no AUC is measured
FEWEST_IN_LEAF, MOST_IN_LEAF, ROWS_PER_LEAF = 5, 20, 40  # the judge's trees want one row in a leaf per 40 rows to learn
JUDGED_VALUES = 1 << 21  # values of each kind that the classifier sees, such as 2,048 rows of 1,024 bits
QUICK_FOLDS = 2  # of the judge that is cheap enough for every tick of training


def auc_scores(name: str, auc: float, error: float) -> Scores:
    """An AUC with its 95 % interval."""
    reach = NORMAL_95 * error
    return Estimate(auc, max(0.0, auc - reach), min(1.0, auc + reach)).scores(f"{name}_auc")


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


def auc_over_folds(
    made: Array, folds: int, seed: int, score: Callable[[Array, Array], Array], each: Map = map
) -> tuple[float, float]:
    """Mean ROC AUC, and its standard error, of a judge that scores each fold after learning from the others.

    Args:
        made: whether each row is synthetic, bool (rows,).
        score: returns how synthetic rows look, given the indices of the rows to learn from and of those to score.
        each: how folds are mapped to scores, one after the other or several at a time.

    Returns:
        NaN for both with fewer than FEWEST_JUDGED rows of a kind.
    """
    if min(made.sum(), (~made).sum()) < FEWEST_JUDGED:
        return math.nan, math.nan
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(made, made))
    found = [
        auc_with_variance(scores[made[judge]], scores[~made[judge]])
        for (_, judge), scores in zip(splits, each(lambda split: score(*split), splits), strict=True)
    ]
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


def auc_error(real: int, synthetic: int) -> float:
    """The standard error of an AUC of .5, given the numbers of rows (Hanley and McNeil 1982); infinite if one is 0."""
    return math.sqrt((real + synthetic + 1) / (12 * real * synthetic)) if real and synthetic else math.inf


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
