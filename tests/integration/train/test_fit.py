"""Whole training jobs on small data, with a real MLflow store: what they leave, resume and refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from serve import archive
from tests.integration.train import driver
from tests.ports import free_port
from train import artifact, builtin, judges, kinds, net_fit, rundir
from train.__main__ import main
from train.config import from_json
from train.job import Game
from train.prepare import prepare

SMALL = ["--hidden", "8", "--folds", "2", "--batch-size", "96", "--turns", "2", "--device", "cpu"]
FAST = [*SMALL, "--epochs", "20", "--tick", "2000", "--baselines", "fast", "--gate", "none"]


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs leave and refuse does not depend on how well the nets are fitted and how well they are judged."""
    monkeypatch.setattr(net_fit, "STEPS", 30)
    monkeypatch.setattr(judges, "FOLDS", 2)


def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs/mlflow.db"


def only_run(tmp_path: Path) -> Run:
    client = mlflow.MlflowClient(store(tmp_path))
    experiment = client.get_experiment_by_name("lookalike")
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.`data` != ''")
    assert len(parents) == 1
    return parents[0]


def test_a_job_leaves_everything_that_was_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data", "toy", *FAST, "--head", "10"]) == 0

    run = rundir.newest(tmp_path / "runs")
    assert run.path.name == "00001-toy-bits"
    useless = "no effect with codec bits and generator nade: --head\n"
    assert capsys.readouterr().out.count(useless) == run.log.read_text().count(useless) == 1
    names = {path.relative_to(run.path).parts[0] for path in run.path.rglob("*") if path.is_file()}
    assert names >= {
        "config.json", "log.txt", "stats.jsonl", "checkpoints", "artifact", "samples.csv", "metrics.json",
        "report.html", "plots", "lookalike.mar",
    }  # fmt: skip
    metrics = json.loads(run.metrics.read_text())
    assert {"GAN", "floor"} < set(metrics["scores"])
    assert metrics["scores"]["GAN"]["correlation_ratio"] > 0
    assert artifact.load(run.artifact).card["version"] == "1"

    tracked = only_run(tmp_path)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["epochs"] == "20"
    assert set(tracked.data.metrics) >= {"generator_loss", "discriminator_loss", "correlation_ratio", "marginal_ratio"}
    assert any(name.startswith("system/") for name in tracked.data.metrics)
    assert {each.dataset.name for each in tracked.inputs.dataset_inputs} == {"toy"}
    assert {each.dataset.source for each in tracked.inputs.dataset_inputs} == {'{"uri": "toy (built in)"}'}
    client = mlflow.MlflowClient(store(tmp_path))
    ticks = len(run.stats.read_text().splitlines())
    assert len(client.get_metric_history(tracked.info.run_id, "generator_loss")) == ticks
    files = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"report.html", "plots", "config.json"} <= files
    assert not {"checkpoints", "lookalike.mar", "mlflow.json"} & files
    version = client.get_model_version("lookalike", "1")
    assert version.run_id == tracked.info.run_id
    card = artifact.load(run.artifact).card
    assert card["run_id"] == tracked.info.run_id
    assert tracked.info.run_id in run.report.read_text()
    assert version.tags == {
        "weights": card["weights_sha256"], "run": "00001-toy-bits", "data": "toy",
        "fingerprint": card["data"]["fingerprint"], "codec": "bits", "gate": "none",
    }  # fmt: skip
    warnings = metrics["scores"]["GAN"]["warnings"]
    assert warnings
    assert all(f"\nNote: {warning}\n" in run.summary.read_text() for warning in warnings)
    assert tracked.data.tags["mlflow.note.content"] == run.summary.read_text()


def test_a_start_that_ships_unimproved_scores_as_it_does_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "BITS_GAIN", 99.0)  # no game counts as an improvement
    options = ["--epochs", "1", "--validation", "0.4", "--baselines", "none", "--gate", "none"]
    assert main(["fit", "--data", "toy", *SMALL, *options]) == 0
    run = rundir.newest(tmp_path / "runs")
    scores = json.loads(run.metrics.read_text())["scores"]
    assert scores["GAN"] == scores["warm start"]
    assert "the game did not improve" in run.log.read_text()
    assert "refit: " in run.log.read_text()


def test_a_start_ships_as_it_is_where_no_time_is_left_for_a_refit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "BITS_GAIN", 99.0)
    options = ["--epochs", "1", "--baselines", "none", "--gate", "none"]
    with monkeypatch.context() as patched:
        patched.setattr(Game, "refit", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert main(["fit", "--data", "toy", *SMALL, *options]) == 1
    run = rundir.newest(tmp_path / "runs")
    assert main(["fit", "--resume", "--out", str(run.path), "--max-minutes", "0.001"]) == 0
    assert run.log.read_text().count("no time is left for a refit") == 1


def test_a_finished_run_that_is_given_less_time_ships_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "BITS_GAIN", 99.0)
    options = ["--epochs", "1", "--baselines", "none", "--gate", "none"]
    assert main(["fit", "--data", "toy", *SMALL, *options]) == 0
    run = rundir.newest(tmp_path / "runs")
    shipped, ticks = artifact.load(run.artifact).sample(100, 0), run.stats.read_text()
    assert main(["fit", "--resume", "--out", str(run.path), "--max-minutes", "0.001"]) == 0
    assert "training had already ended" in run.log.read_text()
    assert run.stats.read_text() == ticks
    assert torch.equal(artifact.load(run.artifact).sample(100, 0), shipped)


def test_a_game_that_improved_its_start_ships_without_a_refit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "BITS_GAIN", -99.0)  # every tick counts as an improvement
    options = ["--epochs", "2", "--head-start", "0", "--generator-rate", "0.1", "--average", "0"]
    options += ["--baselines", "none", "--gate", "none"]
    assert main(["fit", "--data", "toy", *SMALL, *options]) == 0
    run = rundir.newest(tmp_path / "runs")
    scores = json.loads(run.metrics.read_text())["scores"]
    assert scores["GAN"] != scores["warm start"]
    assert "The generator after 1,360 rows ships" in run.log.read_text()
    assert "refit: " not in run.log.read_text()
    found = prepare(from_json(run.config.read_text()))
    known = torch.cat([found.train, found.validation]).double().mean(0)
    made = artifact.load(run.artifact).sample(20_000, 1).double().mean(0)
    torch.testing.assert_close(made, known, atol=0.015, rtol=0)  # the game had lost these means


def test_a_game_that_adds_nothing_for_long_enough_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "PATIENCE_TICKS", 1)
    monkeypatch.setattr(kinds, "BITS_GAIN", 99.0)
    options = ["--validation", "0.4", "--epochs", "1000", "--tick", "2000", "--baselines", "none", "--gate", "none"]
    assert main(["fit", "--data", "toy", *SMALL, *options]) == 0
    run = rundir.newest(tmp_path / "runs")
    assert "training ended (stopped)" in run.log.read_text()
    assert len(run.stats.read_text().splitlines()) == 1


def test_mlflow_serves_the_rows_of_the_artifact(tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("soft_share: <= 0\n")
    assert main(["fit", "--data", "toy", *FAST, "--gate", str(gate)]) == 0
    port = free_port()
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store(tmp_path), "PATH": f"{scripts}:{os.environ['PATH']}"}
    # Outside the project, so that the code packaged with the model is what runs.
    server = subprocess.Popen(
        [scripts / "mlflow", "models", "serve", "-m", "models:/lookalike@champion", "--env-manager", "local",
         "--port", str(port)],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=Retry(total=90, backoff_factor=0.5, backoff_max=1)))
        records = [{"n": 4, "seed": 3}, {"n": 2, "seed": 9}]
        url = f"http://127.0.0.1:{port}/invocations"
        answers = session.post(url, json={"dataframe_records": records}, timeout=60).json()["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    loaded = artifact.load(rundir.newest(tmp_path / "runs").artifact)
    assert [answer["sequences"] for answer in answers] == [loaded.sample(4, 3).tolist(), loaded.sample(2, 9).tolist()]
    assert [answer["seed"] for answer in answers] == [3, 9]


def test_a_champion_of_other_data_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gate.yaml").write_text("soft_share: <= 0\n")
    np.save(tmp_path / "rows.npy", builtin.toy(300))
    options = [*SMALL, "--epochs", "1", "--baselines", "none", "--gate", str(tmp_path / "gate.yaml")]
    line = "MLflow: champion is now a model of rows; it was version 1, a model of toy"
    for data in ("toy", str(tmp_path / "rows.npy")):
        assert line not in capsys.readouterr().out
        assert main(["fit", "--data", data, *options]) == 0
    assert line in capsys.readouterr().out


def test_a_champion_that_misses_a_later_gate_is_champion_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "soft.yaml").write_text("soft_share: <= 0\n")
    (tmp_path / "strict.yaml").write_text("c2st_auc: <= 0.1\n")
    options = [*SMALL, "--epochs", "1", "--baselines", "none", "--gate", str(tmp_path / "soft.yaml")]
    for seed in ("1", "2"):
        assert main(["fit", "--data", "toy", *options, "--seed", seed]) == 0
    client = mlflow.MlflowClient(store(tmp_path))
    strict = ["--gate", str(tmp_path / "strict.yaml")]
    assert int(client.get_model_version_by_alias("lookalike", "champion").version) == 2
    assert main(["fit", "--resume", *strict]) == 3
    missed = "missed the current gate and is no longer champion"
    assert f"version 2 {missed}; version 1 is now\n" in capsys.readouterr().out
    assert int(client.get_model_version_by_alias("lookalike", "champion").version) == 1
    assert main(["fit", "--resume", "--out", str(tmp_path / "runs" / "00001-toy-bits"), *strict]) == 3
    assert f"version 1 {missed}\n" in capsys.readouterr().out
    with pytest.raises(MlflowException, match="champion"):
        client.get_model_version_by_alias("lookalike", "champion")


def test_an_older_run_that_goes_on_does_not_take_the_place_of_a_newer_champion(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("soft_share: <= 0\n")
    options = [*SMALL, "--epochs", "1", "--baselines", "none", "--gate", str(tmp_path / "gate.yaml")]
    for seed in ("1", "2"):
        assert main(["fit", "--data", "toy", *options, "--seed", seed]) == 0
    assert main(["fit", "--resume", "--out", str(tmp_path / "runs" / "00001-toy-bits")]) == 0
    client = mlflow.MlflowClient(store(tmp_path))
    assert len(client.search_model_versions("name = 'lookalike'")) == 2
    champion = client.get_model_version_by_alias("lookalike", "champion")
    assert (int(champion.version), champion.tags["run"]) == (2, "00002-toy-bits")
    older = client.get_model_version("lookalike", "1").run_id
    assert older
    assert "lookalike.mar" not in {file.path for file in client.list_artifacts(older)}  # it exists by now


def test_the_textbook_prints_what_the_textbook_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "rows.npy", builtin.toy(40))
    assert main(["fit", "--preset", "textbook", "--data", str(tmp_path / "rows.npy")]) == 0
    printed = capsys.readouterr().out
    for epoch in range(10, 51, 10):
        assert f"Epoch {epoch}/50:\t Generator loss: " in printed
    assert printed.count("Discriminator loss: ") == 5
    for title in ("real rows:", "generated rows, rounded:"):
        rows = printed.split(title)[1].splitlines()[1:6]
        assert all(len(row.split()) == 5 and set(row.split()) <= {"0", "1"} for row in rows)


def test_an_interrupted_job_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    job = ["fit", "--data", "toy", *SMALL, "--epochs", "60", "--tick", "2000", "--baselines", "none", "--gate", "none"]

    def begin(*options: str) -> BaseProcess:
        return driver.start([*job, *options], tmp_path, errors=tmp_path / "errors")

    undisturbed = begin("--out", str(tmp_path / "undisturbed"))
    undisturbed.join()
    assert undisturbed.exitcode == 0

    process = begin()
    stats = tmp_path / "runs" / "00001-toy-bits" / "stats.jsonl"
    while not (stats.exists() and len(stats.read_text().splitlines()) >= 3):
        assert process.is_alive()
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    assert process.exitcode == 1
    assert "resume with: python -m train fit --resume" in (tmp_path / "errors").read_text()

    before = only_run(tmp_path).info.run_id
    resumed = begin("--resume")
    resumed.join()
    assert resumed.exitcode == 0
    assert only_run(tmp_path).info.run_id == before
    weights = [
        (tmp_path / out / "00001-toy-bits" / "artifact" / "generator.safetensors").read_bytes()
        for out in ("undisturbed", "runs")
    ]
    assert weights[0] == weights[1]
    seen = [json.loads(line)["seen"] for line in stats.read_text().splitlines()]
    assert seen == sorted(set(seen))


def test_a_killed_job_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    job = ["fit", "--data", "toy", *SMALL, "--epochs", "50", "--tick", "2000", "--baselines", "none", "--gate", "none"]
    # It saves after the warm start and no more, so the killed job's ticks come a second time.
    environment = {**os.environ, "LOOKALIKE_TEST_CHECKPOINT_SECONDS": "1000"}
    process = driver.start(job, tmp_path, errors=tmp_path / "errors", environment=environment)
    stats = tmp_path / "runs" / "00001-toy-bits" / "stats.jsonl"
    while not (stats.exists() and stats.read_text().count("\n") >= 2):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    with stats.open("a") as file:
        file.write('{"seen": 4000, "half a li')
    assert main(["fit", "--resume"]) == 0
    seen = [json.loads(line)["seen"] for line in stats.read_text().splitlines()]
    assert seen == sorted(set(seen))
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nofile.csv"], "--data nofile.csv: no such file"),
        (["--data", "{csv}", "--column", "nope"], "--column nope: the columns are id, review"),
        (["--data", "toy", "--batch-size", "0"], "--batch-size"),
        (["--data", "toy", "--device", "cuda"], "--device cuda: torch sees no GPU"),
        (["--data", "toy", "--config", "{yaml}"], "there is no option colour"),
        (["--data", "toy", "--gate", "no.yaml"], "--gate no.yaml"),
        (["--resume"], "runs: there is no run"),
        (["--nonsense"], "No such option"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_typos_are_answered_in_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    csv, yaml = tmp_path / "reviews.csv", tmp_path / "config.yaml"
    csv.write_text("id,review\n" + "1,a film\n" * 20)
    yaml.write_text("colour: blue\n")
    before = sorted(tmp_path.rglob("*"))
    if options[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["fit", *(option.format(csv=csv, yaml=yaml) for option in options)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_prints_the_resolved_configuration_and_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--data", "toy", "--seed", "4", "--dry-run"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["codec"], config["seed"]) == ("bits", 4)
    assert config["device"] in ("cpu", "cuda")
    assert list(tmp_path.iterdir()) == []


def test_flag_beats_environment_beats_file_beats_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: toy\nseed: 1\nwords: 11\nholdout: 0.3\n")
    monkeypatch.setenv("LOOKALIKE_SEED", "2")
    monkeypatch.setenv("LOOKALIKE_WORDS", "12")
    assert main(["fit", "--config", str(file), "--seed", "3", "--preset", "textbook", "--dry-run"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["seed"], config["words"], config["holdout"], config["batch_size"]) == (3, 12, 0.3, 1)


def test_a_failed_gate_ends_with_three_and_keeps_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("c2st_auc: <= 0.1\n")
    assert main(["fit", "--data", "toy", *SMALL, "--epochs", "2", "--gate", str(gate), "--baselines", "none"]) == 3
    told = capsys.readouterr().out
    assert "c2st_auc is" in told
    assert "All files are kept, but this model does not become champion" in told
    run = rundir.newest(tmp_path / "runs")
    assert run.artifact.is_dir()
    assert json.loads(run.metrics.read_text())["passed"] is False
    judged = archive.read_card(run.archive)["gate"]
    assert judged["passed"] is False
    assert judged["missed"][0].startswith("c2st_auc is")
    with pytest.raises(MlflowException, match="champion"):
        mlflow.MlflowClient(store(tmp_path)).get_model_version_by_alias("lookalike", "champion")


def test_training_goes_on_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["fit", "--data", "toy", *FAST]) == 0
    run = rundir.newest(tmp_path / "runs")
    assert "MLflow cannot record this run" in run.log.read_text()
    assert run.report.is_file()


def test_sample_export_and_evaluate_work_on_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data", "toy", *FAST]) == 0
    run = str(rundir.newest(tmp_path / "runs").path)
    for ending in ("csv", "npy"):
        assert main(["sample", run, "--n", "300", "--seed", "5", "--out", f"{tmp_path}/fake.{ending}"]) == 0
    real = tmp_path / "real.npy"
    np.save(real, builtin.toy(600, seed=9))
    capsys.readouterr()
    report = tmp_path / "judged.html"
    assert (
        main(["evaluate", "--real", str(real), "--synthetic", f"{tmp_path}/fake.csv", "--json", "--out", str(report)])
        == 0
    )
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert set(scores) == {"synthetic", "floor"}
    assert "fake.csv against real.npy" in report.read_text()
    assert main(["export", run, "--out", f"{tmp_path}/again.mar"]) == 0
    assert (tmp_path / "again.mar").is_file()
