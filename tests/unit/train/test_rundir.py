"""Run directories: their numbers and names, and files that are replaced whole or not at all."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from train import rundir
from train.config import InputError


def test_runs_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    assert rundir.create(tmp_path, "toy-bits", "{}").path.name == "00001-toy-bits"
    (tmp_path / "00041-older").mkdir()
    (tmp_path / "serve").mkdir()
    assert rundir.create(tmp_path, "my reviews/2-presence", "{}").path.name == "00042-my-reviews-2-presence"
    assert rundir.newest(tmp_path).number == 42


def test_runs_that_start_at_once_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda i: rundir.create(tmp_path, f"set{i % 3}", "{}"), range(24)))
    assert sorted(run.number for run in runs) == list(range(1, 25))


def test_without_a_run_there_is_none_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out .*nowhere: there is no run; train one with: make train"):
        rundir.newest(tmp_path / "nowhere")


def test_a_run_itself_may_be_named(tmp_path: Path) -> None:
    runs = [rundir.create(tmp_path, "toy", "{}") for _ in range(2)]
    assert rundir.newest(runs[0].path) == runs[0]
    (tmp_path / "config.json").write_text("{}")  # not of a run
    assert rundir.newest(tmp_path) == runs[1]
    folder = tmp_path / "00009-of-runs"
    folder.mkdir()
    inside = rundir.create(folder, "toy", "{}")
    assert rundir.newest(folder) == inside


def test_where_nothing_can_be_written_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*/file: File exists; nothing was started"):
        rundir.create(tmp_path / "file", "toy", "{}")


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), OSError("of zip"), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, problem: BaseException) -> None:
    path = tmp_path / "a.json"

    def interrupted() -> None:
        with rundir.replacing(path) as partial:
            partial.write_text("half")
            raise problem

    for text in ("old", "new"):
        rundir.write(path, text)
        assert path.read_text() == text
    with pytest.raises(type(problem)) as caught:
        interrupted()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(caught.value, OSError):
        assert caught.value.filename == (str(path) if caught.value.errno else None)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        done.append(f"{path.name} to {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: done.append(f"{os.fstat(file).st_size} bytes"))
    monkeypatch.setattr(Path, "replace", record)
    rundir.write(tmp_path / "a.json", "text")
    assert done == ["4 bytes", ".a.json.partial to a.json"]


def test_lines_are_kept_that_are_whole_and_wanted(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert rundir.keep_lines(path) == 0
    assert not path.exists()
    path.write_text('{"seen": 1}\n{"seen": 2}\n{"se')
    assert rundir.keep_lines(path) == 2
    assert path.read_text() == '{"seen": 1}\n{"seen": 2}\n'
    assert rundir.keep_lines(path, lambda line: line["seen"] < 2) == 1
    assert path.read_text() == '{"seen": 1}\n'
