"""The quality gate: its file, and what it says."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train import copies, gate, metrics, ratios, text_metrics
from train.errors import InputError

SCORES = {"correlation_ratio": 1.2, "c2st_auc": 0.74, "frechet": None, "utility": float("nan")}


def limits(tmp_path: Path, text: str) -> list[gate.Limit]:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    return gate.read(str(path))


def test_the_default_gate_can_be_read() -> None:
    assert {limit.metric for limit in gate.read("default")} >= {"correlation_ratio", "c2st_auc", "copy_excess"}


def test_without_limits_there_is_no_verdict() -> None:
    assert gate.check(gate.read("none"), SCORES).passed is None


def test_limits_hold_from_above_and_below(tmp_path: Path) -> None:
    verdict = gate.check(limits(tmp_path, "correlation_ratio: <= 1.3\nc2st_auc: '>= 0.5'"), SCORES)
    assert verdict.passed is True
    assert verdict.missed == []


def test_a_number_may_have_a_limit_on_either_side(tmp_path: Path) -> None:
    both = limits(tmp_path, "c2st_auc: <= 0.7\nc2st_auc: '>= 0.4'")
    assert [gate.check(both, {"c2st_auc": value}).passed for value in (0.3, 0.5, 0.8)] == [False, True, False]


def test_a_missed_limit_is_named_with_the_gap(tmp_path: Path) -> None:
    verdict = gate.check(limits(tmp_path, "correlation_ratio: <= 1.3\nc2st_auc: <= 0.7"), SCORES)
    assert verdict.passed is False
    assert verdict.missed == ["c2st_auc is 0.74; the gate asks for <= 0.7, missed by 0.04"]
    assert "c2st_auc" in verdict.sentence


def test_only_what_misses_with_its_whole_interval_is_missed(tmp_path: Path) -> None:
    scores = {"c2st_auc": 0.74, "c2st_auc_low": 0.69, "c2st_auc_high": 0.79}
    assert gate.check(limits(tmp_path, "c2st_auc: <= 0.7"), scores).passed is True
    assert gate.check(limits(tmp_path, "c2st_auc: <= 0.6"), scores).missed == [
        "c2st_auc is 0.74 (0.69 to 0.79); the gate asks for <= 0.6, missed by 0.09"
    ]
    assert gate.check(limits(tmp_path, "c2st_auc: '>= 0.78'"), scores).passed is True


@pytest.mark.parametrize("metric", ["frechet", "utility", "bleu_3"])
def test_what_was_not_measured_does_not_pass(tmp_path: Path, metric: str) -> None:
    verdict = gate.check(limits(tmp_path, f"{metric}: <= 1"), SCORES)
    assert verdict.passed is False
    assert verdict.missed == [f"{metric} was not measured"]


def test_limits_on_what_needs_more_columns_do_not_apply(tmp_path: Path) -> None:
    found = limits(tmp_path, "triple_ratio: <= 1\ncorrelation_distance: <= 1")
    assert gate.check(found, {"columns": 1}).passed is None, "neither passed nor failed"
    assert gate.check(found, {"triple_ratio": None, "correlation_distance": 0.5}).missed == [
        "triple_ratio was not measured"
    ]


def test_what_was_not_measured_is_said_once(tmp_path: Path) -> None:
    verdict = gate.check(limits(tmp_path, "utility: <= 1\nutility: '>= 0.5'"), SCORES)
    assert verdict.sentence == "The quality gate failed: utility was not measured."


def test_a_number_of_too_few_rows_for_an_interval_proves_nothing(tmp_path: Path) -> None:
    few = {"lag_ratio": 1.0, "lag_ratio_low": None, "lag_ratio_high": None}
    (missed,) = gate.check(limits(tmp_path, "lag_ratio: <= 1.3"), few).missed
    assert missed.startswith("lag_ratio is 1, but too few rows were held out for an interval")


@pytest.mark.parametrize(
    ("simple", "told"),
    [
        (
            gate.independent_columns,
            "But independent columns pass it, too, so this proves little: either the columns do",
        ),
        (gate.trigram_counts, "But trigram counts pass it, too, so this proves little: either the limits are"),
        (gate.shuffled_texts, "But texts with shuffled words pass it, too, so this proves little"),
    ],
)
def test_a_gate_that_a_simple_model_passes_says_so(
    tmp_path: Path, simple: Callable[[Mapping[str, Any]], gate.Simple], told: str
) -> None:
    gates = limits(tmp_path, "c2st_auc: <= 0.7\nn: '>= 10'")
    good, poor = {"c2st_auc": 0.6, "n": 10}, {"c2st_auc": 0.8, "n": 10}
    assert told in gate.check(gates, good, simple(good)).sentence
    assert gate.check(gates, good, simple(good)).passed is True
    assert "too" not in gate.check(gates, good, simple(poor)).sentence
    assert "too" not in gate.check(gates, good).sentence
    assert "too" not in gate.check(gates, poor, simple(good)).sentence
    assert "too" not in gate.check([], good, simple(good)).sentence


@pytest.mark.parametrize("text", ["", "{}", "- 1", "a: b: c", "n: < 3", "n: <= high", "n: <= nan", "n: 3"])
def test_a_bad_gate_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"--gate .*gate\.yaml"):
        limits(tmp_path, text)


def test_a_limit_from_below_without_quotes_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'needs quotes: ">= 0.9"'):
        limits(tmp_path, "distinct_ratio: >= 0.8")


def test_a_missing_gate_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"--gate nowhere\.yaml"):
        gate.read("nowhere.yaml")


def test_a_metric_that_does_not_exist_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gate\.yaml: c2st is not measured; did you mean c2st_auc\?"):
        limits(tmp_path, "c2st: <= 0.7")


def test_what_is_measured_of_texts_only_cannot_be_limited_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("bleu_3: '>= 0.2'\n")
    assert gate.read(str(path)) == gate.read(str(path), texts=True)
    with pytest.raises(InputError, match="bleu_3 is not measured for rows of 0/1"):
        gate.read(str(path), texts=False)


def ends_left_out(*scores: Iterable[str]) -> set[str]:
    return {name for name in chain(*scores) if not name.endswith(("_low", "_high"))} - {"warnings"}


def test_every_number_that_is_measured_can_be_limited() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (3, 60, 5), dtype=np.uint8)
    bits[:, :, 1] = bits[:, :, 0]  # a rule that rows may break
    texts = [[[*map(str, words)] for words in rng.integers(0, 9, (60, 6))] for _ in range(3)]
    labelled = [(each, ["a", "b"] * 30) for each in texts]
    classes = text_metrics.label_scores(labelled[0], labelled[1], 60)
    compared = text_metrics.compare_text(*texts, embed=lambda some: rng.normal(size=(len(some), 4)))
    many = np.tile(bits[0], (ratios.SAMPLES, 1))
    assert set(gate.ROW_METRICS) == ends_left_out(metrics.compare(many, *bits[1:], label=0))
    assert set(gate.TEXT_METRICS) == ends_left_out(compared, classes, [f"{name}_floor" for name in classes])


def test_a_limit_that_independent_columns_hold_too_says_so(tmp_path: Path) -> None:
    lines = ["correlation_ratio: <= 1.2", "marginal_ratio: <= 1.2", "triple_ratio: <= 1.2", "c2st_auc: '>= 0.4'"]
    asked, told = limits(tmp_path, "\n".join(lines)), "; independent columns pass it, too"
    scores = {"correlation_ratio": 1.0, "marginal_ratio": 1.0, "triple_ratio": 1.0, "c2st_auc": 0.5}
    verdict = gate.check(asked, scores, gate.independent_columns({**scores, "triple_ratio": 3.0}))
    assert [reason.endswith(told) for reason in verdict.reasons] == [True, False, False, False]
    assert not verdict.easy
    missed = gate.check(asked, {**scores, "correlation_ratio": 2.0}, gate.independent_columns(scores))
    assert missed.missed
    assert not missed.reasons[0].endswith(told)


def test_numbers_of_numpy_are_judged_beside_a_simple_model(tmp_path: Path) -> None:
    s, h = np.zeros((20, 1), np.uint8), np.arange(20, dtype=np.uint8)[:, None] % 2
    scores = copies.collapse_scores(s, h)
    verdict = gate.check(limits(tmp_path, "distinct_ratio: '>= 0.9'"), scores, gate.independent_columns(scores))
    assert len(verdict.missed) == 1
    assert not verdict.easy


def test_of_texts_the_judges_should_tell_a_simple_model(tmp_path: Path) -> None:
    asked = limits(tmp_path, "c2st_auc: <= 0.8\nc2st_conv_auc: <= 0.8\nc2st_auc: '>= 0.4'\ncopy_excess: <= 0.02")
    scores = {"c2st_auc": 0.6, "c2st_conv_auc": 0.6, "copy_excess": 0.0}
    verdict = gate.check(asked, scores, gate.trigram_counts({**scores, "c2st_auc": 0.9}))
    assert ["trigram counts" in reason for reason in verdict.reasons] == [False, True, False, False]
    assert not verdict.easy


def test_a_limit_of_many_rows_that_was_not_measured_is_missed_unless_there_are_no_columns(tmp_path: Path) -> None:
    asked = limits(tmp_path, "correlation_limit: <= 1.1")
    assert gate.check(asked, {"correlation_ratio": 1.0}).missed == ["correlation_limit was not measured"]
    assert not gate.check(asked, {"marginal_ratio": 1.0}).missed
    assert gate.check(asked, {"correlation_ratio": 1.0, "correlation_limit": 1.05}).passed
