"""What `sample` writes."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from train import __main__ as commands
from train import artifact, sampling, writers
from train.errors import JobError


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


def test_samples_are_not_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["sample", "runs/absent", "--out", "-"]) == 2
    assert capsys.readouterr().err.startswith("Error: --out -: cannot write to standard output")


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

    monkeypatch.setattr(sampling, "started", lambda *_: nullcontext([Lost()]))
    options = ["--n", "100", "--shard-rows", "10", "--processes", "2", "--out", str(out)]
    assert commands.main(["sample", str(run), *options]) == 1
    told = f"process 1 of 2 failed: it was ended by SIGKILL; run the same command again to continue {out}"
    assert capsys.readouterr().err.strip() == f"Error: {told}"
    assert [path.name for path in out.glob("*.parquet")] == ["part-00000-of-00010.parquet"]
