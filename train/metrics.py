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
from typing import Any

import numpy as np

from train import judges
from train.bits import Array, Bits
from train.constraints import violation_scores
from train.copies import collapse_scores, copy_rate, copy_scores, distinct_share, near_copy_share
from train.intervals import Scores, excess
from train.moments import Moments, distances, statistics
from train.ratios import FEWEST_COLUMNS, FEWEST_RESAMPLED, SAMPLES, has_columns, ratio, ratio_scores

QUICK_ROWS = 1000  # of each kind, at most, at each tick
NOTABLE_REPEATS = 0.05  # share of held-out rows also found among the training rows above which there is a warning
FOOLED_AUC = 0.45  # an AUC that is certainly below this is not luck: folds of copies teach a judge the opposite
JUDGED_FLOORS = ("c2st_floor", "utility_floor")  # of a judge, which takes most of the time
NOTABLE_VIOLATIONS = 0.01  # share of rows that violate constraints, beyond chance, above which there is a warning
OTHER_SOURCE_AUC = 0.6  # a judge that tells training from held-out rows this well, and beyond chance, gets a warning
# A score whose 95 % interval reaches further than this to either side cannot tell good from bad.
RESOLUTION = {
    "c2st_auc": 0.05,
    "copy_excess": 0.02,
    "marginal_ratio": 0.5,
    "correlation_ratio": 0.5,
    "triple_ratio": 0.5,
}
# What is certainly above this is poor: how wide its interval is does not matter then.
POOR = {"copy_excess": 0.02, "marginal_ratio": 1.5, "correlation_ratio": 1.5, "triple_ratio": 1.5}


def compare(
    synthetic: Array,
    heldout: Array,
    train: Array,
    *,
    validation: Array | None = None,
    seed: int = 0,
    label: int | None = None,
    floor: Scores | None = None,
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
        floor: what this returned for other rows, as many, and the same arguments else: its `JUDGED_FLOORS` are not
            measured again.

    Returns:
        A flat dictionary that JSON can hold; None where a number could not be measured. Ratios that need more columns
        that vary are left out, and so are violations where there are no constraints.

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
    scores |= judges.auc_scores("c2st", *judges.c2st(s, h, seed)) | collapse_scores(s, h)
    known = train if validation is None else np.concatenate([train, _as_bits(validation, "validation")])
    scores |= copy_scores(s, h, known) | violation_scores(s, h, known)
    if label is not None:
        scores["utility"] = judges.utility(s, h, label, seed)
    if floor is None:
        floor = {"c2st_floor": judges.c2st(t, h, seed)[0]}
        floor |= {} if label is None else {"utility_floor": judges.utility(t, h, label, seed)}
    scores |= {name: floor[name] for name in JUDGED_FLOORS if name in floor}
    scores = {name: finite(score) for name, score in scores.items()}
    return {**scores, "warnings": warnings_of(scores)}


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


def soft_share(rows: Array) -> float:
    """Share of the values that are neither 0 nor 1, and so were not rounded."""
    return float(((rows != 0) & (rows != 1)).mean()) if rows.size else 0.0


def finite(score: Any) -> Any:
    return None if isinstance(score, float) and not math.isfinite(score) else score


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
    scores["c2st_auc"] = judges.quick_c2st(rng.permutation(synthetic)[:QUICK_ROWS], rng.permutation(validation), t)
    scores["copy_excess"], scores["copy_excess_low"], _ = excess(copy_rate(s, train), copy_rate(h, train), n)
    scores["near_copy_share"] = near_copy_share(s, h, t).value
    scores["distinct_ratio"] = distinct_share(s) / distinct_share(h)
    scores["score"] = max(scores["c2st_auc"], 0.5) + 0.1 * float(worse) + max(scores["copy_excess"], 0.0)
    return scores


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
        found.append(repeated_rows(scores["copy_floor"], rows, " but for capitals and punctuation" if texts else ""))
    if scores.get("violation_excess_low", 0.0) > NOTABLE_VIOLATIONS:
        found.append(
            f"{scores['violation_rate']:.1%} of the synthetic rows violate constraints that all training rows satisfy, "
            f"such as one 1 in a group of columns (of the held-out rows {scores['violation_floor']:.1%})"
        )
    for name in ("c2st_auc", "c2st_conv_auc"):
        high = scores.get(f"{name}_high")
        if high is not None and high < FOOLED_AUC:
            found.append(f"{name} is below 0.5 by more than chance: are {rows} copied from the held-out ones?")
    for name in ("c2st_floor", "c2st_conv_floor"):
        chance = 3 * math.sqrt((2 * scores["n"] + 1) / 12) / scores["n"]  # standard errors (Hanley and McNeil 1982)
        if (scores.get(name) or 0.0) > max(OTHER_SOURCE_AUC, 0.5 + chance):
            found.append(
                f"{name} is {scores[name]:.2f}: training and held-out {rows} differ by more than chance, so ratios and "
                "floors mean little"
            )
    for name, fewest in FEWEST_COLUMNS.items():
        if f"{name}_ratio" not in scores and not (texts and name == "lag"):
            columns = "common words that some texts lack" if texts else "columns that vary"
            found.append(f"{name}_ratio was not measured: it needs {fewest} {columns}")
    for name, resolution in RESOLUTION.items():
        found += _too_uncertain(name, resolution, scores, texts)
    return found


def repeated_rows(share: float, rows: str = "rows", but_for: str = "") -> str:
    return (
        f"{share:.0%} of the held-out {rows} are also found among the training {rows}{but_for}: copying those looks "
        "like quality"
    )


def _too_uncertain(name: str, resolution: float, scores: Scores, texts: bool) -> list[str]:
    """A warning if a score's 95 % interval is wider than the differences that matter, or if it was not measured."""
    if name not in scores:
        return []
    n, (score, low, high) = scores["n"], (scores[key] for key in (name, f"{name}_low", f"{name}_high"))
    most = judges.JUDGED_VALUES // max(1, scores["columns"]) if name == "c2st_auc" and not texts else math.inf
    n = int(min(n, most))
    rows = f"{n} {'texts' if texts else 'rows'}"
    if name.startswith("c2st") and n < judges.FEWEST_JUDGED:
        return [f"{name} was not measured: {rows} are too few; it needs {judges.FEWEST_JUDGED}"]
    if name.endswith("_ratio") and n < FEWEST_RESAMPLED:
        return [f"{rows} are too few for an interval of {name}: it needs {FEWEST_RESAMPLED}"]
    if score is None or low is None:
        return [f"{name} is undefined for these {rows}"]
    if high - low <= 2 * resolution or low > POOR.get(name, math.inf):
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
