"""Training with torchrun: the same results as one process, a single writer, and all end when one process is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.integration.train.together import (
    ROOT,
    RUN,
    SAVING_EACH_STEP,
    finish,
    launcher,
    seen,
    start,
    stats,
    wait_for_tick,
)
from train import checkpoint

LEAVING = """
import psutil
from train import distributed
from train.config import Config

alone = psutil.Process().num_threads()
with distributed.session(Config(device="cpu", codec="bits")):
    import torch._dynamo  # as optimizers do at their first step

    distributed.all_reduce_max(1.0)
    assert psutil.Process().num_threads() > alone
assert psutil.Process().num_threads() == alone
"""

TEXTS = """
import json, torch
from train import distributed, text_calibration, text_counts, text_game, text_warmup
from train.config import Config
from train.generator import LabelledRows

torch.set_num_threads(1)
with distributed.session(Config(device="cpu", codec="tokens")):
    torch.manual_seed(0)
    rows = torch.randint(3, 60, (333, 12))  # so that the last batch of a pass cannot be shared equally
    rows[:, 11], labels = 1, rows[:, 0] % 2
    generator = text_counts.new_generator(
        rows, vocabulary=60, head=40, embedding=8, hidden=16, labels=labels, classes=2, candidates=4
    )
    learned = LabelledRows(codes=rows, labels=labels)
    start, losses, steps = text_warmup.TextWarmStart(generator, learned, learned.take(torch.arange(50))), [], 0
    while steps < 50:
        steps += 1
        start.run(600, lambda: True)
        losses.append(text_warmup.mean_loss(start.model, start.validation))
    assert start.step == 50
    text_calibration.calibrate(generator, rows, seed=1)
    losses += generator.model.bias.tolist() + generator.model.ending_shift.tolist()
    game = text_game.TextState(generator)
    for seed in range(2):
        found = text_game.one_pass(game, LabelledRows(codes=rows, labels=labels), seed, lambda: False)
        losses += found.values()
    if distributed.is_main():
        print(json.dumps(losses))
"""


def newest(folder: Path) -> Path | None:
    return checkpoint.newest(folder / RUN / "checkpoints")


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes in the order of their ranks."""
    children = [each for each in psutil.Process(process.pid).children() if "fit" in each.cmdline()]
    return sorted(children, key=lambda each: int(each.environ()["RANK"]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short, undisturbed job of one process."""
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1, "--epochs", "2", job=SAVING_EACH_STEP)
    return folder


def test_a_warm_start_stopped_with_three_processes_and_with_one_and_refit_by_two_ends_with_the_weights_of_one(
    tmp_path: Path, alone: Path
) -> None:
    options = ("--epochs", "2")
    for processes in (3, 1):
        before = newest(tmp_path)
        process = start(tmp_path, processes, *options, *(["--resume"] if before else []), job=SAVING_EACH_STEP)
        while newest(tmp_path) == before:
            assert process.poll() is None
            time.sleep(0.01)
        for worker in [process] if processes == 1 else workers(process):
            worker.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) != 0
        assert "Error: interrupted; everything is saved" in (tmp_path / "output.txt").read_text()
        saved = checkpoint.load_newest(tmp_path / RUN / "checkpoints")
        assert saved is not None
        assert saved["phase"] == "warm start"
    finish(tmp_path, 2, *options, "--resume", job=SAVING_EACH_STEP)
    one, other = ((each / RUN / "artifact" / "generator.safetensors").read_bytes() for each in (alone, tmp_path))
    assert one == other
    undisturbed, resumed = (checkpoint.load_newest(each / RUN / "checkpoints") for each in (alone, tmp_path))
    assert undisturbed is not None
    assert resumed is not None
    assert undisturbed["phase"] == resumed["phase"] == "refit"
    for phase in (
        (undisturbed["warm"], resumed["warm"]),
        (undisturbed["refit"]["joined"], resumed["refit"]["joined"]),
    ):
        assert all(torch.equal(value, phase[1][name]) for name, value in phase[0].items())


def test_texts_have_the_losses_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "texts.py").write_text(TEXTS)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    one, three = (
        json.loads(subprocess.check_output([*program, "texts.py"], cwd=tmp_path, env=environment, timeout=120))
        for program in ([sys.executable], launcher(3))
    )
    assert len(one) == 50 + 40 + 12 + 4
    assert one[49] < one[0] - 1
    assert three == pytest.approx(one, abs=1e-5)


def test_processes_agree_on_when_the_minutes_are_over(tmp_path: Path) -> None:
    # Small steps and one long tick, so that the processes' clocks pass the limit in different steps.
    options = ("--batch-size", "8", "--turns", "1", "--tick", "10000000", "--warmup", "0.3", "--max-minutes", "0.05")
    assert "training ended (minutes)" in finish(tmp_path, 2, *options)


def test_a_process_that_leaves_keeps_none_of_the_threads_that_processes_talk_by(tmp_path: Path) -> None:
    # A thread that needs the interpreter after it has shut down would abort its process, and with it the job.
    (tmp_path / "leaving.py").write_text(LEAVING)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher(2), "leaving.py"], cwd=tmp_path, env=environment, check=True, timeout=120)


def test_a_lost_process_ends_the_job_and_the_checkpoint_goes_on_with_another_number(tmp_path: Path) -> None:
    process = start(tmp_path, 2, "--epochs", "100000")
    wait_for_tick(process, tmp_path, 0)  # by then there is the checkpoint after the warm start
    workers(process)[1].send_signal(signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    output = (tmp_path / "output.txt").read_text()
    assert "another process of this job was lost" in output

    finish(tmp_path, 3, "--resume", "--epochs", str(seen(tmp_path) // 680 + 2))
    ticks = [line["seen"] for line in stats(tmp_path)]
    assert ticks == sorted(set(ticks))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path, 2, "--batch-size", "33", "--epochs", "1")
    assert process.wait(timeout=120) != 0
    assert "--batch-size 33: 2 processes cannot share it equally" in (tmp_path / "output.txt").read_text()
    assert not (tmp_path / "runs").exists()
