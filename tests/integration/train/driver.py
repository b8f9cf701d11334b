"""`python -m train` for tests that interrupt it: everything is small, and checkpoints are as frequent as possible.

LOOKALIKE_TEST_CHECKPOINT_SECONDS makes them less frequent. LOOKALIKE_TEST_HOLD=2,5 makes the job wait after its ticks
2 and 5 until the test has created the files `go-2` and `go-5` in the working directory.

`start` forks the job from a fork server (Python's `multiprocessing`) that has already imported everything, which saves
seconds per job (see `preloaded`). Run as a script, it is an ordinary process.
"""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from tqdm import tqdm

from train import calibration, console, job, judges, mixture, net_fit, tracking, warmup
from train.__main__ import main
from train.game import Tick

ROOT = Path(__file__).parents[3]
# A process must have no other threads when it forks: locks that they hold would stay locked in the child.
WITHOUT_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

on_tick = job.Game._on_tick


def hold(game: job.Game, tick: Tick, bar: console.GameBar) -> bool:
    enough = on_tick(game, tick, bar)
    held = os.environ.get("LOOKALIKE_TEST_HOLD", "").split(",")
    ticks = str(len(game.job.run.stats.read_text().splitlines()))
    while ticks in held and not Path(f"go-{ticks}").exists():
        time.sleep(0.02)
    return enough


def run(arguments: list[str]) -> int:
    """Run the command with everything small; returns its exit code."""
    job.CHECKPOINT_SECONDS = float(os.environ.get("LOOKALIKE_TEST_CHECKPOINT_SECONDS", "0"))  # type: ignore[assignment]
    tracking.SECONDS = 0.2  # type: ignore[assignment]
    net_fit.STEPS, warmup.STEPS_ALONE, mixture.EM_STEPS, calibration.ROWS = 30, 1, 5, 500
    judges.FOLDS = 2  # type: ignore[assignment]
    job.Game._on_tick = hold  # type: ignore[method-assign]
    return main(arguments)


def start(
    arguments: list[str], folder: Path, *, errors: Path, environment: Mapping[str, str] = os.environ
) -> BaseProcess:
    """Start the command.

    Args:
        folder: the working directory.
        errors: the file that receives standard error; standard output is discarded.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.train.preloaded"])
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT), **WITHOUT_THREADS):
        forkserver.ensure_running()
    process = context.Process(target=_be, args=(arguments, str(folder), str(errors), dict(environment)))
    process.start()
    return process


def _be(arguments: list[str], folder: str, errors: str, environment: dict[str, str]) -> None:
    # Not tqdm's default lock: it includes a semaphore, which a killed job would leak or leave locked for later jobs.
    tqdm.set_lock(threading.RLock())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.exit(run(arguments))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
