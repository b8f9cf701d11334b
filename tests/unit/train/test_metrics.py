"""The metrics: each failure is caught by the metric meant for it, and what is uncertain is said to be."""

import json
import math
from typing import Any

import numpy as np
import pytest

from train import builtin, judges, metrics, moments, ratios
from train.bits import Bits

Sets = tuple[Bits, Bits, Bits]


@pytest.fixture
def _no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the slow judge in tests of the other metrics."""
    monkeypatch.setattr(judges, "c2st", lambda *_: (0.5, 0.01))


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
    assert judges.utility(shuffled, heldout, 8, 0) < good["utility"] - 0.1
    shuffled[:, 8] = 1
    assert judges.utility(shuffled, heldout, 8, 0) == 0.5
    assert math.isnan(judges.utility(synthetic, shuffled, 8, 0))
    assert judges.utility(synthetic[:, :1], heldout[:, :1], 0, 0) == 0.5, "there is no other column"


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


def test_what_is_certainly_poor_is_not_called_uncertain(chain: Sets) -> None:
    _, heldout, train = (rows[:100] for rows in chain)
    scores = metrics.compare(np.repeat(train[:4], 25, axis=0), heldout, train)
    for name in ("copy_excess", "correlation_ratio"):
        assert scores[f"{name}_high"] - scores[f"{name}_low"] > 2 * metrics.RESOLUTION[name], "its interval is wide"
        assert not any(name in warning for warning in scores["warnings"])


@pytest.mark.parametrize("n", [4, judges.FEWEST_JUDGED - 1])
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


@pytest.mark.parametrize(
    ("auc", "low", "high"), [(0.99, 0.99 - 0.0392, 1), (0.01, 0, 0.01 + 0.0392), (0.5, 0.4608, 0.5392)]
)
def test_the_judges_interval_is_one_of_aucs(
    chain: Sets, monkeypatch: pytest.MonkeyPatch, auc: float, low: float, high: float
) -> None:
    monkeypatch.setattr(judges, "c2st", lambda *_: (auc, 0.02))
    scores = metrics.compare(*(rows[:30] for rows in chain))
    assert (scores["c2st_auc_low"], scores["c2st_auc_high"]) == pytest.approx((low, high), abs=1e-4)


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


def test_more_rows_than_the_judge_takes_are_not_advised(chain: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGED_VALUES", 60 * 16)
    warnings = metrics.compare(*chain)["warnings"]
    (told,) = (line for line in warnings if "c2st_auc" in line)
    assert told.startswith("60 rows are too few to measure c2st_auc to within 0.05")
    assert "would be enough" not in told


def test_training_rows_from_another_source_are_told(chain: Sets) -> None:
    """For instance of a sorted file, or of another month: every ratio is then relative to a floor that says nothing."""
    synthetic, heldout, train = chain
    told = [metrics.compare(synthetic, heldout, rows)["warnings"] for rows in (train, 1 - train)]
    different = "training and held-out rows differ by more than chance, so ratios and floors mean little"
    assert [any(different in line for line in lines) for lines in told] == [False, True]


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


def test_where_the_quick_judge_is_always_right_the_ratios_still_rank(
    chain: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "quick_c2st", lambda *_: 1.0)
    synthetic, heldout, train = chain
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    found = [metrics.quick_score(rows, heldout, train) for rows in (synthetic, shuffled, train, heldout)]
    for scores in found:
        ratios = [scores[f"{name}_ratio"] for name in ("marginal", "correlation", "triple")]
        worse = sum(math.log(min(max(ratio, 1), 100)) for ratio in ratios) / 3
        assert scores["score"] == pytest.approx(1 + 0.1 * worse + max(scores["copy_excess"], 0))
    assert found[0]["score"] < found[1]["score"]
    monkeypatch.setattr(judges, "quick_c2st", lambda *_: 0.3)
    assert metrics.quick_score(synthetic, heldout, train)["score"] == pytest.approx(found[0]["score"] - 0.5)


@pytest.mark.usefixtures("_no_judge")
def test_the_quick_ratios_are_those_of_compare(sets: Sets) -> None:
    quick, whole = metrics.quick_score(*sets), metrics.compare(*sets)
    for name in ("marginal_ratio", "correlation_ratio", "triple_ratio", "copy_excess", "near_copy_share"):
        assert quick[name] == pytest.approx(whole[name])


@pytest.mark.usefixtures("_no_judge")
def test_of_sorted_rows_those_that_are_compared_are_drawn_from_all() -> None:
    rows = builtin.chain(1000, length=16)
    heldout, train = (part[np.lexsort(part.T)] for part in (rows[:400], rows[400:800]))
    scores = metrics.compare(rows[800:900], heldout, train)
    assert scores["n"] == 100
    assert scores["marginal_distance"] < 0.1
    assert scores["marginal_floor"] < 0.1


@pytest.mark.usefixtures("_no_judge")
def test_the_quick_numbers_of_collapse_and_copies_are_those_of_compare() -> None:
    rows = builtin.chain(1300, length=24)
    heldout, train = rows[:100], rows[100:1300]
    made = np.concatenate([train[1000:1050], np.tile(rows[:5], (10, 1))])
    quick, whole = metrics.quick_score(made, heldout, train), metrics.compare(made, heldout, train)
    for name in ("distinct_ratio", "copy_excess"):
        assert quick[name] == pytest.approx(whole[name]), name
    assert quick["distinct_ratio"] < 0.6
    assert quick["copy_excess"] > 0.4


@pytest.mark.usefixtures("_no_judge")
def test_soft_values_are_rounded_to_the_nearer() -> None:
    rows = builtin.chain(300, length=16)
    soft, plain = (
        metrics.compare(made, rows[100:200], rows[200:]) for made in (np.where(rows[:100], 0.6, 0.4), rows[:100])
    )
    assert soft["soft_share"] == 1
    assert soft["marginal_ratio"] == plain["marginal_ratio"]


@pytest.mark.usefixtures("_no_judge")
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
