"""The metrics: equal to plain implementations, and each failure is caught by the metric meant for it."""

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from train import bits, builtin, intervals, metrics, moments, ratios
from train.bits import Bits

Sets = tuple[Bits, Bits, Bits]


@pytest.fixture
def _no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the slow judge in tests of the other metrics."""
    monkeypatch.setattr(metrics, "c2st", lambda *_: (0.5, 0.01))


# Plain implementations of the definitions


def plain_nearest(row: Bits, others: Bits) -> int:
    return min(sum(int(x != y) for x, y in zip(row, other, strict=True)) for other in others)


def plain_auc(positive: Any, negative: Any) -> float:
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(wins))


def test_copies_equal_their_definition(sets: Sets) -> None:
    synthetic, _, train = sets
    synthetic = np.concatenate([synthetic[:100], train[:50]])
    among = [any(np.array_equal(row, other) for other in train) for row in synthetic]
    assert metrics.copy_rate(synthetic, train) == pytest.approx(np.mean(among), abs=1e-9)
    assert metrics.distinct_share(synthetic) == pytest.approx(len({bytes(row) for row in synthetic}) / 150, abs=1e-9)


def test_near_copies_equal_their_definition(sets: Sets) -> None:
    synthetic, heldout, train = sets[0][:60], sets[1][:40], sets[2][:60]
    p = 0.0
    for row in synthetic:
        to_train, to_heldout = ((row != real).sum(axis=1) for real in (train, heldout))
        least = min(to_train.min(), to_heldout.min())
        ours, others = (to_train == least).sum(), (to_heldout == least).sum()
        p += ours / (ours + others) / len(synthetic)
    expected = (p / 60) / (p / 60 + (1 - p) / 40)
    assert metrics.near_copy_share(synthetic, heldout, train)[0] == pytest.approx(expected, abs=1e-9)
    distances, indices, counts = bits.nearest(synthetic, train)
    plain = [plain_nearest(row, train) for row in synthetic]
    assert distances.tolist() == plain
    assert counts.tolist() == [
        sum((row != real).sum() == distance for real in train) for row, distance in zip(synthetic, plain, strict=True)
    ]
    assert (synthetic != train[indices]).sum(axis=1).tolist() == distances.tolist()


def test_the_judges_auc_equals_its_definition() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 9, 40) / 8, rng.integers(0, 7, 30) / 8
    auc, variance = metrics.auc_with_variance(positive, negative)
    assert auc == pytest.approx(plain_auc(positive, negative), abs=1e-9)
    wins = [
        np.mean([plain_auc([p], negative) for p in positive]),
        np.mean([plain_auc(positive, [n]) for n in negative]),
    ]
    assert wins == pytest.approx([auc, auc])
    of_rows = np.var([plain_auc([p], negative) for p in positive], ddof=1) / 40
    of_columns = np.var([plain_auc(positive, [n]) for n in negative], ddof=1) / 30
    assert variance == pytest.approx(of_rows + of_columns, abs=1e-9)
    assert metrics.auc_with_variance(np.array([1.0]), np.array([0.5])) == (1, 0), "one score does not vary"


# Failures that must be caught


def test_fresh_real_rows_pass(chain: Sets) -> None:
    scores = metrics.compare(*chain)
    assert 0.4 < scores["c2st_auc"] < 0.6
    assert 0.7 < scores["correlation_ratio"] < 1.3
    assert scores["correlation_ratio_low"] < scores["correlation_ratio"] < scores["correlation_ratio_high"]
    assert abs(scores["copy_excess"]) < 0.08
    assert 0.4 < scores["near_copy_share"] < 0.6
    assert scores["distinct_ratio"] > 0.95
    assert scores["soft_share"] == 0
    assert scores["constant_columns"] == 0
    repeated, *uncertain = scores["warnings"]
    assert repeated == metrics.repeated_rows(scores["copy_floor"])
    assert all(warning.startswith("400 rows") for warning in uncertain), "the others only say that 400 are few"


def test_shuffled_columns_are_caught_by_correlations_and_the_judge(chain: Sets) -> None:
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    scores = metrics.compare(shuffled, heldout, train)
    assert scores["marginal_ratio"] < 1.3, "the means are those of real rows"
    assert scores["correlation_ratio_low"] > 1.3
    assert scores["lag_ratio"] > 2
    assert scores["c2st_auc_low"] > 0.7


@pytest.mark.usefixtures("_no_judge")
def test_permuted_columns_are_caught_by_lags(chain: Sets) -> None:
    synthetic, heldout, train = chain
    permuted = synthetic[:, np.random.default_rng(0).permutation(synthetic.shape[1])]
    assert metrics.compare(permuted, heldout, train)["lag_ratio_low"] > 1.05


@pytest.mark.usefixtures("_no_judge")
def test_copies_of_training_rows_are_caught_by_copy_excess(chain: Sets) -> None:
    _, heldout, train = chain
    scores = metrics.compare(train.copy(), heldout, train)
    assert scores["copy_rate"] == 1
    assert scores["copy_excess_low"] > 0.5
    assert scores["near_copy_share_low"] > 0.8


@pytest.mark.usefixtures("_no_judge")
def test_copies_of_validation_rows_are_copies_too(chain: Sets) -> None:
    synthetic, heldout, train = chain
    scores = metrics.compare(synthetic, heldout, train, validation=synthetic[:0])
    assert scores == metrics.compare(synthetic, heldout, train)
    assert scores["copy_rate"] < 0.5
    scores = metrics.compare(synthetic, heldout, train, validation=synthetic)
    assert scores["copy_rate"] == 1
    assert scores["copy_excess_low"] > 0.5
    assert scores["train_rows"] == len(train)


@pytest.mark.usefixtures("_no_judge")
def test_near_copies_are_caught_although_no_row_is_a_copy(chain: Sets) -> None:
    _, heldout, train = chain
    near = train.copy()
    near[:, 5] ^= 1
    scores = metrics.compare(near, heldout, train)
    assert scores["copy_rate"] < 0.1
    assert scores["near_copy_share_low"] > 0.7


def test_the_error_of_near_copies_counts_those_of_a_real_row_as_one() -> None:
    train, heldout = np.zeros((2, 8), np.uint8), np.ones((2, 8), np.uint8)
    train[1, :2], heldout[1, :4] = 1, 0
    synthetic = np.repeat(np.concatenate([train[:1], heldout]), [3, 2, 1], axis=0)
    share, *interval = metrics.near_copy_share(synthetic, heldout, train)
    assert share == 3 / 6
    error = math.sqrt((3 * 0.5) ** 2 + (2 * 0.5) ** 2 + 0.5**2) / 6
    assert interval == pytest.approx(intervals.share_interval(share, share * (1 - share) / error**2))


def test_the_error_of_near_copies_is_how_they_scatter() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 8))

    def fresh() -> Bits:
        return (rng.random((100, 8)) < 1 / (1 + np.exp(-rng.normal(size=(100, 4)) @ weights))).astype(np.uint8)

    shares, low, high = np.transpose([metrics.near_copy_share(fresh(), fresh(), fresh()) for _ in range(150)])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    errors = (high - low) / (2 * intervals.NORMAL_95)
    assert 0.95 < np.mean(errors) / np.std(shares) < 1.4, "rows near the same real row are not independent"


@pytest.mark.usefixtures("_no_judge")
def test_constant_columns_are_counted(chain: Sets) -> None:
    synthetic, heldout, train = (rows.copy() for rows in chain)
    synthetic[:, :3] = 1
    heldout[:, 2] = 1
    scores = metrics.compare(synthetic, heldout, train)
    assert scores["constant_columns"] == 2
    assert scores["heldout_constant_columns"] == 1
    assert any("2 columns are constant" in warning for warning in scores["warnings"])
    assert np.isfinite(scores["correlation_ratio"])


def test_rare_values_that_fresh_rows_lack_by_chance_are_no_constant_columns() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((40, 1000, 1024)) < 4.5 / 1000).astype(np.uint8)  # 4.5 ones per column on average
    counts = [metrics.collapse_scores(s, h)["constant_columns"] for s, h in zip(rows[::2], rows[1::2], strict=True)]
    assert counts == [0] * 20
    assert metrics.collapse_scores(np.zeros((1000, 1), np.uint8), rows[0, :, :1])["constant_columns"] == 0
    lively = np.zeros((1000, 1024), np.uint8)
    lively[:18, 7] = 1
    assert metrics.collapse_scores(np.zeros_like(lively), lively)["constant_columns"] == 1


def test_the_interval_of_distinct_rows_holds_1_for_fresh_rows() -> None:
    found = []
    for seed in range(200):
        rows = np.random.default_rng(seed).permutation(builtin.toy())
        found.append(metrics.collapse_scores(rows[:200], rows[200:400]))
    low, high = ([scores[f"distinct_ratio_{end}"] for scores in found] for end in ("low", "high"))
    assert 0.93 < np.mean((np.array(low) <= 1) & (np.array(high) >= 1)) < 1


def test_mode_collapse_is_caught_by_distinct_rows(chain: Sets) -> None:
    synthetic, heldout, train = chain
    scores = metrics.compare(np.tile(synthetic[:5], (80, 1)), heldout, train)
    assert scores["distinct_share"] == 5 / 400
    assert scores["distinct_ratio"] < 0.05
    assert scores["distinct_ratio_high"] < 0.05
    assert scores["c2st_auc_low"] > 0.9


@pytest.mark.usefixtures("_no_judge")
def test_soft_output_is_caught_although_it_would_round_to_real_rows(chain: Sets) -> None:
    synthetic, heldout, train = chain
    soft = np.where(synthetic, 0.9, 0.0)
    scores = metrics.compare(soft, heldout, train)
    assert scores["soft_share"] == pytest.approx(synthetic.mean())
    assert any("neither 0 nor 1" in warning for warning in scores["warnings"])
    rounded = metrics.compare(synthetic, heldout, train)
    assert scores["correlation_ratio"] == rounded["correlation_ratio"]


@pytest.mark.usefixtures("_no_judge")
def test_a_collapsed_row_sum_is_caught(chain: Sets) -> None:
    synthetic, heldout, train = chain
    balanced = synthetic[(synthetic.sum(axis=1) == 9)]
    balanced = np.resize(balanced, synthetic.shape)
    assert metrics.compare(balanced, heldout, train)["row_sum_ratio"] > 3


@pytest.mark.usefixtures("_no_judge")
def test_utility_is_lost_when_the_label_is_shuffled(chain: Sets) -> None:
    synthetic, heldout, train = chain
    good = metrics.compare(synthetic, heldout, train, label=8)
    shuffled = synthetic.copy()
    shuffled[:, 8] = np.random.default_rng(0).permutation(shuffled[:, 8])
    assert good["utility"] == pytest.approx(good["utility_floor"], abs=0.08)
    assert metrics.utility(shuffled, heldout, 8, 0) < good["utility"] - 0.1
    shuffled[:, 8] = 1
    assert metrics.utility(shuffled, heldout, 8, 0) == 0.5
    assert math.isnan(metrics.utility(synthetic, shuffled, 8, 0))
    assert metrics.utility(synthetic[:, :1], heldout[:, :1], 0, 0) == 0.5, "there is no other column"


def test_the_floors_are_of_real_rows_alone(chain: Sets) -> None:
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    good, bad = (metrics.compare(rows, heldout, train, label=8) for rows in (synthetic, shuffled))
    for name in ("utility", "c2st"):
        assert bad[f"{name}_floor"] == good[f"{name}_floor"]
    assert bad["utility"] != good["utility"]
    assert bad["c2st_auc"] != good["c2st_auc"]


def test_few_rows_are_said_to_be_few(chain: Sets) -> None:
    synthetic, heldout, train = (rows[:100] for rows in chain)
    warnings = metrics.compare(synthetic, heldout, train)["warnings"]
    assert any(w.startswith("100 rows are too few to measure c2st_auc to within 0.05") for w in warnings)
    assert any("copy_excess" in w for w in warnings)
    assert any(
        w.startswith("100 rows of 16 columns are too few to measure triple_ratio to within 0.5") for w in warnings
    )


@pytest.mark.parametrize("n", [4, metrics.FEWEST_JUDGED - 1])
def test_the_judge_needs_some_rows(chain: Sets, n: int) -> None:
    scores = metrics.compare(*(rows[:n] for rows in chain))
    assert scores["c2st_auc"] is None
    assert f"c2st_auc was not measured: {n} rows are too few; it needs 25" in scores["warnings"]
    json.dumps(scores, allow_nan=False)


@pytest.mark.usefixtures("_no_judge")
@pytest.mark.parametrize("n", [1, 2, ratios.FEWEST_RESAMPLED - 1, ratios.FEWEST_RESAMPLED])
def test_a_ratio_of_a_few_rows_has_no_interval_and_a_warning(chain: Sets, n: int) -> None:
    scores = metrics.compare(*(rows[:n] for rows in chain))
    enough = n == ratios.FEWEST_RESAMPLED
    for name in ("marginal_ratio", "correlation_ratio", "triple_ratio"):
        assert (scores[f"{name}_low"] is not None) == (scores[f"{name}_high"] is not None) == enough
        told = [
            warning
            for warning in scores["warnings"]
            if f"are too few for an interval of {name}: it needs 10" in warning
        ]
        assert len(told) == (not enough)


def test_the_judge_tells_ones_from_zeros_with_the_fewest_rows() -> None:
    ones = np.ones((metrics.FEWEST_JUDGED, 6), np.uint8)
    assert metrics.c2st(ones, 0 * ones, 0)[0] == 1


def test_the_error_of_the_judges_auc_is_how_it_scatters(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest_mean(x: Bits, y: Any, test_x: Bits, seed: int) -> Any:
        return test_x @ (x[y].mean(axis=0) - x[~y].mean(axis=0))

    monkeypatch.setattr(metrics, "_trees", nearest_mean)
    pool, rng = np.concatenate(chain), np.random.default_rng(0)
    found = [metrics.c2st(*(pool[rng.integers(0, 1200, 100)] for _ in range(2)), seed) for seed in range(200)]
    aucs, errors = np.transpose(found)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)
    assert 0.9 < np.mean(errors) / np.std(aucs) < 1.2, "folds share training rows, so they are not independent"


@pytest.mark.parametrize(
    ("auc", "low", "high"), [(0.99, 0.99 - 0.0392, 1), (0.01, 0, 0.01 + 0.0392), (0.5, 0.4608, 0.5392)]
)
def test_the_judges_interval_is_one_of_aucs(
    chain: Sets, monkeypatch: pytest.MonkeyPatch, auc: float, low: float, high: float
) -> None:
    monkeypatch.setattr(metrics, "c2st", lambda *_: (auc, 0.02))
    scores = metrics.compare(*(rows[:30] for rows in chain))
    assert (scores["c2st_auc_low"], scores["c2st_auc_high"]) == pytest.approx((low, high), abs=1e-4)


def test_the_judge_sees_a_bounded_number_of_values(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "JUDGED_VALUES", 60 * 16 + 15)
    synthetic, heldout, _ = chain
    assert metrics.c2st(synthetic, heldout, 0) == metrics.c2st(synthetic[:60], heldout[:60], 0)


def test_trees_of_bits_need_two_bins(chain: Sets) -> None:
    x, y = np.concatenate(chain[:2]), np.repeat([0, 1], [len(chain[0]), len(chain[1])])
    leaf = int(np.clip(len(x) // metrics.ROWS_PER_LEAF, metrics.FEWEST_IN_LEAF, metrics.MOST_IN_LEAF))
    trees = HistGradientBoostingClassifier(early_stopping=False, min_samples_leaf=leaf, random_state=0).fit(x, y)
    assert np.array_equal(trees.predict_proba(chain[2])[:, 1], metrics._trees(x, y, chain[2], 0))


@pytest.mark.usefixtures("_no_judge")
def test_limits_leave_out_the_chance_of_the_synthetic_rows() -> None:
    rows = builtin.chain(n=400 * (ratios.SAMPLES + 2), length=16)
    made, heldout, train = rows[:-800], rows[-800:-400], rows[-400:]
    limits = {f"{name}_limit": f"{name}_ratio" for name in moments.COMPARED}
    fresh = metrics.compare(made, heldout, train)
    assert all(fresh[f"{limit}_low"] < fresh[limit] < fresh[ratio] for limit, ratio in limits.items())
    assert fresh["correlation_limit"] == pytest.approx(0.74, abs=0.1)
    memorised = metrics.compare(np.tile(train, (ratios.SAMPLES, 1)), heldout, train)
    assert [memorised[limit] for limit in limits] == pytest.approx([1.0] * len(limits))
    assert not limits.keys() & metrics.compare(made[1:], heldout, train).keys()


@pytest.mark.usefixtures("_no_judge")
@pytest.mark.parametrize(("rows", "judged"), [(30, 20), (50, 40), (400, 20 * ratios.SAMPLES)])
def test_samples_are_whole_and_not_too_many(
    chain: Sets, monkeypatch: pytest.MonkeyPatch, rows: int, judged: int
) -> None:
    sizes: list[int] = []
    ratio_scores = metrics.ratio_scores
    monkeypatch.setattr(metrics, "ratio_scores", lambda s, *rest: sizes.append(len(s)) or ratio_scores(s, *rest))
    metrics.compare(chain[0][:rows], chain[1][:20], chain[2])
    assert sizes == [judged]


def test_sizes_are_made_equal_and_the_seed_decides(chain: Sets) -> None:
    synthetic, heldout, train = chain
    scores = metrics.compare(synthetic[:80], heldout[:90], train, seed=3)
    assert scores["n"] == 80
    assert (scores["synthetic_rows"], scores["heldout_rows"], scores["train_rows"]) == (80, 90, 400)
    assert metrics.compare(synthetic[:80], heldout[:90], train, seed=3) == scores
    assert metrics.compare(synthetic[:80], heldout[:90], train, seed=4) != scores


def near_copies(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The rows with one bit flipped in each."""
    made = rows.copy()
    made[np.arange(len(rows)), rng.integers(rows.shape[1], size=len(rows))] ^= 1
    return made


@pytest.mark.parametrize("times", [1, 8])
def test_near_copies_are_seen_however_many_rows_were_learned_from(times: int) -> None:
    rng = np.random.default_rng(times)
    learned, heldout, fresh = (rng.integers(0, 2, (n, 40)).astype(np.uint8) for n in (400 * times, 400, 400))
    _, low, high = metrics.near_copy_share(fresh, heldout, learned)
    assert low < 0.5 < high
    copied = near_copies(rng.permutation(learned)[:400], rng)
    assert metrics.near_copy_share(copied, heldout, learned)[0] > 0.99
    half = np.concatenate([copied[:200], fresh[:200]])
    _, low, _ = metrics.near_copy_share(half, heldout, learned)
    assert low > 0.55


@pytest.mark.parametrize("times", [1, 8])
def test_near_copies_are_told_without_bias_where_many_rows_are_alike(times: int) -> None:
    """Nearly every row of four bits has an exact copy on both sides."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        learned, heldout, fresh = (rng.integers(0, 2, (n, 4)).astype(np.uint8) for n in (40 * times, 40, 200))
        found.append(metrics.near_copy_share(fresh, heldout, learned)[0])
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
        share, low, high = metrics.near_copy_share(fresh, heldout, train)
        assert low < 0.6, share
        assert 0 <= low < share + 1e-9 < high + 2e-9 < 1 + 3e-9


def test_a_collapsed_generator_is_no_certain_copy() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        row, heldout, train = (rng.integers(0, 2, (n, 12)).astype(np.uint8) for n in (1, 30, 100))
        _, low, high = metrics.near_copy_share(np.repeat(row, 30, axis=0), heldout, train)
        assert high - low > 0.3


@pytest.mark.parametrize(("n", "real", "made"), [(60, 0.1, 0.03), (100, 0.06, 0.02)])
def test_the_judge_of_few_rows_sees_rare_ones(n: int, real: float, made: float) -> None:
    rng = np.random.default_rng(0)
    heldout, synthetic = ((rng.random((n, 64)) < share).astype(np.uint8) for share in (real, made))
    assert metrics.c2st(synthetic, heldout, 0)[0] > 0.6


def test_a_judge_that_sees_nothing_is_not_certain() -> None:
    equal = np.ones((40, 6), np.uint8)
    auc, error = metrics.c2st(equal, equal, 0)
    assert auc == 0.5
    assert 0.05 < error < 0.2


def test_more_rows_than_the_judge_takes_are_not_advised(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "JUDGED_VALUES", 60 * 16)
    warnings = metrics.compare(*chain)["warnings"]
    (told,) = (line for line in warnings if "c2st_auc" in line)
    assert told.startswith("60 rows are too few to measure c2st_auc to within 0.05")
    assert "would be enough" not in told


def test_copies_of_the_rows_that_judge_are_told(chain: Sets) -> None:
    _, heldout, train = chain
    warnings = metrics.compare(heldout.copy(), heldout, train)["warnings"]
    assert "c2st_auc is below 0.5 by more than chance: are rows copied from the held-out ones?" in warnings
    assert not any("below 0.5" in warning for warning in metrics.compare(*chain)["warnings"])


@pytest.mark.usefixtures("_no_judge")
def test_everything_fits_into_json(sets: Sets) -> None:
    assert json.loads(json.dumps(metrics.compare(*sets), allow_nan=False))["n"] == 150


@pytest.mark.usefixtures("_no_judge")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_rows_can_be_compared(length: int) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (90, length)).astype(np.uint8)
    scores = metrics.compare(rows[:30], rows[30:60], rows[60:])
    assert scores["columns"] == length
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize(
    ("synthetic", "real", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), "different lengths"),
        (np.full((3, 4), 2), np.zeros((3, 4)), "synthetic rows hold values outside 0 to 1"),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), "synthetic rows hold values outside 0 to 1"),
        (np.zeros((3, 4)), np.full((3, 4), 0.5), "held-out rows hold values other than 0 and 1"),
        (np.zeros((0, 4)), np.zeros((3, 4)), "too few rows"),
        (np.zeros(4), np.zeros((3, 4)), "must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(synthetic: Any, real: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.compare(synthetic, real, real)


# Quick scores, for use during training


def test_the_quick_score_ranks_like_the_judge(chain: Sets) -> None:
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    scores = [metrics.quick_score(rows, heldout, train)["score"] for rows in (synthetic, shuffled, train)]
    assert scores[0] < scores[1], "worse statistics"
    assert scores[0] < scores[2], "copies"


def test_the_quick_judge_tells_shuffled_columns_and_not_fresh_rows(chain: Sets) -> None:
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    fresh, caught = (metrics.quick_c2st(rows, heldout, train) for rows in (synthetic, shuffled))
    assert 0.4 < fresh < 0.6 < caught


def test_where_the_quick_judge_is_always_right_the_ratios_still_rank(
    chain: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "quick_c2st", lambda *_: 1.0)
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    found = [metrics.quick_score(rows, heldout, train) for rows in (synthetic, shuffled, train, heldout)]
    for scores in found:
        ratios = [scores[f"{name}_ratio"] for name in ("marginal", "correlation", "triple")]
        worse = sum(math.log(min(max(ratio, 1), 100)) for ratio in ratios) / 3
        assert scores["score"] == pytest.approx(1 + 0.1 * worse + max(scores["copy_excess"], 0))
    assert found[0]["score"] < found[1]["score"]
    monkeypatch.setattr(metrics, "quick_c2st", lambda *_: 0.3)
    assert metrics.quick_score(synthetic, heldout, train)["score"] == pytest.approx(found[0]["score"] - 0.5)


@pytest.mark.usefixtures("_no_judge")
def test_the_quick_ratios_are_those_of_compare(sets: Sets) -> None:
    quick, whole = metrics.quick_score(*sets), metrics.compare(*sets)
    for name in ("marginal_ratio", "correlation_ratio", "triple_ratio", "copy_excess", "near_copy_share"):
        assert quick[name] == pytest.approx(whole[name])


@pytest.fixture
def _no_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "c2st", lambda *_: (0.5, 0.01))


@pytest.mark.usefixtures("_no_judges")
def test_of_sorted_rows_those_that_are_compared_are_drawn_from_all() -> None:
    rows = builtin.chain(1000, length=16)
    heldout, train = (part[np.lexsort(part.T)] for part in (rows[:400], rows[400:800]))
    scores = metrics.compare(rows[800:900], heldout, train)
    assert scores["n"] == 100
    assert scores["marginal_distance"] < 0.1
    assert scores["marginal_floor"] < 0.1


@pytest.mark.usefixtures("_no_judges")
def test_the_quick_numbers_of_collapse_and_copies_are_those_of_compare() -> None:
    rows = builtin.chain(1300, length=24)
    heldout, train = rows[:100], rows[100:1300]
    made = np.concatenate([train[1000:1050], np.tile(rows[:5], (10, 1))])
    quick, whole = metrics.quick_score(made, heldout, train), metrics.compare(made, heldout, train)
    for name in ("distinct_ratio", "copy_excess"):
        assert quick[name] == pytest.approx(whole[name]), name
    assert quick["distinct_ratio"] < 0.6
    assert quick["copy_excess"] > 0.4


@pytest.mark.usefixtures("_no_judges")
def test_soft_values_are_rounded_to_the_nearer() -> None:
    rows = builtin.chain(300, length=16)
    soft, plain = (
        metrics.compare(made, rows[100:200], rows[200:]) for made in (np.where(rows[:100], 0.6, 0.4), rows[:100])
    )
    assert soft["soft_share"] == 1
    assert soft["marginal_ratio"] == plain["marginal_ratio"]


@pytest.mark.usefixtures("_no_judges")
@pytest.mark.parametrize("columns", [3, 12])
def test_it_does_not_matter_which_value_is_called_one(columns: int) -> None:
    rng = np.random.default_rng(1)
    sets = [(rng.random((1000, columns)) < share).astype(np.uint8) for share in (0.97, 0.999, 0.999)]
    plain, inverted = metrics.compare(*sets), metrics.compare(*(1 - rows for rows in sets))
    assert plain["marginal_ratio"] > 5
    assert plain["marginal_ratio"] == pytest.approx(inverted["marginal_ratio"])


@pytest.mark.parametrize(
    ("columns", "constant", "there"),
    [(1, 0, set()), (2, 0, {"correlation", "lag"}), (3, 2, set()), (3, 3, set())],
)
def test_what_takes_more_columns_than_vary_is_not_measured(columns: int, constant: int, there: set[str]) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (300, columns), dtype=np.uint8)
    rows[:, :constant] = 1
    sets = rows[:100], rows[100:200], rows[200:]
    scores, quick = metrics.compare(*sets), metrics.quick_score(*sets)
    missing = {"correlation", "triple", "lag"} - there
    assert not {name for name in {*scores, *quick} if name.partition("_")[0] in missing}
    assert {f"{name}_ratio" for name in there} < scores.keys()
    noted = {each.split()[0] for each in scores["warnings"] if "columns that vary" in each}
    assert noted == {f"{name}_ratio" for name in missing}
