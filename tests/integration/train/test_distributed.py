"""Training by several processes: the curve of one, one writer, and an end for all when one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.integration.train import driver
from train import checkpoint

ROOT = Path(__file__).parents[3]
JOB = [
    "-m", "train", "fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--width", "16", "--head-start", "0",
    "--baselines", "none", "--gate", "none", "--device", "cpu", "--batch-size", "96", "--turns", "2", "--tick", "20000",
]  # fmt: skip
SAVING_EACH_STEP = [str(Path(driver.__file__)), *JOB[2:]]
RUN = Path("runs") / "00001-toy-bits"
LEAVING = """
import psutil
from train import distributed
from train.config import Config

alone = psutil.Process().num_threads()
with distributed.session(Config(device="cpu", codec="bits")):
    import torch._dynamo  # as optimizers do at their first step

    distributed.highest(1.0)
    assert psutil.Process().num_threads() > alone
assert psutil.Process().num_threads() == alone
"""

TEXTS = """
import json, torch
from train import distributed, text_game, text_warmup
from train.config import Config
from train.generator import Sample

torch.set_num_threads(1)
with distributed.session(Config(device="cpu", codec="tokens")):
    torch.manual_seed(0)
    rows = torch.randint(3, 60, (333, 12))  # so that the last batch of a pass cannot be shared equally
    rows[:, 11], labels = 1, rows[:, 0] % 2
    generator = text_warmup.new_generator(
        rows, vocabulary=60, head=40, embedding=8, hidden=16, labels=labels, classes=2
    )
    warm, validation = text_warmup.Rows(rows, labels), text_warmup.Rows(rows[:50], labels[:50])
    start, losses, steps = text_warmup.TextWarmStart(generator, warm, validation), [], 0
    while steps < 50:
        steps += 1
        start.run(600, lambda: True)
        losses.append(text_warmup.mean_loss(start.model, validation))
    assert start.step == 50
    text_warmup.calibrate(generator, rows, seed=1)
    losses += generator.model.bias.tolist() + generator.model.ending_shift.tolist()
    game = text_game.TextState(generator)
    for seed in range(2):
        found = text_game.one_pass(game, Sample(codes=rows, labels=labels), seed, lambda: False)
        losses += found.values()
    if distributed.is_first():
        print(json.dumps(losses))
"""


def launcher(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def command(processes: int, *options: str, job: Sequence[str] = JOB) -> list[str]:
    return [*([sys.executable] if processes == 1 else launcher(processes)), *job, *options]


def start(folder: Path, processes: int, *options: str, job: Sequence[str] = JOB) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            command(processes, *options, job=job), cwd=folder, env=environment, stdout=output, stderr=output
        )


def newest(folder: Path) -> Path | None:
    return checkpoint.newest(folder / RUN / "checkpoints")


def finish(folder: Path, processes: int, *options: str, job: Sequence[str] = JOB) -> str:
    process = start(folder, processes, *options, job=job)
    assert process.wait(timeout=300) == 0, (folder / "output.txt").read_text()
    return (folder / "output.txt").read_text()


def stats(folder: Path) -> list[dict[str, Any]]:
    path = folder / RUN / "stats.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def seen(folder: Path) -> int:
    """How far the last tick that was written came; 0 before the first one."""
    return max((line["seen"] for line in stats(folder)), default=0)


def wait_for_tick(process: subprocess.Popen[str], folder: Path, after: int) -> None:
    while seen(folder) <= after:
        assert process.poll() is None
        time.sleep(0.05)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, the first one first."""
    children = [each for each in psutil.Process(process.pid).children() if "fit" in each.cmdline()]
    return sorted(children, key=lambda each: int(each.environ()["RANK"]))


def test_two_processes_have_the_losses_of_one_and_leave_one_run(tmp_path: Path) -> None:
    # A tick each step; without validation rows nothing but the losses decides.
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short job by one process that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1, "--epochs", "2", job=SAVING_EACH_STEP)
    return folder


def test_a_warm_start_stopped_with_three_processes_and_with_two_ends_with_the_weights_of_one(
    tmp_path: Path, alone: Path
) -> None:
    options = ("--epochs", "2")
    for processes in (3, 2):
        before = newest(tmp_path)
        process = start(tmp_path, processes, *options, *(["--resume"] if before else []), job=SAVING_EACH_STEP)
        while newest(tmp_path) == before:
            assert process.poll() is None
            time.sleep(0.01)
        for worker in workers(process):
            worker.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) != 0
        assert "Error: interrupted; everything is saved" in (tmp_path / "output.txt").read_text()
        saved = checkpoint.load_newest(tmp_path / RUN / "checkpoints")
        assert saved is not None
        assert saved["phase"] == "warm start"
    finish(tmp_path, 1, *options, "--resume", job=SAVING_EACH_STEP)
    one, other = ((each / RUN / "artifact" / "generator.safetensors").read_bytes() for each in (alone, tmp_path))
    assert one == other


def test_a_refit_by_two_processes_is_that_of_one(tmp_path: Path, alone: Path) -> None:
    finish(tmp_path, 2, "--epochs", "2", job=SAVING_EACH_STEP)
    one, two = (checkpoint.load_newest(each / RUN / "checkpoints") for each in (alone, tmp_path))
    assert one is not None
    assert two is not None
    assert one["phase"] == two["phase"] == "refit"
    for phase in (one["warm"], two["warm"]), (one["refit"]["joined"], two["refit"]["joined"]):
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
    assert "archive: " in finish(tmp_path, 1, "--resume", "--processes", "3", job=job)
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_processes_agree_on_when_the_minutes_are_over(tmp_path: Path) -> None:
    # Small steps and one long tick, so that the processes' clocks pass the limit in different steps.
    options = ("--batch-size", "8", "--turns", "1", "--tick", "10000000", "--warmup", "0.3", "--max-minutes", "0.05")
    assert "training ended (minutes)" in finish(tmp_path, 2, *options)


def test_a_process_that_leaves_keeps_none_of_the_threads_that_processes_talk_by(tmp_path: Path) -> None:
    # One that wants Python when that has ended would abort its process, and with it the job.
    (tmp_path / "leaving.py").write_text(LEAVING)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher(2), "leaving.py"], cwd=tmp_path, env=environment, check=True, timeout=120)


def test_a_lost_process_ends_the_job_and_the_checkpoint_goes_on_with_another_number(tmp_path: Path) -> None:
    process = start(tmp_path, 2, "--epochs", "100000")
    wait_for_tick(process, tmp_path, 0)  # the checkpoint after the warm start is older
    workers(process)[1].send_signal(signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    output = (tmp_path / "output.txt").read_text()
    assert "another process of this job was lost" in output

    before = seen(tmp_path)
    process = start(tmp_path, 3, "--resume")
    wait_for_tick(process, tmp_path, before)
    for worker in workers(process):
        worker.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    assert "Error: interrupted; everything is saved" in (tmp_path / "output.txt").read_text()

    finish(tmp_path, 1, "--resume", "--epochs", str(seen(tmp_path) // 680 + 2))
    ticks = [line["seen"] for line in stats(tmp_path)]
    assert ticks == sorted(set(ticks))


def test_the_first_process_ends_those_that_it_has_started(tmp_path: Path) -> None:
    process = start(tmp_path, 1, "--epochs", "100000", "--processes", "3")
    wait_for_tick(process, tmp_path, 0)
    others = psutil.Process(process.pid).children()
    assert len(others) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 1
    lines = (tmp_path / "output.txt").read_text().splitlines()
    assert [line for line in lines if "Error" in line or "lost" in line] == lines[-1:]
    assert lines[-1].startswith("Error: interrupted; everything is saved")
    assert not any(other.is_running() for other in others)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path, 2, "--batch-size", "33", "--epochs", "1")
    assert process.wait(timeout=120) != 0
    assert "--batch-size 33: 2 processes cannot share it equally" in (tmp_path / "output.txt").read_text()
    assert not (tmp_path / "runs").exists()
