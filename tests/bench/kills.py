"""Kills a small job repeatedly at random moments and checks that nothing was lost: `make bench-kill`.

Every killed run must end with the same weights as an undisturbed one, and MLflow must have each of its ticks exactly
once. One seed determines the moments, which are measured from a session's first log output.
"""

import collections
import json
import os
import random
import signal
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import click
import mlflow

from tests.integration.train import driver
from train import checkpoint, rundir
from train.rundir import RunDirectory

JOB = ["fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--epochs", "60", "--tick", "680"]
JOB += ["--batch-size", "96", "--turns", "2", "--baselines", "none", "--gate", "none", "--device", "cpu"]
SPAN = 4.0  # seconds; the latest moment at which a session is killed
TIMEOUT = 300


def start(out: Path) -> BaseProcess:
    """Start the job, or resume it."""
    environment = {**os.environ, "LOOKALIKE_TEST_CHECKPOINT_SECONDS": "0.1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    arguments = ["fit", "--resume"] if rundir.existing(out) else JOB
    return driver.start([*arguments, "--out", str(out)], out.parent, errors=errors_of(out), environment=environment)


def errors_of(out: Path) -> Path:
    return out.with_suffix(".errors")


def log_size(out: Path) -> int:
    return sum(run.log.stat().st_size for run in rundir.existing(out) if run.log.exists())


def session(out: Path, moment: float, number: signal.Signals) -> bool:
    """Start or resume the job and send a signal `moment` seconds after its first log output.

    Returns:
        Whether the signal ended the job; it may have finished before.
    """
    before = log_size(out)
    job = start(out)
    while log_size(out) == before and job.is_alive():
        time.sleep(0.01)
    job.join(moment)
    expected: tuple[int, ...] = (0,)
    if job.is_alive():
        assert job.pid is not None
        os.kill(job.pid, number)
        job.join(TIMEOUT)
        expected = (0, -signal.SIGKILL if number == signal.SIGKILL else 1)  # 0: the signal came too late
    errors = errors_of(out).read_text()
    if job.exitcode not in expected or errors.count("\n") > 1:
        raise SystemExit(f"exit code {job.exitcode} instead of {expected} with {number.name}: {errors}")
    return job.exitcode != 0


def place(out: Path) -> str:
    """The phase in which the job was killed, according to its newest checkpoint."""
    runs = rundir.existing(out)
    found = checkpoint.load_newest(runs[0].checkpoints) if runs else None
    if found is None:
        return "before the first checkpoint"
    phase: str = found["phase"]
    return "after the game" if phase == "game" and found["ended"] else phase


def finished(out: Path) -> RunDirectory:
    """Let the job finish and return its run."""
    job = start(out)
    job.join(TIMEOUT)
    if job.exitcode != 0:
        raise SystemExit(f"cannot go on: exit code {job.exitcode}, {errors_of(out).read_text()}")
    (run,) = rundir.existing(out)
    return run


def check(run: RunDirectory, undisturbed: RunDirectory) -> None:
    weights = [(each.artifact / "generator.safetensors").read_bytes() for each in (run, undisturbed)]
    assert weights[0] == weights[1], "the weights differ"
    client = mlflow.MlflowClient(f"sqlite:///{run.path.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("lookalike")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id], "tags.`data` = 'toy'")
    lines = [json.loads(line) for line in run.stats.read_text().splitlines()]
    ticks = [line["seen"] for line in lines]
    expected = [json.loads(line)["seen"] for line in undisturbed.stats.read_text().splitlines()]
    assert ticks == expected, "stats.jsonl lacks a tick or has an extra one"
    for key in set(lines[0]) - {"seen", "seconds", "time"}:
        history = client.get_metric_history(tracked.info.run_id, key)
        told = sorted((each.step, each.value) for each in history)
        assert told == [(line["seen"], line[key]) for line in lines], f"MLflow's history of {key} differs"
    assert len(client.search_model_versions("name = 'lookalike'")) == 1, "the model was registered more than once"


@click.command()
@click.option("--kills", type=click.IntRange(0), default=20, show_default=True, help="How many SIGKILLs.")
@click.option("--terms", type=click.IntRange(0), default=20, show_default=True, help="How many SIGTERMs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
def main(kills: int, terms: int, seed: int) -> None:
    """Kill and check."""
    stream = random.Random(seed)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    stream.shuffle(signals)
    moments = [(stream.uniform(0, SPAN), number) for number in signals]

    places: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = finished(Path(folder, "undisturbed"))
        runs = 0
        while moments:
            out = Path(folder, f"killed-{runs}")
            while moments and session(out, *moments[0]):
                moments.pop(0)
                places[place(out)] += 1
            if moments:  # the job finished first, so draw an earlier moment: no session might last that long
                moments[0] = stream.uniform(0, moments[0][0]), moments[0][1]
            check(finished(out), undisturbed)
            runs += 1
    print(f"{kills} SIGKILLs and {terms} SIGTERMs over {runs} runs: the same weights and the same ticks")
    for name, count in places.most_common():
        print(f"  {count:3} {name}")


if __name__ == "__main__":
    main()
