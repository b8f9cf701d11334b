"""Files that are replaced whole or not at all, and lines that a crash has cut off."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from train import atomic


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), OSError("of zip"), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, problem: BaseException) -> None:
    path = tmp_path / "a.json"

    def interrupted() -> None:
        with atomic.replacing(path) as partial:
            partial.write_text("half")
            raise problem

    for text in ("old", "new"):
        atomic.write_text(path, text)
        assert path.read_text() == text
    with pytest.raises(type(problem)) as caught:
        interrupted()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(caught.value, OSError):
        assert caught.value.filename == (str(path) if caught.value.errno else None)


def test_a_folder_that_cannot_be_written_to_is_told_by_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="read-only") as caught, atomic.replacing(tmp_path / "a.json") as partial:
        refuse(partial)
    assert caught.value.filename == str(tmp_path / "a.json")


def test_of_two_that_write_a_file_at_once_the_last_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with atomic.replacing(path) as first, first.open("w") as file:
        file.write("first, begun\n" * 1000)
        file.flush()
        with atomic.replacing(path) as second:
            second.write_text("second\n")
            assert not path.exists()
        assert path.read_text() == "second\n"
        file.write("first, ended\n")
        file.flush()
    assert path.read_text() == "first, begun\n" * 1000 + "first, ended\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_jobs_have_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "rows.csv") as written:
        written.touch()
        others = [tmp_path / name for name in (".notes.partial", ".x.partial.csv", "a.0a1b2c3d.partial", "rows")]
        left = tmp_path / ".part-00000.parquet.0a1b2c3d.partial"
        for path in (left, *others):
            path.touch()
            os.utime(path, (0, time.time() - atomic.LEFT_SECONDS - 60))
        atomic.clear(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([written, *others])
    atomic.clear(tmp_path / "nowhere")


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), OSError("of zip"), KeyboardInterrupt()])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, problem: BaseException) -> None:
    path = tmp_path / "a"

    def fill(name: str, problem: BaseException | None = None) -> None:
        with atomic.replacing_folder(path) as partial:
            assert not list(partial.iterdir())
            (partial / name).write_text("half")
            if problem is not None:
                raise problem

    for name in ("old", "new"):
        (tmp_path / ".a.partial").mkdir()  # left by a killed job
        (tmp_path / ".a.partial" / "half").touch()
        fill(name)
        assert [file.name for file in path.iterdir()] == [name]
    with pytest.raises(type(problem)) as caught:
        fill("newest", problem)
    assert list(tmp_path.rglob("*")) == [path, path / "new"]
    if isinstance(caught.value, OSError):
        assert caught.value.filename == (str(path) if caught.value.errno else None)


def test_a_folder_is_deleted_only_when_the_next_one_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def replace(name: str) -> None:
        with atomic.replacing_folder(tmp_path / "a") as partial:
            (partial / name).touch()

    def record(path: Path, **given: Any) -> None:
        if path.exists():
            deleted.append([file.name for file in path.iterdir()])
            assert (tmp_path / "a" / "second").exists()
        rmtree(path, **given)

    deleted: list[list[str]] = []
    replace("first")
    monkeypatch.setattr(shutil, "rmtree", record)
    replace("second")
    assert deleted == [["first"]]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "second"]


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        assert atomic.PARTIAL.fullmatch(path.name)
        done.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: done.append(f"{os.fstat(file).st_size} bytes"))
    monkeypatch.setattr(Path, "replace", record)
    atomic.write_text(tmp_path / "a.json", "text")
    assert done == ["4 bytes", "a.json"]


def test_a_folder_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: done.append(f"{os.fstat(file).st_size} bytes"))
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append(target.name), rename(path, target)))
    with atomic.replacing_folder(tmp_path / "a") as partial:
        (partial / "sub").mkdir()
        (partial / "one").write_text("text")
        (partial / "sub" / "two").write_text("longer text")
    assert sorted(done[:2]) == ["11 bytes", "4 bytes"]
    assert done[2:] == ["a"]


def test_lines_are_kept_that_are_whole_and_wanted(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert atomic.keep_lines(path) == 0
    assert not path.exists()
    path.write_text('{"seen": 1}\n{"seen": 2}\n{"se')
    assert atomic.keep_lines(path) == 2
    assert path.read_text() == '{"seen": 1}\n{"seen": 2}\n'
    assert atomic.keep_lines(path, lambda line: line["seen"] < 2) == 1
    assert path.read_text() == '{"seen": 1}\n'
