"""Training in a container: who owns the files, what MLflow records, what a signal leaves behind."""

import os
import subprocess
import time
from pathlib import Path

import mlflow
from mlflow.entities import Run

from tests.docker.conftest import ROOT, Engine, as_caller
from train import artifact, checkpoint, rundir


def tracked(runs: Path, number: int) -> Run:
    """A run, by number, as recorded in the MLflow store beside the runs."""
    client = mlflow.MlflowClient(f"sqlite:///{runs}/mlflow.db")
    run_id = rundir_of(runs, number).artifact.joinpath("card.json")
    experiment = client.get_experiment_by_name("lookalike")
    assert experiment
    found = client.search_runs([experiment.experiment_id], "tags.`data` != ''", order_by=["attributes.start_time"])
    assert run_id.exists() or number == len(found)
    return found[number - 1]


def rundir_of(runs: Path, number: int) -> rundir.RunDirectory:
    return next(run for run in rundir.existing(runs) if run.number == number)


def test_a_run_belongs_to_its_caller_and_needs_no_network(
    trained: subprocess.CompletedProcess[str], runs: Path, engine: Engine
) -> None:
    assert "Runtime for training: Docker (as requested)" in trained.stdout
    assert "--network none" in trained.stderr
    assert "movie-reviews: 10,605 rows" in trained.stdout + trained.stderr
    owners = {path.stat().st_uid for path in runs.rglob("*")}
    assert owners == {engine.uid} != {0}
    assert artifact.load(rundir_of(runs, 1).artifact).card["version"] == "1"
    assert rundir_of(runs, 1).archive.is_file()


def test_mlflow_has_the_run_with_the_revision_of_the_image(
    trained: object, runs: Path, engine: Engine, images: dict[str, int]
) -> None:
    run = tracked(runs, 1)
    card = artifact.load(rundir_of(runs, 1).artifact).card
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    revision = engine("image", "inspect", "--format", label, "lookalike-train:cpu").stdout.strip()
    assert run.info.status == "FINISHED"
    assert run.info.run_id == card["run_id"]
    assert run.data.tags["mlflow.source.git.commit"] == revision
    commit = revision.removesuffix("-dirty")
    known = subprocess.run(["git", "cat-file", "-t", commit], cwd=ROOT, capture_output=True, text=True)
    assert known.stdout == "commit\n" or revision == "unknown"
    # Paths are the same inside and outside the container, so the store's files are found from here.
    client = mlflow.MlflowClient(f"sqlite:///{runs}/mlflow.db")
    assert any(file.path == "report.html" for file in client.list_artifacts(run.info.run_id))


def test_sigterm_leaves_a_checkpoint_from_which_the_job_goes_on(trained: object, runs: Path, engine: Engine) -> None:
    command = ["docker/runtime.sh", "train", "--out", str(runs)]
    environment = engine.environment(RUNTIME="docker", GPUS="none", DOCKER_ARGS=as_caller(engine))
    # Without validation rows, the game cannot stop early for lack of improvement before the signal arrives.
    new = ["--data", "toy", "--max-minutes", "10", "--validation", "0", "--baselines", "none", "--gate", "none"]
    new += ["--processes", "2"]  # they find each other without a network
    with subprocess.Popen(
        [*command, *new], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        await_training(runs, 2)
        began = time.monotonic()
        job.terminate()  # the client passes it on, like Ctrl-C
        output = job.communicate(timeout=60)[0]
    assert time.monotonic() - began < 10, output
    assert job.returncode == 1, output
    assert "interrupted; everything is saved" in output
    found = checkpoint.load_newest(rundir_of(runs, 2).checkpoints)
    assert found
    before = tracked(runs, 2)

    goes_on = [*command, "--resume", "--max-minutes", "0.01"]
    done = subprocess.run(goes_on, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after" in done.stdout + done.stderr
    after = tracked(runs, 2)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"


def await_training(runs: Path, number: int) -> None:
    """Wait for a run's first tick."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        found = [run for run in rundir.existing(runs) if run.number == number]
        if found and found[0].stats.exists() and found[0].stats.stat().st_size:
            return
        time.sleep(0.2)
    raise AssertionError("training did not begin")


def test_a_mistake_is_one_line_and_its_exit_code_comes_out(
    images: dict[str, int], engine: Engine, tmp_path: Path
) -> None:
    command = ["docker/runtime.sh", "train", "--data", str(tmp_path / "absent.csv"), "--dry-run"]
    environment = engine.environment(RUNTIME="docker", GPUS="none", LOOKALIKE_OUT=tmp_path / "runs")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "absent.csv" in done.stderr.splitlines()[-1]
    assert not os.path.lexists(tmp_path / "runs")
