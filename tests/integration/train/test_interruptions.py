"""Jobs that are interrupted or killed continue where they were and end as if nothing had happened."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.bench import kills
from tests.integration.train import driver
from train import checkpoint

JOB = ["fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--epochs", "5", "--tick", "2000"]
JOB += ["--batch-size", "96", "--turns", "2"]
JOB += ["--baselines", "none", "--gate", "none", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))


def weights(folder: Path) -> bytes:
    return (folder / "runs" / "00001-toy-bits" / "artifact" / "generator.safetensors").read_bytes()


def done(folder: Path, *arguments: str) -> int | None:
    job = driver.start(list(arguments), folder, errors=folder / "errors", environment=environment(folder))
    job.join()
    return job.exitcode


def environment(folder: Path) -> dict[str, str]:
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    return {**os.environ, **away, "LOOKALIKE_OUT": str(folder / "runs")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a job that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert done(folder, *JOB) == 0
    return weights(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_stopped_in_its_warm_start_ends_with_the_same_weights(
    tmp_path: Path, number: signal.Signals, undisturbed: bytes
) -> None:
    job = driver.start(JOB, tmp_path, errors=tmp_path / "errors", environment=environment(tmp_path))
    checkpoints = tmp_path / "runs" / "00001-toy-bits" / "checkpoints"
    while not list(checkpoints.glob("*.pt")):
        assert job.is_alive()
        time.sleep(0.01)
    assert job.pid is not None
    os.kill(job.pid, number)
    job.join(60)
    found = checkpoint.load_newest(checkpoints)
    assert found is not None
    assert found["phase"] == "warm start"
    if number == signal.SIGKILL:
        assert job.exitcode == -signal.SIGKILL
    else:
        assert job.exitcode == 1
        (error,) = (tmp_path / "errors").read_text().splitlines()
        assert "resume with: python -m train fit --resume" in error

    assert done(tmp_path, "fit", "--resume") == 0
    assert "resuming in the warm start" in (tmp_path / "runs" / "00001-toy-bits" / "log.txt").read_text()
    assert weights(tmp_path) == undisturbed


def test_a_job_killed_while_mlflows_store_is_made_leaves_no_half_of_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    known = {**environment(tmp_path), "MLFLOW_TRACKING_URI": ""}
    job = driver.start(JOB, tmp_path, errors=tmp_path / "errors", environment=known)
    while not list(runs.glob(".mlflow.db.partial/mlflow.db")):
        assert job.is_alive()
    job.kill()
    job.join()
    assert not (runs / "mlflow.db").exists()

    job = driver.start(["fit", "--resume"], tmp_path, errors=tmp_path / "errors", environment=known)
    while "MLflow: run " not in (log := (runs / "00001-toy-bits" / "log.txt").read_text()):
        assert job.is_alive()
        assert "cannot record" not in log
        time.sleep(0.05)
    job.kill()
    assert not (runs / ".mlflow.db.partial").exists()


def test_kills_and_interruptions_lose_nothing() -> None:
    kills.main(["--kills", "2", "--terms", "2"], standalone_mode=False)
