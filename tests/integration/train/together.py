"""Small jobs of one or more processes for tests, run as commands, and their progress."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.train import driver

ROOT = Path(__file__).parents[3]
OPTIONS = [
    "fit", "--data", "toy", "--hidden", "8", "--folds", "2", "--width", "16", "--head-start", "0",
    "--baselines", "none", "--gate", "none", "--device", "cpu", "--batch-size", "96", "--turns", "2", "--tick", "20000",
]  # fmt: skip
# Hardly any warm start: a share of 0 of the minutes, which are as good as unlimited.
JOB = ["-m", "train", *OPTIONS, "--warmup", "0", "--max-minutes", "1000"]
SAVING_EACH_STEP = [str(Path(driver.__file__)), *OPTIONS]
RUN = Path("runs") / "00001-toy-bits"


def launcher(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def command(processes: int, *options: str, job: Sequence[str] = JOB) -> list[str]:
    return [*([sys.executable] if processes == 1 else launcher(processes)), *job, *options]


def start(folder: Path, processes: int, *options: str, job: Sequence[str] = JOB) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            command(processes, *options, job=job), cwd=folder, env=environment, stdout=output, stderr=output
        )


def finish(folder: Path, processes: int, *options: str, job: Sequence[str] = JOB) -> str:
    process = start(folder, processes, *options, job=job)
    assert process.wait(timeout=300) == 0, (folder / "output.txt").read_text()
    return (folder / "output.txt").read_text()


def stats(folder: Path) -> list[dict[str, Any]]:
    path = folder / RUN / "stats.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def seen(folder: Path) -> int:
    """The sequences seen by the last tick that was written; 0 before the first."""
    return max((line["seen"] for line in stats(folder)), default=0)


def wait_for_tick(process: subprocess.Popen[str], folder: Path, after: int) -> None:
    while seen(folder) <= after:
        assert process.poll() is None
        time.sleep(0.05)
