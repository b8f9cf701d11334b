"""Staying in the foreground: no interruption is lost."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve import __main__ as commands
from serve import drain, load, server, soak
from serve import state as states
from serve.errors import ServeError
from serve.state import State

STATE = State(pid=1, host="127.0.0.1", port=1, metrics_port=2, tokens=False, workers=1, scratch="/nowhere")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in commands.INTERRUPTIONS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup makes it ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupted:
    """Is interrupted in its finalizer, where Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_an_interruption_that_meets_a_finalizer_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = commands._interruptions()
    monkeypatch.setattr(sys, "unraisablehook", lambda problem: None)
    monkeypatch.setattr(states, "process", lambda state: Interrupted())
    assert server.attend(tmp_path, STATE, interrupted)
    assert interrupted()


@pytest.mark.parametrize("number", commands.INTERRUPTIONS)
def test_each_signal_interrupts(number: signal.Signals) -> None:
    interrupted = commands._interruptions()
    assert not interrupted()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert interrupted()


def test_a_start_that_does_not_stay_is_interrupted_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it removes the server that nobody knows of yet."""
    monkeypatch.setattr(server, "start", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert commands.main(["start", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("Error: interrupted\n")


class Starts:
    """Stands in for the functions that `start` calls; `finished` tells whether it stopped its server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: State | None) -> None:
        self.finished = False
        self.introduce: Callable[[], object] = lambda: None
        self.attend: Callable[[], bool] = lambda: True
        monkeypatch.setattr(states, "running", lambda runs: before)
        monkeypatch.setattr(server, "start", lambda *_: STATE)
        monkeypatch.setattr(commands, "_introduce", lambda *_: self.introduce())
        monkeypatch.setattr(server, "attend", lambda *_: self.attend())
        monkeypatch.setattr(server, "finish", self.finish)

    def finish(self, *_: object) -> None:
        self.finished = True


def fail() -> None:
    raise ServeError("it does not say what it serves")


@pytest.mark.parametrize(
    ("foreground", "introduce", "finished"),
    [
        (True, lambda: None, True),
        (True, lambda: signal.raise_signal(signal.SIGTERM), True),
        (True, fail, True),
        (False, lambda: None, False),
        (False, lambda: signal.raise_signal(signal.SIGTERM), True),
        (False, fail, False),
    ],
)
@pytest.mark.parametrize("before", [None, STATE, replace(STATE, pid=7)])
def test_a_start_leaves_no_server_that_nobody_attends_and_stops_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    foreground: bool,
    introduce: Callable[[], object],
    finished: bool,
    before: State | None,
) -> None:
    starts = Starts(monkeypatch, before)
    starts.introduce = introduce
    code = commands.main(["start", "--runs", str(tmp_path), *["--foreground"] * foreground])
    assert code == (introduce is fail)
    assert starts.finished == (finished and before != STATE)


def test_a_server_that_ran_already_is_attended_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, attended = Starts(monkeypatch, STATE), []
    starts.attend = lambda: not attended.append(True)
    assert commands.main(["start", "--runs", str(tmp_path), "--foreground"]) == 0
    assert attended == [True]
    assert not starts.finished


def test_a_server_that_another_command_has_stopped_is_not_stopped_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts(monkeypatch, None)
    starts.attend = lambda: False
    assert commands.main(["start", "--runs", str(tmp_path), "--foreground"]) == 0
    assert not starts.finished


def test_an_interrupted_soak_does_not_wait_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(*_: object, is_over: Callable[[], bool], **__: object) -> None:
        deadline = time.monotonic() + 30
        while not is_over() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(is_over())

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "run", run)
    monkeypatch.setattr(soak, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        soak._load(replace(STATE, pid=os.getpid()), 1, 3600)
    assert seen == [True]


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (["stop"], "serve.server.stop"),
        (["use", "1"], "serve.server.use"),
        (["bench"], "serve.bench.run"),
        (["soak"], "serve.soak.run"),
    ],
)
def test_a_command_that_takes_something_away_at_its_end_does_so_when_it_is_told_to_end(
    command: list[str],
    done: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken_away = []

    def work(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            taken_away.append(done)

    monkeypatch.setattr(done, work)
    assert commands.main([*command, "--runs", str(tmp_path)]) == 1
    assert taken_away == [done]
    assert capsys.readouterr().err.endswith("Error: interrupted\n")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted = commands._interruptions()
    signal.raise_signal(signal.SIGINT)
    assert not interrupted()


def test_a_server_that_ended_by_itself_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replace(STATE, scratch=str(tmp_path))
    state.drain_lock.touch()
    monkeypatch.setattr(states, "process", lambda state: None)
    with pytest.raises(ServeError, match="exited unexpectedly"):
        server.attend(tmp_path, state, lambda: False)


@pytest.mark.parametrize("gone", [True, False], ids=["stopped", "stopping"])
def test_a_server_that_another_command_stopped_has_not_failed(
    gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = replace(STATE, scratch=str(tmp_path / "scratch"))
    if not gone:
        (tmp_path / "scratch").mkdir()
        state.drain_lock.touch()
        assert drain.begin(state.drain_lock, 1)
    monkeypatch.setattr(states, "process", lambda state: None)
    assert not server.attend(tmp_path, state, lambda: False)


def test_a_server_that_is_being_started_is_not_said_to_be_none(tmp_path: Path) -> None:
    assert not server.stop(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with server._locked(tmp_path), pytest.raises(ServeError, match="a start or use is at work"):
        server.stop(tmp_path)
    assert not server.stop(tmp_path)
