"""Jobs that are interrupted or killed go on where they were and end as if nothing had happened."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.bench import kills
from tests.integration.train import driver
from train import checkpoint, fit, rundir
from train.config import InputError, JobError

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
        assert "go on with: python -m train fit --resume" in error

    assert done(tmp_path, "fit", "--resume") == 0
    assert "going on in the warm start" in (tmp_path / "runs" / "00001-toy-bits" / "log.txt").read_text()
    assert weights(tmp_path) == undisturbed


def test_the_same_command_again_says_that_a_run_was_interrupted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = fit.Config(data="toy", out=str(tmp_path / "runs"))
    run = rundir.create(tmp_path / "runs", "toy-bits", config.to_json())
    with caplog.at_level("INFO", logger="lookalike"):
        fit.mention_unfinished(config)
        go_on = f"go on with: python -m train fit --resume --out {tmp_path / 'runs'}"
        assert caplog.messages == [f"{run.path} was interrupted; {go_on}"]
        caplog.clear()
        fit.mention_unfinished(dataclasses.replace(config, seed=1))
        with FileLock(run.path / ".lock"):
            fit.mention_unfinished(config)
        run.metrics.touch()
        fit.mention_unfinished(config)
    assert caplog.messages == []


def test_a_run_that_is_older_than_a_finished_one_is_named_and_can_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "runs"
    older, newer = (rundir.create(out, "toy-bits", fit.Config(data="toy").to_json()) for _ in range(2))
    go_on = f"go on with: python -m train fit --resume --out {older.path}"
    with caplog.at_level("INFO", logger="lookalike"):
        fit._mention_older(newer)
        assert caplog.messages == []
        newer.metrics.touch()
        fit._mention_older(newer)
        fit._mention_older(older)
    assert caplog.messages == [f"{newer.path} is finished already; {older.path} is not: {go_on}"]
    assert rundir.newest(older.path) == older
    assert rundir.newest(out) == newer


@pytest.mark.parametrize(
    ("interruption", "state"),
    [(fit.Saved, "everything is saved"), (KeyboardInterrupt, "saved is the state of 4[0-9] s ago")],
)
def test_what_an_interruption_leaves_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException], state: str
) -> None:
    def work(run: rundir.RunDirectory, *_: object) -> None:
        path = checkpoint.save(run.checkpoints, {})
        os.utime(path, (time.time() - 40,) * 2)
        raise interruption

    monkeypatch.setattr(fit, "_work", work)
    config = fit.Config(data="toy", device="cpu", out=str(tmp_path))
    with pytest.raises(JobError, match=f"^interrupted; {state}; go on with: .* --out {tmp_path}$"):
        fit.fit(config)


def test_epochs_for_a_run_that_had_minutes_lift_their_limit(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "runs", "toy-bits", fit.Config(data="toy").to_json())
    assert fit.continued(run, {}).max_minutes == 2
    assert fit.continued(run, {"epochs": 5}).max_minutes is None
    assert fit.continued(run, {"epochs": 5, "max_minutes": 3.0}).max_minutes == 3


def test_the_command_that_started_a_run_goes_on_with_it(tmp_path: Path) -> None:
    begun = fit.Config(data="toy", codec="bits", generator="nade")  # what "auto" became
    run = rundir.create(tmp_path / "runs", "toy-bits", begun.to_json())
    assert fit.continued(run, {"codec": "auto", "generator": "auto", "data": "toy"}) == begun
    with pytest.raises(InputError, match=r"--codec tokens: .* was started with bits"):
        fit.continued(run, {"codec": "tokens"})


def test_a_gate_that_cannot_be_read_is_told_before_a_run_goes_on(tmp_path: Path) -> None:
    config = fit.Config(data="toy", device="cpu", gate=str(tmp_path / "absent.yaml"))
    run = rundir.create(tmp_path / "runs", "toy-bits", config.to_json())
    with pytest.raises(InputError, match=r"absent\.yaml"):
        fit.fit(config, run)
    assert not run.log.exists()


def test_a_job_killed_while_mlflows_store_is_made_leaves_no_half_of_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    known = {**environment(tmp_path), "MLFLOW_TRACKING_URI": ""}
    job = driver.start(JOB, tmp_path, errors=tmp_path / "errors", environment=known)
    while not list(runs.glob(".mlflow.db-*/mlflow.db")):
        assert job.is_alive()
    job.kill()
    job.join()
    assert not (runs / "mlflow.db").exists()

    job = driver.start(["fit", "--resume"], tmp_path, errors=tmp_path / "errors", environment=known)
    while "MLflow: run " not in (log := (runs / "00001-toy-bits" / "log.txt").read_text()):
        assert job.is_alive()
        assert "cannot be told" not in log
        time.sleep(0.05)
    job.kill()


def test_kills_and_interruptions_lose_nothing() -> None:
    kills.main(["--kills", "2", "--terms", "2"], standalone_mode=False)
