"""Samples as users make them: with several processes, killed midway, in constant memory; and what is not a run."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.memory import from_bare_process, reported
from train import artifact
from train.__main__ import main
from train.codec import BitsCodec
from train.nade import NadeGenerator

ROOT = Path(__file__).parents[3]
COLUMNS = [f"x{i}" for i in range(16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run") / "artifact"
    generator = NadeGenerator(length=16, hidden=8, nets=2, classes=2)
    artifact.save(folder, generator, BitsCodec(COLUMNS), {})
    return folder


def command(model: Path, n: int, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "train", "sample", str(model), "--n", str(n), "--out", str(out), *options]


def start(model: Path, n: int, out: Path, *options: str, rank: int = 0, processes: int = 1) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if processes > 1:  # as torchrun starts them
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
    return subprocess.Popen(
        command(model, n, out, *options),
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.parquet")}


def test_a_killed_process_is_started_again_and_the_sample_is_the_undisturbed_one(model: Path, tmp_path: Path) -> None:
    options = ("--shard-rows", "2500", "--seed", "4")  # enough shards that a process is killed before it finishes
    assert main(command(model, 500_000, tmp_path / "whole", *options)[3:]) == 0

    both = [start(model, 500_000, tmp_path / "shared", *options, rank=rank, processes=2) for rank in (0, 1)]
    while not (tmp_path / "shared" / "part-00001-of-00200.parquet").exists():
        assert both[1].poll() is None
        time.sleep(0.05)
    both[1].kill()
    both[1].communicate()
    finish(both[0])
    assert 100 < len(contents(tmp_path / "shared")) < 200
    finish(start(model, 500_000, tmp_path / "shared", *options, "--processes", "2"))

    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 200


def test_an_interrupted_sample_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    process = start(model, 10**9, tmp_path / "many", "--shard-rows", "10000", "--processes", "2")
    for number in (0, 1):  # the first shard of each process
        while not (tmp_path / "many" / f"part-{number:05d}-of-100000.parquet").exists():
            assert process.poll() is None
            time.sleep(0.05)
    others = psutil.Process(process.pid).children()
    assert len(others) == 1
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.splitlines()[-1] == f"Error: interrupted; run the same command again to continue {tmp_path / 'many'}"
    assert not any(other.is_running() for other in others)


def test_memory_does_not_grow_with_the_rows(model: Path, tmp_path: Path) -> None:
    peaks = []
    for n in (100_000, 600_000):
        report = tmp_path / f"{n}.peak"
        measured = from_bare_process(command(model, n, tmp_path / str(n)), report)
        subprocess.run(measured, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        peaks.append(reported(report))
    assert peaks[1] < peaks[0] + 24, peaks  # MiB; the rows and their noise alone would be 80


def test_sample_and_export_refuse_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["sample", "--out", str(tmp_path / "a.csv")], ["export"]):
        assert main([*command, str(tmp_path)]) == 2
        assert f"RUN {tmp_path}: neither a finished run nor an artifact" in capsys.readouterr().err
        assert main([*command, "nowhere"]) == 2
        assert "RUN nowhere: no such folder" in capsys.readouterr().err
