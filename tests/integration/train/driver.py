"""`python -m train` for tests that interrupt it: everything small, and checkpoints as often as can be.

LOOKALIKE_TEST_HOLD=2,5 makes the job wait after its ticks 2 and 5 until the test has made the files `go-2` and
`go-5` in the working directory.
"""

import os
import sys
import time
from pathlib import Path

from train import fit, tracking, warmup
from train.__main__ import main
from train.loop import Tick

fit.CHECKPOINT_SECONDS = float(os.environ.get("LOOKALIKE_TEST_CHECKPOINT_SECONDS", "0"))  # type: ignore[assignment]
tracking.SECONDS = 0.2  # type: ignore[assignment]
warmup.STEPS, warmup.CALIBRATION_ROWS, warmup.EM_STEPS = 60, 500, 5

held = [int(tick) for tick in os.environ.get("LOOKALIKE_TEST_HOLD", "").split(",") if tick]
on_tick = fit._Job._on_tick


def hold(job: fit._Job, tick: Tick) -> bool:
    enough = on_tick(job, tick)
    ticks = len(job.run.stats.read_text().splitlines())
    while ticks in held and not Path(f"go-{ticks}").exists():
        time.sleep(0.02)
    return enough


fit._Job._on_tick = hold  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
