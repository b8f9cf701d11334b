"""Sending what MLflow lacks: a mistake in the run directory is not blamed on MLflow."""

import json
import resource
import threading
from pathlib import Path

import pytest

from train import mirror, rundir, tracking
from train.config import Config, InputError, JobError
from train.mirror import Record
from train.rundir import RunDirectory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = RunDirectory(tmp_path)
    run.tracking.write_text(json.dumps({"key": "k", "tags": {}}))
    run.config.write_text(Config().to_json())
    return run


def test_an_absent_server_is_named(run: RunDirectory) -> None:
    with pytest.raises(JobError, match="MLflow does not answer"):
        tracking.sync(run)


def test_a_job_that_ends_while_mlflow_is_slow_is_finished_all_the_same(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        asked.set()
        answered.wait()
        raise ConnectionError

    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(tracking.Tracker, "_connected", wait)
    tracker = tracking.Tracker(run, Record(key="k", tags={}))
    assert asked.wait(60)
    tracker.finish("FINISHED")
    assert mirror.read(run).status == "FINISHED"
    answered.set()
    tracker.thread.join(60)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://user:secret@host:5000/path", "https://host:5000/path"),
        ("postgresql+psycopg://user:s@cret@host/name", "postgresql+psycopg://host/name"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_password_stays_out_of_files(uri: str, told: str) -> None:
    assert mirror.without_password(uri) == told


def test_a_configuration_that_cannot_be_read_is_named(run: RunDirectory) -> None:
    run.config.write_text("{}}")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        tracking.sync(run)
    run.config.unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tracking.sync(run)


def test_a_line_for_which_the_disk_has_no_room_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    machine = tracking.SystemMetrics(path)
    machine.measure()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        machine.measure()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    machine.measure()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]
    assert rundir.keep_lines(path) == 2
