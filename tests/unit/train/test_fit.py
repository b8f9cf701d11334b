"""What is said and allowed when a run begins, goes on or is interrupted; whole jobs are in tests/integration/train."""

import dataclasses
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from train import checkpoint, fit, rundir
from train.config import resolve
from train.errors import InputError, JobError
from train.job import SavedInterrupt
from train.prepare import prepare


def test_the_same_command_again_says_that_a_run_was_interrupted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = fit.Config(data="toy", out=str(tmp_path / "runs"))
    run = rundir.create(tmp_path / "runs", "toy-bits", config.to_json())
    with caplog.at_level("INFO", logger="lookalike"):
        fit._mention_unfinished(config)
        options = f"--resume --out {tmp_path / 'runs'}"
        go_on = f'resume with: python -m train fit {options} (or: make train ARGS="{options}")'
        assert caplog.messages == [f"{run.path} was interrupted; {go_on}"]
        caplog.clear()
        fit._mention_unfinished(dataclasses.replace(config, seed=1))
        with FileLock(run.path / ".lock"):
            fit._mention_unfinished(config)
        run.metrics.touch()
        fit._mention_unfinished(config)
    assert caplog.messages == []


def test_a_run_that_is_older_than_a_finished_one_is_named_and_can_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "runs"
    older, newer = (rundir.create(out, "toy-bits", fit.Config(data="toy").to_json()) for _ in range(2))
    go_on = 'resume with: python -m train fit {0} (or: make train ARGS="{0}")'.format(f"--resume --out {older.path}")
    with caplog.at_level("INFO", logger="lookalike"):
        fit._mention_older(newer)
        assert caplog.messages == []
        newer.metrics.touch()
        fit._mention_older(newer)
        fit._mention_older(older)
    assert caplog.messages == [f"{newer.path} is finished already; {older.path} is not: {go_on}"]
    assert rundir.newest(older.path) == older
    assert rundir.newest(out) == newer


@pytest.mark.parametrize(
    ("interruption", "state"),
    [(SavedInterrupt, "everything is saved"), (KeyboardInterrupt, "the saved state is 4[0-9] s old")],
)
def test_what_an_interruption_leaves_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException], state: str
) -> None:
    def work(run: rundir.RunDirectory, *_: object) -> None:
        path = checkpoint.save(run.checkpoints, {})
        os.utime(path, (time.time() - 40,) * 2)
        raise interruption

    monkeypatch.setattr(fit, "_run_tracked", work)
    config = fit.Config(data="toy", device="cpu", out=str(tmp_path))
    with pytest.raises(JobError, match=f"^interrupted; {state}; resume with: .* --out {tmp_path} "):
        fit.fit(config)


def test_an_interruption_that_numpy_hides_from_judging_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(game: object) -> None:
        raise ValueError("not a valid PEP 3118 buffer format string") from KeyboardInterrupt()

    ended: list[str] = []
    monkeypatch.setattr(fit.tracking, "start", lambda *_, **__: SimpleNamespace(finish=ended.append))
    monkeypatch.setattr(fit.Job, "train", lambda *_: None)
    monkeypatch.setattr(fit.ship, "ship", judge)
    with pytest.raises(JobError, match=r"^interrupted; nothing is saved yet; resume with: "):
        fit.fit(fit.Config(data="toy", device="cpu", out=str(tmp_path)))
    assert ended == ["KILLED"]


def test_epochs_for_a_run_that_had_minutes_lift_their_limit(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "runs", "toy-bits", fit.Config(data="toy").to_json())
    assert fit.continued(run, {}).max_minutes == 2
    assert fit.continued(run, {"epochs": 5}).max_minutes is None
    assert fit.continued(run, {"epochs": 5, "max_minutes": 3.0}).max_minutes == 3


def test_the_command_that_started_a_run_goes_on_with_it(tmp_path: Path) -> None:
    begun = fit.Config(data="toy", codec="bits", generator="nade")  # what "auto" was resolved to
    run = rundir.create(tmp_path / "runs", "toy-bits", begun.to_json())
    assert fit.continued(run, {"codec": "auto", "generator": "auto", "data": "toy"}) == begun
    with pytest.raises(InputError, match=r"--codec tokens: .* was started with bits, .* without --resume$"):
        fit.continued(run, {"codec": "tokens"})


def test_a_run_goes_on_with_data_that_have_been_moved(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "runs", "rows-bits", fit.Config(data="rows.npy", codec="bits").to_json())
    with pytest.raises(InputError, match=r"--data moved/rows\.npy: .* was started with rows\.npy"):
        fit.continued(run, {"data": "moved/rows.npy"})  # no fingerprint was saved to compare the data with
    checkpoint.save(run.checkpoints, {"phase": "game", "fingerprint": "of others"})
    config = fit.continued(run, {"data": "moved/rows.npy"})
    assert config.data == "moved/rows.npy"
    with pytest.raises(InputError, match=r"--resume: moved/rows\.npy is not the data of .*; name that with --data"):
        fit._load_checkpoint(run, config, prepare(resolve({"data": "toy"})))


def test_a_gate_that_cannot_be_read_is_told_before_a_run_goes_on(tmp_path: Path) -> None:
    config = fit.Config(data="toy", device="cpu", gate=str(tmp_path / "absent.yaml"))
    run = rundir.create(tmp_path / "runs", "toy-bits", config.to_json())
    with pytest.raises(InputError, match=r"absent\.yaml"):
        fit.fit(config, run)
    assert not run.log.exists()


def test_other_data_is_told_before_the_first_checkpoint_too(tmp_path: Path) -> None:
    config = resolve({"data": "toy", "device": "cpu"})
    found = prepare(config)
    run = rundir.create(tmp_path, "toy-bits", config.to_json())
    for fingerprint, tells in ((found.dataset.fingerprint(), False), ("of other rows", True)):
        run.tracking.write_text(json.dumps({"key": "k", "tags": {"fingerprint": fingerprint}}))
        with pytest.raises(InputError, match="toy is not the data of") if tells else nullcontext():
            assert fit._load_checkpoint(run, config, found) is None


def test_a_run_goes_on_in_another_experiment(tmp_path: Path) -> None:
    """That is the advice when the run's own experiment has been deleted."""
    run = rundir.create(tmp_path, "toy-bits", resolve({"data": "toy"}).to_json())
    assert fit.continued(run, {"experiment": "other"}).experiment == "other"


def test_how_to_go_on_is_said_where_the_run_was_deleted(tmp_path: Path) -> None:
    assert "fit --resume --out" in fit._go_on(rundir.RunDirectory(tmp_path / "00001-toy-bits"))
