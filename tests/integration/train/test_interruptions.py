"""Jobs that are interrupted or killed go on where they were and end as if nothing had happened."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from train import checkpoint
from train.__main__ import main

ROOT = Path(__file__).parents[3]
JOB = ["fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--epochs", "40", "--tick", "2000"]
JOB += ["--baselines", "none", "--gate", "none"]
HASTY = (
    "import sys; from train import fit; fit.CHECKPOINT_SECONDS = 0.2; from train.__main__ import main; sys.exit(main())"
)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def weights(out: Path) -> bytes:
    return (out / "00001-toy-bits" / "artifact" / "generator.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_stopped_in_its_warm_start_ends_with_the_same_weights(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", HASTY, *JOB], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
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

    torch.manual_seed(99)  # what this process drew before must not matter
    assert main(["fit", "--resume"]) == 0
    assert "going on in the warm start" in (tmp_path / "runs" / "00001-toy-bits" / "log.txt").read_text()
    assert main([*JOB, "--out", str(tmp_path / "undisturbed")]) == 0
    assert weights(tmp_path / "runs") == weights(tmp_path / "undisturbed")
