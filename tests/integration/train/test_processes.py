"""Training with processes that the first one starts: the losses of one process, a single writer, none left behind."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.train.together import (
    RUN,
    SAVING_EACH_STEP,
    finish,
    seen,
    start,
    stats,
    wait_for_tick,
)
from train import checkpoint


def test_two_processes_have_the_losses_of_one_and_leave_one_run(tmp_path: Path) -> None:
    # One tick per step; without validation rows the game cannot stop early.
    options = ("--batch-size", "46", "--tick", "92", "--validation", "0", "--epochs", "9")
    finish(tmp_path / "one", 1, *options)
    output = finish(tmp_path / "two", 1, "--processes", "2", *options)
    one, two = stats(tmp_path / "one"), stats(tmp_path / "two")
    assert len(one) >= 50
    assert [line["seen"] for line in one] == [line["seen"] for line in two]
    for name in ("generator_loss", "discriminator_loss", "gradient_penalty"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], abs=1e-5)
    assert [path.name for path in (tmp_path / "two" / "runs").glob("0*")] == [RUN.name]
    assert output.count("archive: ") == 1


def test_a_job_on_texts_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    subjects, ends = ("the film", "a story", "this plot"), ("dull", "fine", "long", "odd")
    sentences = [f"{subject} is {end} and {other}." for subject in subjects for end in ends for other in ends]
    (tmp_path / "reviews.txt").write_text("\n".join(sentences * 5) + "\n")
    options = ["--data", "reviews.txt", "--text-hidden", "16", "--epochs", "2", "--baselines", "none", "--gate", "none"]
    job = [SAVING_EACH_STEP[0], "fit", *options, "--device", "cpu"]
    run = tmp_path / "runs" / "00001-reviews-tokens"
    process = start(tmp_path, 1, "--processes", "2", job=job)
    while not list(run.glob("checkpoints/*.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 1
    saved = checkpoint.load_newest(run / "checkpoints")
    assert saved is not None
    assert saved["phase"] == "warm start"
    assert "archive: " in finish(tmp_path, 1, "--resume", "--processes", "1", job=job)
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_the_first_process_ends_those_that_it_has_started(tmp_path: Path) -> None:
    process = start(tmp_path, 1, "--epochs", "100000", "--processes", "2")
    wait_for_tick(process, tmp_path, 0)
    others = psutil.Process(process.pid).children()
    assert len(others) == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 1
    lines = (tmp_path / "output.txt").read_text().splitlines()
    told = [line for line in lines if not line.startswith("MLflow cannot record this run")]  # its reason names errors
    assert [line for line in told if "Error" in line or "lost" in line] == lines[-1:]
    assert lines[-1].startswith("Error: interrupted; everything is saved")
    assert not any(other.is_running() for other in others)


def test_a_process_that_is_lost_is_named_and_the_other_is_over_with_a_killed_first_one(tmp_path: Path) -> None:
    process = start(tmp_path, 1, "--epochs", "100000", "--processes", "3")
    wait_for_tick(process, tmp_path, 0)
    first, second = psutil.Process(process.pid).children()
    first.kill()
    assert process.wait(timeout=120) == 1
    last = (tmp_path / "output.txt").read_text().splitlines()[-1]
    assert last.startswith("Error: process ")
    assert "of 3 failed: it was ended by SIGKILL; another process was lost; the last good state is" in last
    assert "resume with: python -m train fit --resume --out runs" in last
    assert not second.is_running()

    process = start(tmp_path, 1, "--resume", "--processes", "2")
    wait_for_tick(process, tmp_path, seen(tmp_path))
    others = psutil.Process(process.pid).children()
    assert len(others) == 1
    process.kill()
    process.wait()
    assert psutil.wait_procs(others, timeout=60)[1] == []
