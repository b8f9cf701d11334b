"""Whole jobs on small, partly constant, repeated or random rows: each ends in a sane model or in one line."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from train import artifact, builtin, net_fit, rundir
from train.__main__ import main

# Epochs, not minutes: what is learned must not depend on the load of the machine.
FAST = ["--hidden", "8", "--folds", "2", "--epochs", "20", "--tick", "2000", "--gate", "none"]
FAST += ["--batch-size", "96", "--turns", "2"]
Bits = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(net_fit, "STEPS", 400)
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))


def scores_of(rows: Bits, folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    """Train on the rows and read what was measured."""
    np.save(folder / "rows.npy", rows)
    assert main(["fit", "--data", str(folder / "rows.npy"), *FAST, *options]) == 0
    found: dict[str, dict[str, Any]] = json.loads(rundir.newest(folder / "runs").metrics.read_text())["scores"]
    return found


def sample(folder: Path, n: int) -> Bits:
    made: Bits = artifact.load(rundir.newest(folder / "runs").artifact).sample(n, 1).numpy()
    return made


def test_two_hundred_rows_are_enough_for_a_model_that_beats_independent_columns(tmp_path: Path) -> None:
    scores = scores_of(builtin.chain(200, length=12), tmp_path)
    assert scores["GAN"]["correlation_ratio"] < scores["independent"]["correlation_ratio"]
    assert scores["GAN"]["distinct_ratio"] > 0.3


def test_constant_columns_stay_constant(tmp_path: Path) -> None:
    rows = builtin.chain(600, length=12)
    rows[:, 3], rows[:, 7] = 0, 1
    scores_of(rows, tmp_path)
    made = sample(tmp_path, 2000)
    assert made[:, 3].mean() < 0.01
    assert made[:, 7].mean() > 0.99
    assert 0.2 < np.delete(made, [3, 7], axis=1).mean() < 0.8


def test_rows_that_come_ten_times_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lookalike"):
        scores = scores_of(np.repeat(builtin.topics(100), 10, axis=0), tmp_path)
    warning = "100% of the held-out rows are also found among the training rows"
    assert warning in caplog.text
    assert any(line.startswith(warning) for line in scores["GAN"]["warnings"])
    assert warning in rundir.newest(tmp_path / "runs").report.read_text()


def test_noise_is_learned_as_noise(tmp_path: Path) -> None:
    scores = scores_of(
        np.random.default_rng(0).integers(0, 2, (1000, 16)).astype(np.uint8), tmp_path, "--gate", "default"
    )
    assert scores["GAN"]["c2st_auc"] < 0.6
    assert scores["GAN"]["correlation_ratio"] < 1.3
    assert sample(tmp_path, 4000).mean(0) == pytest.approx(np.full(16, 0.5), abs=0.08)
    assert "independent columns pass it, too" in rundir.newest(tmp_path / "runs").summary.read_text()


def test_too_few_rows_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "rows.npy", builtin.chain(1, length=12))
    assert main(["fit", "--data", str(tmp_path / "rows.npy"), *FAST]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
