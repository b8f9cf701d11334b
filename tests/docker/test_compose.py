"""The Compose services: MLflow and the server come up healthy, and a job reports to MLflow."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests

from tests.docker.conftest import ROOT, Engine, untrained_runs
from tests.ports import free_ports


@pytest.fixture
def services(engine: Engine, images: dict[str, int], runs: Path) -> Iterator[dict[str, object]]:
    port, mlflow_port = free_ports(2)
    served = untrained_runs(engine, runs.parent / "served")
    settings: dict[str, object] = {"PROJECT": engine.mark, "RUNS": served, "PORT": port, "MLFLOW_PORT": mlflow_port}
    if Path("/usr/bin/docker-compose").is_file():
        settings["DOCKER_COMPOSE"] = "/usr/bin/docker-compose"
    yield settings
    everything = ["--profile", "tracking", "--profile", "serve", "--profile", "train"]
    compose(engine, settings, *everything, "down", "--volumes", "--timeout", "10")


def compose(engine: Engine, settings: dict[str, object], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker/runtime.sh", "compose", *arguments]
    environment = engine.environment(**settings)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_mlflow_and_the_server_come_up_healthy_and_a_job_reports(
    engine: Engine, services: dict[str, object], images: dict[str, int]
) -> None:
    up = engine.make("up", **services)
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"mlflow is healthy: http://127.0.0.1:{services['MLFLOW_PORT']}" in up.stdout
    assert f"serve is healthy: http://127.0.0.1:{services['PORT']}" in up.stdout
    assert requests.post(f"http://127.0.0.1:{services['PORT']}/predictions/lookalike", json={}).status_code == 400

    uri = f"http://127.0.0.1:{services['MLFLOW_PORT']}"
    options = ["fit", "--data", "toy", "--max-minutes", "0.02", "--baselines", "none", "--gate", "none"]
    caller = {"LOOKALIKE_UID": engine.uid, "LOOKALIKE_GID": engine.uid}
    job = compose(
        engine, services | caller, "--profile", "train", "run", "--rm", "train", *options, "--out", "/tmp/runs"
    )
    assert job.returncode == 0, job.stdout + job.stderr
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("lookalike")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], "tags.`data` != ''")
    assert run.info.status == "FINISHED"
    assert client.get_model_version("lookalike", "1").run_id == run.info.run_id
    assert any(file.path == "report.html" for file in client.list_artifacts(run.info.run_id))

    down = engine.make("down", **services)
    assert down.returncode == 0, down.stdout + down.stderr
    volumes = engine("volume", "ls", "--quiet", "--filter", f"name={engine.mark}").stdout.split()
    assert volumes == [f"{engine.mark}_mlflow"], "the store outlives its containers"
