"""Sending MLflow what it lacks, and telling its failures from those of the run directory."""

import json
import resource
import threading
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tests.strange import STRANGE_FOLDERS
from train import artifact, atomic, mirror, registry, store, tracking
from train.codec import BitsCodec
from train.config import Config
from train.errors import InputError, JobError
from train.mirror import Record
from train.nade import NadeGenerator
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
    with pytest.raises(JobError, match=r"MLflow does not answer .* nothing is lost: try again later$"):
        tracking.sync(run)


def test_a_server_that_refuses_is_asked_with_other_credentials(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for problem in (
        MlflowException("API request failed with error code 401 != 200"),
        OSError("403 Client Error: Forbidden for url: http://host/api/2.0/mlflow-artifacts"),
    ):
        fail_with(problem, monkeypatch)
        told = r"MLflow refuses .* check MLFLOW_TRACKING_USERNAME .* MLFLOW_TRACKING_TOKEN"
        with pytest.raises(JobError, match=told):
            tracking.sync(run)


def fail_with(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(tracking, "Mirror", fail)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (
            MlflowException(f"API request to https://host{'/api' * 80} failed: CERTIFICATE_VERIFY_FAILED, self-signed"),
            r"has a certificate that cannot be verified \(API request to https://host/api.* … .*, self-signed\); "
            r"nothing is lost: name a file .* MLFLOW_TRACKING_SERVER_CERT_PATH, and try again$",
        ),
        (
            MlflowException("failed with error code 404 != 200. Response body: '<html>'"),
            r"cannot be used .* correct MLFLOW_TRACKING_URI",
        ),
        (
            MlflowException("Reading Databricks credential configuration failed with MLflow tracking URI 'databricks'"),
            "cannot be used",
        ),
        (PermissionError(13, "Permission denied", "/mlartifacts"), "cannot take files .*/mlartifacts.* writable"),
    ],
)
def test_what_is_wrong_with_mlflow_and_what_to_do_is_told(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, problem: Exception, told: str
) -> None:
    fail_with(problem, monkeypatch)
    with pytest.raises(JobError, match=f"^MLflow {told}"):
        tracking.sync(run)


def test_a_run_has_ended_even_where_mlflow_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local_run(tmp_path, monkeypatch)
    run.tracking.write_text(json.dumps({"key": "k", "tags": {}, "status": "FINISHED", "ended": 7}))

    def refuse(_: mirror.Mirror) -> None:
        raise MlflowException("no room")

    monkeypatch.setattr(mirror.Mirror, "_name_in_card", refuse)
    with pytest.raises(JobError, match="no room"):
        tracking.sync(run)
    record = mirror.read(run)
    assert not record.complete
    assert record.run_id is not None
    info = mlflow.MlflowClient(store.store_uri(tmp_path)).get_run(record.run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 7000)


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


def test_a_run_is_finished_however_long_somebody_waits_for_mlflow(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def give_up(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.Tracker, "_work", lambda tracker: None)
    monkeypatch.setattr(tracking.Tracker, "_send_rest", lambda tracker: None)
    tracker = tracking.Tracker(run, Record(key="k", tags={}))
    monkeypatch.setattr(threading.Thread, "join", give_up)
    tracker.finish("FINISHED")  # does not raise: the job goes on to its archive
    assert mirror.read(run).status == "FINISHED"
    assert "send it later with: python -m train sync" in caplog.text


def test_an_interruption_while_the_end_is_noted_does_not_leave_the_run_running(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun ends the other processes a moment after one was lost."""
    save, noting = Record.save, iter([True])

    def interrupted(record: Record, run: RunDirectory) -> None:
        if record.status == "FAILED" and next(noting, False):
            raise KeyboardInterrupt
        save(record, run)

    monkeypatch.setattr(tracking.Tracker, "_work", lambda tracker: None)
    tracker = tracking.Tracker(run, Record(key="k", tags={}))
    monkeypatch.setattr(Record, "save", interrupted)
    tracker.finish("FAILED")
    assert mirror.read(run).status == "FAILED"


def test_an_interrupted_job_waits_but_shortly_for_mlflow(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker, systemd and Slurm kill a job that does not end within some seconds of being told to."""
    hanging = threading.Event()
    monkeypatch.setattr(tracking, "INTERRUPTED_SECONDS", 0.1)
    monkeypatch.setattr(tracking.Tracker, "_work", lambda tracker: None)
    monkeypatch.setattr(tracking.Tracker, "_connected", lambda tracker: hanging.wait())
    tracker = tracking.Tracker(run, Record(key="k", tags={}))
    tracker.finish("KILLED")
    assert mirror.read(run).status == "KILLED"
    hanging.set()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://user:secret@host:5000/path", "https://host:5000/path"),
        ("postgresql+psycopg://user:s@cret@host/name", "postgresql+psycopg://host/name"),
        (
            "postgresql://host/name?user=me&password=secret&sslmode=require",
            "postgresql://host/name?user=…&password=…&sslmode=require",
        ),
        ("postgresql://user:se/cr+et@host/name", "postgresql://host/name"),
        ("postgresql://user:se?cr#et@host/name", "postgresql://host/name"),
        ("mssql+pyodbc://host/name?UID=me&Pwd=secret", "mssql+pyodbc://host/name?UID=me&Pwd=…"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=…"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_password_stays_out_of_files(uri: str, told: str) -> None:
    assert store.without_password(uri) == told


def test_a_configuration_that_cannot_be_read_is_named(run: RunDirectory) -> None:
    run.config.write_text("{}}")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        tracking.sync(run)
    run.config.unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tracking.sync(run)


@pytest.mark.parametrize("folder", STRANGE_FOLDERS)
def test_a_store_lies_among_the_runs_whatever_their_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / folder
    out.mkdir()
    uri = store.store_uri(out)
    assert store.store_file(uri) == out / "mlflow.db"
    mirror._make_store(uri)
    assert mlflow.MlflowClient(uri).search_experiments()
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["mlflow.db"]


def test_a_run_that_mlflow_has_lost_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local_run(tmp_path, monkeypatch)
    first = tracking.sync(run)
    assert tracking.sync(run) == first
    client = mlflow.MlflowClient(store.store_uri(tmp_path))
    client.delete_run(first)
    second = tracking.sync(run)
    assert second != first
    assert client.get_run(second).info.lifecycle_stage == "active"
    record = json.loads(run.tracking.read_text())
    run.tracking.write_text(json.dumps({**record, "run_id": "0" * 32}))  # an id that the store does not know
    assert tracking.sync(run) == second, "it is found by its key"
    run.tracking.write_text(json.dumps({**record, "run_id": "0" * 32, "key": "another"}))
    assert client.get_run(tracking.sync(run)).info.status == "KILLED"


def test_a_deleted_experiment_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local_run(tmp_path, monkeypatch)
    tracking.sync(run)
    client = mlflow.MlflowClient(store.store_uri(tmp_path))
    experiment = client.get_experiment_by_name(Config.experiment)
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    restore = f"restore it with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
    told = f"MLflow's experiment lookalike has been deleted; {restore}, or name another with --experiment"
    with pytest.raises(InputError, match=rf"{told} \(with fit --resume"):
        tracking.sync(run)


def test_a_run_stays_in_its_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the contenders of a run that is judged again with another --experiment would be apart from it."""
    run = local_run(tmp_path, monkeypatch)
    before = mirror.Mirror(run, mirror.read(run))
    run.config.write_text(Config(experiment="another").to_json())
    after = mirror.Mirror(run, mirror.read(run))
    assert (after.run_id, after.experiment_id) == (before.run_id, before.experiment_id)
    assert after._child("floor") == before._child("floor")
    assert after.client.get_experiment_by_name("another") is None


def test_files_that_would_go_where_the_runs_were_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local_run(tmp_path / "before", monkeypatch)
    tracking.sync(RunDirectory(tmp_path / "before" / "00001-toy-bits"))
    assert "keeps the files" not in caplog.text
    (tmp_path / "before").rename(tmp_path / "after")
    tracking.sync(RunDirectory(tmp_path / "after" / "00001-toy-bits"))
    assert f"in {(tmp_path / 'before' / 'mlflow-artifacts').as_uri()}, where it was created" in caplog.text


def local_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """An unfinished run beside its own MLflow store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = RunDirectory(out / "00001-toy-bits")
    run.path.mkdir(parents=True)
    run.tracking.write_text(json.dumps({"key": "k", "tags": {}}))
    run.config.write_text(Config().to_json())
    run.stats.touch()
    run.system.touch()
    return run


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
    assert atomic.keep_lines(path) == 2


def test_a_device_that_does_not_say_how_it_is_does_not_end_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tracking.SystemMetrics(tmp_path / "system.jsonl")
    monkeypatch.setattr(machine.monitors[0], "collect_metrics", lambda: 1 / 0)  # a GPU with a power limit of 0, say
    machine.measure()
    line = json.loads(machine.path.read_text())
    assert "system/disk_usage_percentage" in line
    assert not any(name.startswith("system/cpu") for name in line)


def test_ticks_that_may_come_again_and_halves_of_lines_are_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"seen": 1}\n{"seen": 2}\n{"seen": 3}\n{"se')
    lines, end = mirror._lines(path, 0, "seen", 2)
    assert [line["seen"] for line in lines] == [1, 2]
    lines, end = mirror._lines(path, end, "seen", 9)
    assert [line["seen"] for line in lines] == [3]
    with path.open("a") as file:
        file.write('en": 4}\n')
    assert mirror._lines(path, end, "seen", 9)[0] == [{"seen": 4}]


def test_what_the_user_has_set_of_mlflow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    monkeypatch.setattr(tracking.os, "environ", environment)
    tracking.set_mlflow_defaults()
    assert environment == {**store.MLFLOW_DEFAULTS, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}


@pytest.mark.parametrize(("passed", "aliases"), [(True, ["champion"]), (False, []), (None, [])])
def test_only_a_model_that_passed_a_gate_becomes_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool | None, aliases: list[str]
) -> None:
    run = local_run(tmp_path, monkeypatch)
    facts = {"data": {"name": "toy", "rows": 9, "fingerprint": "f"}}
    artifact.save(run.artifact, NadeGenerator(length=3, hidden=2, nets=1, classes=1), BitsCodec("abc"), facts)
    logged = SimpleNamespace(model_uri=run.artifact.as_uri(), model_id=None)
    monkeypatch.setattr(registry.Registration, "_log_model", lambda _: logged)
    sending = mirror.Mirror(run, mirror.read(run))
    run.summary.write_text("The gate says so.")
    sending._send_model(passed)
    version = sending.client.get_model_version("lookalike", "1")
    assert version.aliases == aliases
    assert version.description == "Trained on toy (9 rows). The gate says so."
    run.summary.write_text("Judged again" + " at length" * 1000)
    sending._send_model(passed)
    again = sending.client.get_model_version("lookalike", "1").description
    assert "Judged again" in again
    assert len(again) == 5000
    assert "champion" in sending.client.get_registered_model("lookalike").description


@pytest.mark.parametrize("uri", ["foo://bar", "127.0.0.1:5000", "http://me:pass#word@host:5000"])
def test_an_address_that_is_none_of_mlflow_is_to_be_corrected(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(JobError, match=r"MLflow cannot be used .* correct MLFLOW_TRACKING_URI") as told:
        tracking.sync(run)
    assert "word" not in str(told.value).partition("in a password")[0]


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_a_finished_run_that_mlflow_took_for_killed_is_sent_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """It was killed while it told MLflow of its end, or interrupted while it was judged again."""
    run = local_run(tmp_path, monkeypatch)
    sent = []
    monkeypatch.setattr(mirror.Mirror, "_name_in_card", lambda _: None)
    for name in ("_send_results", "_send_model"):
        monkeypatch.setattr(mirror.Mirror, name, lambda _, found, name=name: sent.append(name))
    run.tracking.write_text(json.dumps({"key": "k", "tags": {}, "status": status, "complete": status == "KILLED"}))
    run.metrics.write_text('{"passed": true}')
    run_id = tracking.sync(run)
    assert sent == ["_send_results", "_send_model"]
    assert mlflow.MlflowClient(store.store_uri(tmp_path)).get_run(run_id).info.status == "FINISHED"
    assert tracking.sync(run) == run_id
    assert len(sent) == 2, "sent only once"


def test_other_numbers_at_the_same_step_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a run is judged again, or trained again for the same number of sequences."""
    run = local_run(tmp_path, monkeypatch)
    sending = mirror.Mirror(run, mirror.read(run))
    for value in (0.5, 0.5, 0.25):
        sending._send(sending.run_id, [Metric("c2st_auc", value, timestamp=1, step=7)])
    history = sending.client.get_metric_history(sending.run_id, "c2st_auc")
    assert sorted(each.value for each in history) == [0.25, 0.5]


def test_a_run_is_synced_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = local_run(tmp_path, monkeypatch)
    monkeypatch.chdir(run.path)
    run_id = tracking.sync(RunDirectory(Path()))
    assert mlflow.MlflowClient(store.store_uri(tmp_path)).get_run(run_id).info.run_name == "00001-toy-bits"
    assert not (run.path / "mlflow.db").exists()
