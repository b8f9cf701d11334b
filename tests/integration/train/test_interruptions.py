"""Jobs that are interrupted or killed go on where they were and end as if nothing had happened."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from train import checkpoint, fit, rundir

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).parent / "driver.py"
JOB = ["fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--epochs", "5", "--tick", "2000"]
JOB += ["--baselines", "none", "--gate", "none"]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def weights(out: Path) -> bytes:
    return (out / "00001-toy-bits" / "artifact" / "generator.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_stopped_in_its_warm_start_ends_with_the_same_weights(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, str(DRIVER), *JOB], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "runs" / "00001-toy-bits" / "checkpoints"
    while not list(checkpoints.glob("*.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    found = checkpoint.load_newest(checkpoints)
    assert found is not None
    assert found[1]["phase"] == "warm start"
    if number != signal.SIGKILL:
        assert process.returncode == 1
        assert errors.count("\n") == 1
        assert "go on with: python -m train fit --resume" in errors

    driven(tmp_path, "fit", "--resume")
    assert "going on in the warm start" in (tmp_path / "runs" / "00001-toy-bits" / "log.txt").read_text()
    driven(tmp_path, *JOB, "--out", "undisturbed")
    assert weights(tmp_path / "runs") == weights(tmp_path / "undisturbed")


def driven(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, str(DRIVER), *arguments], cwd=folder, check=True)


def test_the_same_command_again_says_that_a_run_was_interrupted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = fit.Config(data="toy", out=str(tmp_path / "runs"))
    run = rundir.create(tmp_path / "runs", "toy-bits", config.to_json())
    with caplog.at_level("INFO", logger="lookalike"):
        fit.mention_unfinished(config)
        assert caplog.messages == [f"{run.path} was interrupted; to go on with it: python -m train fit --resume"]
        caplog.clear()
        fit.mention_unfinished(dataclasses.replace(config, seed=1))
        with FileLock(run.path / ".lock"):
            fit.mention_unfinished(config)
        run.metrics.touch()
        fit.mention_unfinished(config)
    assert caplog.messages == []


def test_kills_and_interruptions_lose_nothing() -> None:
    bench = ROOT / "tests" / "bench" / "kills.py"
    done = subprocess.run(
        [sys.executable, str(bench), "--kills", "2", "--terms", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
