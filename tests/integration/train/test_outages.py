"""MLflow absent, killed or hanging: the job goes on, and MLflow has everything in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.entities import Run

from serve import archive
from tests.integration.train import driver, postgres
from tests.ports import free_port
from train import artifact, rundir
from train.__main__ import main

JOB = ["fit", "--data", "toy", "--hidden", "4", "--folds", "2", "--epochs", "12", "--tick", "680"]
JOB += ["--batch-size", "96", "--turns", "2"]
JOB += ["--baselines", "fast", "--out", "runs"]


class Server:
    """A real `mlflow server`, started and stopped at will."""

    def __init__(self, folder: Path, store: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        scripts = Path(sys.executable).parent
        self.command = [str(scripts / "mlflow"), "server", "--port", str(self.port), "--workers", "1"]
        self.command += ["--backend-store-uri", store]
        self.command += ["--artifacts-destination", str(folder / "files")]
        self.environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
        self.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # processes that would do nothing here
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        until(self.answers)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """Kill it, as a power failure would."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(30)
        self.process = None

    def run(self) -> Run:
        """The only job that it has recorded."""
        client = mlflow.MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("lookalike")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.`data` = 'toy'")
        assert len(runs) == 1
        return runs[0]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that stores into a SQLite file; not started."""
    yield from serving(Server(tmp_path, f"sqlite:///{tmp_path}/server.db"), monkeypatch)


@pytest.fixture
def postgres_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with postgres.cluster() as store:
        yield from serving(Server(tmp_path, store), monkeypatch)


def serving(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gate = tmp_path / "gate.yaml"
    gate.write_text("soft_share: <= 0\n")
    monkeypatch.setenv("LOOKALIKE_GATE", str(gate))


def check_that_nothing_is_missing(server: Server, run: rundir.RunDirectory) -> None:
    tracked = server.run()
    client = mlflow.MlflowClient(server.uri)
    assert tracked.info.status == "FINISHED"
    lines = [json.loads(line) for line in run.stats.read_text().splitlines()]
    for key in set(lines[0]) - {"seen", "seconds", "time"}:
        history = client.get_metric_history(tracked.info.run_id, key)
        assert sorted((each.step, each.value) for each in history) == [(line["seen"], line[key]) for line in lines], key
    machine = client.get_metric_history(tracked.info.run_id, "system/cpu_utilization_percentage")
    assert sorted(each.step for each in machine) == list(range(len(run.system.read_text().splitlines())))
    assert tracked.data.params["epochs"] == "12"
    assert len(tracked.inputs.dataset_inputs) == 2
    assert tracked.data.metrics["correlation_ratio"] > 0
    assert "correlation_ratio" in tracked.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"report.html", "stats.jsonl", "plots", "artifact"} <= files
    experiment = [tracked.info.experiment_id]
    children = client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{tracked.info.run_id}'")
    names = list(json.loads(run.metrics.read_text())["scores"])
    assert sorted(child.info.run_name or "" for child in children) == sorted(names[1:])
    versions = client.search_model_versions("name = 'lookalike'")
    assert [version.run_id for version in versions] == [tracked.info.run_id]
    assert client.get_model_version_by_alias("lookalike", "champion").version == versions[0].version


def disturb(server: Server, run: rundir.RunDirectory) -> None:
    """Bring the server up and down under a job that waits after its ticks 2, 5 and 8."""

    def reached(ticks: int) -> None:
        until(lambda: run.stats.exists() and run.stats.read_text().count("\n") == ticks)

    def said(text: str, times: int) -> None:
        until(lambda: run.log.read_text().count(text) == times)

    def go_on_after(tick: int) -> None:
        Path(f"go-{tick}").touch()

    reached(2)
    said("MLflow cannot record", 1)
    server.start()
    said("MLflow answers again", 1)
    until(lambda: server.run().data.metrics["epoch"] >= 2)
    server.stop()
    go_on_after(2)
    reached(5)
    said("MLflow cannot record", 2)
    server.start()
    said("MLflow answers again", 2)
    server.signal(signal.SIGSTOP)
    go_on_after(5)
    reached(8)
    said("MLflow cannot record", 3)
    server.signal(signal.SIGCONT)
    said("MLflow answers again", 3)
    go_on_after(8)


def test_a_server_that_comes_late_dies_and_hangs_misses_nothing(
    tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_TEST_HOLD", "2,5,8")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    run = rundir.RunDirectory(tmp_path / "runs" / "00001-toy-bits")
    job = driver.start(JOB, tmp_path, errors=tmp_path / "errors")
    try:
        disturb(postgres_server, run)
        job.join(300)
        assert job.exitcode == 0
    finally:
        job.kill()
    check_that_nothing_is_missing(postgres_server, run)
    assert artifact.load(run.artifact).card["run_id"] == postgres_server.run().info.run_id


def test_sync_sends_a_run_that_mlflow_never_heard_of(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    job = driver.start(JOB, tmp_path, errors=tmp_path / "errors")
    job.join()
    assert job.exitcode == 0
    run = rundir.newest(tmp_path / "runs")
    assert f"python -m train sync {run.path.relative_to(tmp_path)}" in run.log.read_text()
    assert main(["sync", "--out", "runs"]) == 1
    assert "MLflow does not answer" in capsys.readouterr().err

    server.start()
    assert artifact.load(run.artifact).card["run_id"] is None
    for _ in range(2):
        assert main(["sync", str(run.path)]) == 0
        assert f"python -m train export {run.path}" in capsys.readouterr().out
        check_that_nothing_is_missing(server, run)
    check_that_it_names_its_run(server, run, capsys)
    # A run that was tracked in another store: its card names a run that does not exist here.
    path = run.artifact / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": "of another store"}))
    record = json.loads(run.tracking.read_text())
    run.tracking.write_text(json.dumps({**record, "uri": "http://127.0.0.1:1"}))
    assert main(["sync", str(run.path)]) == 0
    capsys.readouterr()
    check_that_it_names_its_run(server, run, capsys)
    # A run that was sent completely, but whose record does not say so.
    record = json.loads(run.tracking.read_text())
    run.tracking.write_text(json.dumps({**record, "complete": False, "run_id": None}))
    assert main(["sync"]) == 0
    check_that_nothing_is_missing(server, run)


def check_that_it_names_its_run(server: Server, run: rundir.RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = server.run().info.run_id
    assert json.loads(run.tracking.read_text())["run_id"] == run_id
    assert artifact.load(run.artifact).card["run_id"] == run_id
    assert main(["export", str(run.path)]) == 0
    assert archive.read_card(run.archive)["run_id"] == run_id
    assert main(["sync", str(run.path)]) == 0
    assert "export" not in capsys.readouterr().out


def test_sync_says_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 2
    assert "cannot be tracked without" in capsys.readouterr().err
