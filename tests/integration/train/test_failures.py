"""Failures end a job with one line that names the last good state, and leave nothing half-written."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from filelock import FileLock
from torch import Tensor

from train import calibration, checkpoint, fit, job, loop, net_fit, rundir
from train.__main__ import main

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).parent / "driver.py"
JOB = ["fit", "--data", "toy", "--hidden", "4", "--folds", "2", "--epochs", "4", "--tick", "680"]
JOB += ["--batch-size", "96", "--turns", "2"]
JOB += ["--baselines", "none", "--gate", "none", "--out", "runs"]
# No other process sees these mounts, and they vanish with the process.
PRIVATE = ["unshare", "--mount", "bash", "-ec"]
FULL_DISK = """
mkdir runs && mount -t tmpfs -o size=16m none runs
LOOKALIKE_TEST_HOLD=2 {job} & job=$!
until [ -e runs/00001-toy-bits/stats.jsonl ] && [ $(wc -l < runs/00001-toy-bits/stats.jsonl) = 2 ]; do sleep 0.1; done
cat /dev/zero > runs/ballast 2> /dev/null || touch go-2
code=0; wait $job || code=$?
find runs -name "*.partial" > partial
rm runs/ballast
{driver} fit --resume --out runs
exit $code
"""
FULL_AT_THE_END = """
mkdir runs && mount -t tmpfs -o size=16m none runs
{python} - <<'PYTHON'
{code}
PYTHON
"""
# 24 KiB are enough for logs and records, but not for what these commands write.
WRITERS = """
import os
import shutil
import sys
from pathlib import Path
from tests.integration.train import driver

job = {job}
assert driver.run(job) == 0
run = Path("runs/00001-toy-bits")
artifact = shutil.copytree(run / "artifact", "kept")
for lost in ("artifact", "lookalike.mar", "metrics.json"):
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
with open("runs/ballast", "wb", buffering=0) as ballast:
    try:
        while ballast.write(bytes(4096)):
            pass
    except OSError:
        ballast.truncate(os.path.getsize("runs/ballast") - 24 * 1024)
sample = ["sample", str(artifact), "--n", "100000", "--out"]
for command in (
    ["fit", "--resume", "--out", "runs"],
    ["export", str(artifact), "--out", "runs/lookalike.mar"],
    *([*sample, "runs/rows" + ending] for ending in (".csv", ".jsonl", ".npy", ".parquet", "")),
):
    print(driver.run(command), file=sys.stderr)
Path("partial").write_text("".join(str(path) for path in Path("runs").rglob("*partial*")))
os.unlink("runs/ballast")
assert driver.run(["fit", "--resume", "--out", "runs"]) == 0
"""
READ_ONLY = "mkdir runs && mount -t tmpfs -o ro none runs && {job}"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(job, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(net_fit, "STEPS", 30)
    monkeypatch.setattr(calibration, "ROWS", 500)


def last_good() -> str:
    path = checkpoint.newest(rundir.newest(Path("runs")).checkpoints)
    assert path is not None
    return str(path)


def in_private(script: str) -> subprocess.CompletedProcess[str]:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    driver = f"{sys.executable} {DRIVER}"
    script = script.format(python=sys.executable, driver=driver, job=f"{driver} {' '.join(JOB)}")
    return subprocess.run([*PRIVATE, script], capture_output=True, text=True, check=False, env=os.environ)


def test_a_full_disk_ends_in_a_line_and_the_job_goes_on_when_there_is_room() -> None:
    done = in_private(FULL_DISK)
    assert done.returncode == 1, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 1
    assert "No space left on device; the last good state is runs/00001-toy-bits/checkpoints/" in errors[0]
    assert "resume with: python -m train fit --resume --out runs" in errors[0]
    assert Path("partial").read_text() == ""
    assert "archive: runs/00001-toy-bits/lookalike.mar" in done.stdout


def test_whatever_is_being_written_when_the_disk_is_full_ends_in_a_line() -> None:
    job = [*JOB, "--hidden", "64"]
    done = in_private(FULL_AT_THE_END.replace("{code}", WRITERS.format(job=job)))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["1"] * 7, done.stderr
    for line in lines[::2]:
        assert re.fullmatch(r"Error: .*runs/.*No space left on device.*|Error: .*No space left.*runs/.*", line), line
    assert Path("partial").read_text() == ""


def test_a_read_only_directory_is_refused_before_anything_starts() -> None:
    done = in_private(READ_ONLY)
    assert done.returncode == 2
    assert done.stderr == "Error: --out runs: Read-only file system; nothing was started\n"


def failing(how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """`loop.step`, with the losses of its tenth call passed through `how`."""
    step, asked = loop.step, iter(range(1, 10**9))
    return lambda *given: how(step(*given)) if next(asked) == 10 else step(*given)


def test_a_loss_that_is_no_number_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "step", failing(lambda losses: {name: loss * torch.nan for name, loss in losses.items()}))
    assert main(JOB) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'generator_loss': nan" in error
    assert f"the last good state is {last_good()}" in error


def test_a_batch_that_does_not_fit_into_memory_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(losses: dict[str, Tensor]) -> dict[str, Tensor]:
        torch.empty(2**60)  # more than any machine has: torch's own allocator refuses
        return losses

    monkeypatch.setattr(loop, "step", failing(refuse))
    assert main(JOB) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"out of memory; the last good state is {last_good()}" in error


def test_two_processes_do_not_work_on_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = rundir.create(Path("runs"), "toy-bits", fit.Config(data="toy", device="cpu", epochs=1).to_json())
    with FileLock(run.path / ".lock"):
        assert main(["fit", "--resume", "--out", "runs"]) == 1
    assert capsys.readouterr().err == f"Error: {run.path}: another process is working on this run\n"
    assert not run.stats.exists()


def test_a_refused_parquet_file_ends_in_one_line(tmp_path: Path) -> None:
    """Arrow's threads must not hold Python's memory when the interpreter ends: usually, that aborted the process."""
    rng = np.random.default_rng(0)
    table = pa.table({f"x{i}": rng.random(400) < 0.5 for i in range(6)})
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    command = [sys.executable, "-m", "train", "fit", "--data", str(tmp_path / "rows.parquet"), "--dry-run"]
    for _ in range(3):
        done = subprocess.run([*command, "--label-column", "typo"], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
