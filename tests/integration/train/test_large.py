"""A data set too large to be read into memory: little of it becomes resident, and a second start is quick."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.memory import from_bare_process

ROOT = Path(__file__).parents[3]
ROWS, LENGTH = 1_000_000, 128

# Prints the CPU seconds until the first step is done, the growth of peak memory, and the number of rows.
FIRST_STEPS = """
import json, sys, time
import torch
from tests.memory import own_peak as peak
from train import fit, loop
from train.config import resolve
from train.nade import NadeGenerator

torch.set_num_threads(1)
before, started = peak(), time.process_time()
config = resolve({"data": sys.argv[1], "generator": "nade", "device": "cpu", "epochs": 1, "tick": 192})
prepared = fit.prepare(config)
generator = NadeGenerator(length=128, hidden=8, nets=2, classes=1)
state = loop.State.new(config, generator, torch.device("cpu"))
seconds = []
def on_tick(tick):
    seconds.append(time.process_time() - started)
    return len(seconds) == 20
loop.train(state, prepared.rows, config, on_tick=on_tick)
print(json.dumps({"first_step": seconds[0], "mebibytes": peak() - before, "rows": len(prepared.dataset)}))
"""


def first_steps(path: Path, cache: Path) -> dict[str, float]:
    command = from_bare_process([sys.executable, "-c", FIRST_STEPS, str(path)], path.with_suffix(".peak"))
    environment = os.environ | {"LOOKALIKE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write(path: Path, rows: int) -> Path:
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, LENGTH))
    for start in range(0, rows, 50_000):
        part = file[start : start + 50_000]
        part[:] = rng.integers(0, 2, part.shape, np.uint8)
    file.flush()
    return path


def test_a_million_rows_of_128_bits_train_within_little_memory(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.npy", ROWS)

    cold = first_steps(file, tmp_path / "cache")
    (packed,) = (tmp_path / "cache").rglob("rows.bin")
    assert packed.stat().st_size == ROWS * LENGTH // 8
    warm = first_steps(file, tmp_path / "cache")

    assert cold["rows"] == warm["rows"] == ROWS
    assert warm["first_step"] < 10
    own = first_steps(write(tmp_path / "few.npy", 2000), tmp_path / "cache")["mebibytes"]  # of code loaded meanwhile
    # Unpacked in memory, the rows take 122 MiB, and as much again once they are split.
    assert warm["mebibytes"] - own < 100, (warm, own)
    assert cold["mebibytes"] - own < 250, (cold, own)  # the source, also 122 MiB, is memory-mapped during conversion
