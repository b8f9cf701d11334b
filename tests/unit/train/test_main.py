"""What the commands share: messages, exit codes, interruptions and output."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from train import CARD, WEIGHTS, artifact, processes, writers
from train import __main__ as commands
from train import fit as job
from train.codec import BitsCodec
from train.errors import JobError
from train.gate import Verdict
from train.nade import NadeGenerator
from train.rundir import RunDirectory


class Finished:
    """The outcome of a job that missed its gate."""

    run = RunDirectory(Path("runs/00001-toy-bits"))
    verdict = Verdict(reasons=["c2st_auc is 1"], missed=["c2st_auc is 1"])


def test_who_misses_the_gate_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "fit", lambda config, run: Finished)
    monkeypatch.setattr(commands, "_archive", lambda *_: None)
    assert commands.main(["fit", "--data", "toy"]) == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"archive: {Finished.run.archive}"
    assert told[1].startswith("All files are kept, but this model does not become champion (exit code 3)")
    assert "--max-minutes" in told[1]
    assert "--gate FILE or --gate none" in told[1]


def test_log_lines_leave_standard_output_to_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "0,1\n1,1\n1,0\n" * 8)
    files = ["--real", str(tmp_path / "rows.csv"), "--synthetic", str(tmp_path / "rows.csv")]
    assert commands.main(["evaluate", *files, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["passed"] is None
    assert told.err.splitlines() == [
        f"reading {tmp_path / 'rows.csv'} and {tmp_path / 'rows.csv'}",
        "judging 24 synthetic rows by 12 real ones",
    ]


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError("Unable to allocate 7.63 MiB"),
        RuntimeError("alloc_cpu.cpp:127: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_whatever_runs_out_of_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Exception
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(job, "fit", fail)
    assert commands.main(["fit", "--data", "toy"]) == 1
    assert capsys.readouterr().err == "Error: out of memory: free some, or use fewer rows or columns\n"


def test_a_message_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--data", "\x1b[2Jrows.csv"]) == 2
    assert capsys.readouterr().err.startswith("Error: --data \ufffd[2Jrows.csv: no such file")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "neither a finished run nor an artifact; name one such as"),
        (["config.json"], "the run is not finished; resume with: python -m train fit --resume --out"),
    ],
)
def test_what_is_no_finished_run_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], reason: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert commands.main(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: RUN {tmp_path}: {reason} ")


class Met:
    """Is interrupted in its finalizer, where Python drops the exception."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_interruption_in_a_finalizer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        Met()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(commands, "cli", command)
    assert commands.main([]) == 1
    assert capsys.readouterr().err.strip() == "Error: interrupted"


def test_an_interruption_in_numpy_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """When numpy reads a buffer's format, as for scikit-learn, it takes whatever is raised for a bad format."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @click.command()
    def command() -> None:
        np.asarray(memoryview(np.zeros(3, [("gradients", "f8"), ("count", "u4")])))

    monkeypatch.setattr("numpy._core._internal._dtype_from_pep3118", interrupt)
    monkeypatch.setattr(commands, "cli", command)
    assert commands.main([]) == 1
    assert capsys.readouterr().err.strip() == "Error: interrupted"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: toy\nepochs: many\n", "{file} line 2: epochs: 'many' is not a valid integer"),
        ("data: toy\nmax_minute: 3\n", "{file} line 2: there is no option max_minute; did you mean max-minutes?"),
        ("max-minutes: 3\nmax_minutes: 4\n", "{file} line 2: max_minutes is given twice"),
        ("colour: blue\n", "{file} line 1: there is no option colour"),
        ("seed: [1, 2]\n", "{file} line 1: seed: a single value is needed"),
        ("a: b: c\n", 'mapping values are not allowed here in "{file}", line 1'),
        ("- data\n", "{file}: must hold `option: value` lines"),
        (
            "colour: blue\nepochs: many\nseed: 1\nseed: 2\n",
            "{file} line 1: there is no option colour; did you mean column?; "
            "line 2: epochs: 'many' is not a valid integer range; line 4: seed is given twice",
        ),
    ],
)
def test_a_mistake_in_a_file_of_options_is_found_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert commands.main(["fit", "--config", str(file), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: Invalid value for '--config': {message.format(file=file)}")


def test_an_option_without_a_value_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: toy\nwords:\nlowercase: no\n")
    assert commands.main(["fit", "--config", str(file), "--dry-run"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["words"], config["lowercase"]) == (64, False)


def test_a_dry_run_tells_what_it_does_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text\n" + "a film\n" * 50 + '""\n')
    assert commands.main(["fit", "--data", str(path), "--hidden", "7", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["hidden"] == 7
    assert "no effect with codec tokens and generator tokens: --hidden" in told.err
    assert "skipped: reviews.csv row 51: no text" in told.err
    assert "100% of the held-out texts are also found among the training texts" in told.err


def test_a_dry_run_reads_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--data", "toy", "--gate", "nowhere.yaml", "--dry-run"]) == 2
    assert capsys.readouterr().err == "Error: --gate nowhere.yaml: No such file or directory\n"
    assert commands.main(["fit", "--data", "toy", "--gate", "defualt", "--dry-run"]) == 2
    assert capsys.readouterr().err.endswith("No such file or directory; did you mean default?\n")


def test_a_file_of_options_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--config", "nowhere.yaml"]) == 2
    assert "'--config': nowhere.yaml: No such file" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    generator = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    artifact.save(tmp_path / "artifact", generator, BitsCodec("abcdef"), {})
    return tmp_path


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_sample_that_memory_cannot_hold_is_better_a_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Exception
) -> None:
    def write(*_: object) -> None:
        raise problem

    monkeypatch.setattr(writers, "write", write)
    assert commands.main(["sample", str(run), "--out", str(run / "rows.csv")]) == 1
    assert capsys.readouterr().err.startswith(f"Error: --out {run}/rows.csv: out of memory; a folder")


def test_a_file_that_cannot_be_written_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("train.writers.write", write)
    assert commands.main(["sample", str(run), "-n", "3", "--out", str(run / "rows.csv")]) == 1
    assert capsys.readouterr().err == f"Error: {run}/rows.csv: Permission denied\n"


def test_sync_names_the_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["sync", "nowhere"]) == 2
    assert "RUN nowhere: no such folder; name one such as runs/" in capsys.readouterr().err


def test_sync_says_how_a_damaged_archive_is_made_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.tracking.sync", lambda directory: "4f0c")
    assert commands.main(["sync", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: MLflow has all that there is so far, as run 4f0c\n"
    (run / "metrics.json").touch()
    (run / "lookalike.mar").write_bytes(b"PK, and then nothing")
    assert commands.main(["sync", str(run)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{run}: MLflow has all of it, as run 4f0c\n"
    assert said.err.endswith(f"rebuild it with: python -m train export {run}\n")


def test_samples_are_not_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["sample", "runs/absent", "--out", "-"]) == 2
    assert capsys.readouterr().err.startswith("Error: --out -: cannot write to standard output")


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    code = "from train.__main__ import main; main(['--help']); print('caf\\u00e9 \\u2026')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, rb"caf\xe9 \u2026"), done.stderr


@pytest.mark.parametrize(("closed", "stream"), [("1", "stdout"), ("2", "stderr")])
def test_a_closed_standard_stream_is_replaced(closed: str, stream: str) -> None:
    """Training with standard error closed used to hang."""
    code = f"import sys; from train.__main__ import main; main(['--help']); sys.exit(sys.{stream}.fileno() != {closed})"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}>&-', sys.executable, code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("out", ["rows.npy", "rows"], ids=["a file", "a folder"])
def test_a_sample_has_the_rows_of_its_seed(run: Path, out: str) -> None:
    assert commands.main(["sample", str(run), "--n", "40", "--seed", "5", "--out", str(run / out)]) == 0
    wanted = artifact.load(run / "artifact").sample(40, 5).numpy()
    found = np.load(run / out) if out.endswith("npy") else np.stack(pa.parquet.read_table(run / out).columns, axis=1)
    np.testing.assert_array_equal(found, wanted)


def test_a_lost_process_ends_a_sample_before_the_next_shard(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or its shards would be left for the process that has them when the sample goes on, while the others are idle."""
    out = tmp_path / "many"

    class Lost:
        def check(self) -> bool:
            if list(out.glob("*.parquet")):
                raise JobError("process 1 of 2 failed: it was ended by SIGKILL")
            return False

    monkeypatch.setattr(processes, "started", lambda *_: nullcontext([Lost()]))
    options = ["--n", "100", "--shard-rows", "10", "--processes", "2", "--out", str(out)]
    assert commands.main(["sample", str(run), *options]) == 1
    told = f"process 1 of 2 failed: it was ended by SIGKILL; run the same command again to continue {out}"
    assert capsys.readouterr().err.strip() == f"Error: {told}"
    assert [path.name for path in out.glob("*.parquet")] == ["part-00000-of-00010.parquet"]


def test_a_broken_artifact_does_not_become_an_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "artifact" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert commands.main(["export", str(run)]) == 2
    assert "the checksum does not match the card" in capsys.readouterr().err
    assert not (run / "lookalike.mar").exists()


def test_an_archive_does_not_replace_a_file_of_its_artifact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = run / "artifact" / CARD
    before = card.read_bytes()
    assert commands.main(["export", str(run), "--out", str(card)]) == 2
    assert f"--out {card}: the archive would be among the files of the artifact" in capsys.readouterr().err
    assert card.read_bytes() == before


def test_an_archive_lies_beside_the_artifact_also_from_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    artifact.save(tmp_path / "artifact", made, BitsCodec("abcdef"), {"version": "1"})
    monkeypatch.chdir(tmp_path / "artifact")
    assert commands.main(["export", "."]) == 0
    assert (tmp_path / "lookalike.mar").exists()


def log_twice(folder: Path, made: str, then: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run a process whose handler, `made` so, logs two lines into the stream given as None, which nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import logging; from train.__main__ import _BesideTheBar; log = logging.getLogger('x'); "
    code += f"log.addHandler({made}); log.error('one'); log.error('two'); {then}"
    environment = {**os.environ, "PYTHONPATH": str(Path(commands.__file__).parents[1])}
    given = {name: writing if stream is None else stream for name, stream in streams.items()}
    job = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, text=True, **given)
    os.close(writing)
    return job


def test_a_job_goes_on_where_nobody_reads_its_output(tmp_path: Path) -> None:
    """As after `| head -1`."""
    then = "open('done', 'w').close()"
    job = log_twice(tmp_path, "_BesideTheBar()", then, stdout=None, stderr=subprocess.PIPE)
    assert (job.returncode, job.stderr) == (0, "")
    assert (tmp_path / "done").exists()


def test_json_is_printed_although_nobody_reads_the_log(tmp_path: Path) -> None:
    job = log_twice(tmp_path, "_BesideTheBar(json_alone=True)", "print('{}')", stdout=subprocess.PIPE, stderr=None)
    assert (job.returncode, job.stdout) == (0, "{}\n")
