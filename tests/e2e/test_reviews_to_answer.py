"""The main job from end to end: real reviews, training, TorchServe, an answered request, stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.ports import free_ports
from train import artifact, rundir

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all commands."""
    return tmp_path_factory.mktemp("job")


def command(place: Path, module: str, *options: str) -> str:
    """Run a command as a user does and return what it prints; if it fails, the test fails with its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", module, *options], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_from_reviews_to_an_answer(place: Path) -> None:
    # Few and short texts to draw and to judge, which is most of the work of so short a job.
    smaller = ("--vocabulary", "1000", "--length", "20", "--holdout", "0.03")
    printed = command(place, "train", "fit", "--max-minutes", "0.2", "--gate", "none", *smaller)
    assert "movie-reviews: 10,605 rows, codec tokens, 20 values a row" in printed
    assert "correlation_ratio" in printed
    run = rundir.newest(place / "runs")
    shipped = artifact.load(run.artifact)

    port, metrics_port = free_ports(2)
    ports = ("--port", str(port), "--metrics-port", str(metrics_port), "--wait-seconds", "90")
    try:
        assert "curl -X POST" in command(place, "serve", "start", *ports)
        body = {"n": 5, "seed": 1}
        answer = requests.post(f"http://127.0.0.1:{port}/predictions/lookalike", json=body, timeout=10)
        assert answer.status_code == 200
        assert answer.json()["sequences"] == shipped.sample(5, 1).tolist()
        assert answer.json()["text"] == shipped.codec.decode(shipped.sample(5, 1))
        assert answer.json()["model"]["run_id"] == shipped.card["run_id"]
        assert json.loads(command(place, "serve", "request", "-n", "5", "--seed", "1", "--json")) == answer.json()
        mistaken = requests.post(f"http://127.0.0.1:{port}/predictions/lookalike", json={"n": -1}, timeout=10)
        assert mistaken.status_code == 400
        assert mistaken.json()["error"]["field"] == "n"
    finally:
        command(place, "serve", "stop")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/ping", timeout=2)
