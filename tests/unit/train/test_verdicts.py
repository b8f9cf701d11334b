"""The default gate names the fault: every kind of bad output is caught by the metric meant for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.sentences import random_texts
from train import builtin, evidence, gate
from train.gate import Verdict

Rows = npt.NDArray[Any]

N = 1500
REAL = builtin.chain(3 * N, length=24, seed=4)
HELDOUT, TRAIN, FRESH = REAL[:N], REAL[N : 2 * N], REAL[2 * N :]


def verdict_on(rows: Rows) -> Verdict:
    found = evidence.judge({"GAN": rows}, HELDOUT, TRAIN, columns=[f"x{i}" for i in range(24)])
    return gate.check(gate.read("default"), found.scores["GAN"])


def with_dead_columns(rows: Rows) -> Rows:
    rows = rows.copy()
    rows[:, :2] = 0
    return rows


FAULTS: dict[str, tuple[Callable[[Rows], Rows], set[str]]] = {
    "shuffled columns": (
        lambda rows: np.random.default_rng(0).permuted(rows, axis=0),
        {"correlation_ratio", "triple_ratio", "c2st_auc"},
    ),
    "a copy of the training rows": (lambda rows: TRAIN, {"copy_excess", "near_copy_share"}),
    "copies of the rows that judge": (lambda rows: HELDOUT, {"c2st_auc"}),
    "constant columns": (with_dead_columns, {"constant_columns", "marginal_ratio"}),
    "mode collapse": (lambda rows: rows[np.arange(N) % 100], {"distinct_ratio"}),
    "soft output": (lambda rows: np.abs(rows - 0.2), {"soft_share"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_names_the_fault(fault: str) -> None:
    spoil, culprits = FAULTS[fault]
    verdict = verdict_on(spoil(FRESH))
    assert verdict.passed is False
    assert culprits <= {reason.split(" ")[0] for reason in verdict.missed}
    assert all(culprit in verdict.sentence for culprit in culprits)


def sentences(seed: int) -> list[str]:
    return [" ".join(words) for words in random_texts(200, seed)]


REAL_TEXTS, SEEN_TEXTS, FRESH_TEXTS = map(sentences, (1, 2, 3))


def with_shuffled_words(texts: list[str]) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.permutation(text.split())) for text in texts]


def together(texts: list[str]) -> list[str]:
    return [f"{text} {other}" for text, other in zip(texts, reversed(texts), strict=True)]


TEXT_FAULTS: dict[str, tuple[Callable[[list[str]], list[str]], set[str]]] = {
    "shuffled words": (with_shuffled_words, {"c2st_auc", "c2st_conv_auc"}),
    "training texts": (lambda texts: SEEN_TEXTS, {"copy_excess"}),
    "a training text, and another": (lambda texts: together(SEEN_TEXTS), {"passage_excess"}),
    "copies of the texts that judge": (lambda texts: REAL_TEXTS, {"c2st_auc", "c2st_conv_auc"}),
    "mode collapse": (lambda texts: texts[:4] * 50, {"distinct_ratio"}),
    "nothing": (lambda texts: texts, set()),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_the_verdict_on_texts_names_the_fault(fault: str) -> None:
    spoil, culprits = TEXT_FAULTS[fault]
    found = evidence.judge_texts({"GAN": spoil(FRESH_TEXTS)}, REAL_TEXTS, SEEN_TEXTS)
    verdict = gate.check(gate.read("default", texts=True), found.scores["GAN"])
    assert verdict.passed is (not culprits)
    assert culprits <= {reason.split(" ")[0] for reason in verdict.missed}


def test_fresh_real_rows_pass() -> None:
    verdict = verdict_on(FRESH)
    assert verdict.passed is True, verdict.missed
