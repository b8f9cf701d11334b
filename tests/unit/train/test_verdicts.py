"""The default gate names the fault: every kind of bad output is caught by the number meant for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

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


def test_fresh_real_rows_pass() -> None:
    verdict = verdict_on(FRESH)
    assert verdict.passed is True, verdict.missed
