"""Run directories: their numbers and names."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from train import rundir
from train.errors import InputError


def test_runs_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    assert rundir.create(tmp_path, "toy-bits", "{}").path.name == "00001-toy-bits"
    (tmp_path / "00041-older").mkdir()
    (tmp_path / "serve").mkdir()
    assert rundir.create(tmp_path, "my reviews/2-presence", "{}").path.name == "00042-my-reviews-2-presence"
    assert rundir.newest(tmp_path).number == 42
    (tmp_path / "99999-toy").mkdir()
    assert [rundir.create(tmp_path, "toy", "{}").number for _ in range(2)] == [100_000, 100_001]
    assert rundir.newest(tmp_path).number == 100_001


def test_runs_are_their_owners_alone(tmp_path: Path) -> None:
    """Runs quote the data, so nobody else may read them."""
    rundir.create(tmp_path / "runs", "toy", "{}")
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700


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
    (tmp_path / "config.json").write_text("{}")  # does not make the folder a run
    assert rundir.newest(tmp_path) == runs[1]
    folder = tmp_path / "00009-of-runs"
    folder.mkdir()
    inside = rundir.create(folder, "toy", "{}")
    assert rundir.newest(folder) == inside


def test_a_renamed_run_is_told_from_none(tmp_path: Path) -> None:
    renamed = rundir.create(tmp_path, "toy", "{}").path.rename(tmp_path / "best")
    with pytest.raises(InputError, match=r"--out .*best: this run was renamed, .* like 00001-digits-bits"):
        rundir.newest(renamed)


def test_a_link_to_a_run_may_be_named(tmp_path: Path) -> None:
    runs = [rundir.create(tmp_path, "toy", "{}") for _ in range(2)]
    (tmp_path / "latest").symlink_to(runs[0].path.name)
    assert rundir.newest(tmp_path / "latest").path.samefile(runs[0].path)
    assert rundir.newest(tmp_path / "latest").number == 1
    assert rundir.newest(tmp_path) == runs[1]


def test_where_nothing_can_be_written_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*/file: File exists; nothing was started"):
        rundir.create(tmp_path / "file", "toy", "{}")


def test_a_run_without_its_configuration_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir.atomic, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        rundir.create(tmp_path, "toy", "{}")
    monkeypatch.undo()
    assert rundir.existing(tmp_path) == []
    assert rundir.create(tmp_path, "toy", "{}").number == 1


def test_the_newest_run_is_found_from_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [rundir.create(tmp_path, "toy", "{}") for _ in range(2)]
    monkeypatch.chdir(runs[0].path)
    assert rundir.newest(Path()).path.samefile(runs[0].path)
    assert rundir.newest(Path("..")).number == 2
