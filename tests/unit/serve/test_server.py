"""Starting, switching and stopping, as far as can be tested without TorchServe."""

import dataclasses
import errno
import http.server
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import psutil
import pytest

from serve import __main__ as commands
from serve import archive, bearer, drain, launch, load, management, models, server, shutdown
from serve import state as states
from serve.errors import ArchiveError, ServeError, UsageError
from serve.launch import Settings
from serve.state import State
from tests.strange import STRANGE_FOLDERS
from train import __main__ as training
from train import store


@contextmanager
def process_of(scratch: Path, before: str = "pass") -> Iterator[subprocess.Popen[bytes]]:
    """A stand-in for a server's process: has its command line, runs the code `before`, then sleeps."""
    code = f"import signal, time; {before}; print('there', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, states.MAIN_CLASS, str(scratch / "config.properties")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # a new process has no command line yet
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def server_of(runs: Path, before: str = "pass") -> Iterator[State]:
    """A stand-in for the server of these runs: a process, a folder and a state."""
    scratch = Path(tempfile.mkdtemp(prefix=server.SCRATCH, dir=runs))
    (scratch / states.DRAIN_LOCK).touch()
    (runs / "serve" / "model-store").mkdir(parents=True)
    with process_of(scratch, before) as process:
        facts: dict[str, Any] = {"port": 1, "metrics_port": 2, "tokens": False, "workers": 1}
        state = State(pid=process.pid, host="127.0.0.1", scratch=str(scratch), **facts)
        states.write(runs, state)
        yield state


@pytest.fixture
def running(tmp_path: Path) -> Iterator[State]:
    with server_of(tmp_path) as state:
        yield state


def end(state: State) -> None:
    """Kill the server's process; its files stay behind."""
    process = states.process(state)
    assert process
    process.kill()
    process.wait()


def is_forgotten(runs: Path, state: State) -> bool:
    return states.last(runs) is None and not Path(state.scratch).exists()


def test_the_status_is_told_though_an_archive_is_damaged(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve" / "model-store" / "lookalike-1.mar").write_bytes(b"half")
    described: list[dict[str, Any]] = [{"modelVersion": "1", "workers": [], "jobQueueStatus": {}}]
    monkeypatch.setattr(management, "ask", lambda *request: described)
    found = server.status(tmp_path)
    assert found
    assert [version["run_id"] for version in found["versions"]] == [None]


@pytest.mark.parametrize(
    ("facts", "tokens"), [({}, False), ({"tokens": True}, True), ({"token_file": "/scratch/token"}, True)]
)
def test_the_status_says_whether_predictions_need_a_token(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], tokens: bool
) -> None:
    described: list[dict[str, Any]] = [{"modelVersion": "1", "workers": [], "jobQueueStatus": {}}]
    monkeypatch.setattr(management, "ask", lambda *request: described)
    states.write(tmp_path, dataclasses.replace(running, **facts))
    found = server.status(tmp_path)
    assert found
    assert found["tokens"] is tokens


def test_a_worker_that_is_loading_is_not_said_to_be_unloading() -> None:
    workers = [{"pid": 7, "status": "READY"}, {"pid": -1, "status": "UNLOADING"}]
    found = server._described({"modelVersion": "1", "workers": workers, "jobQueueStatus": {}}, {})
    assert [worker["status"] for worker in found["workers"]] == ["READY", "NOT READY"]


@pytest.mark.parametrize("missed", [[], ["c2st_auc is 0.9"]])
def test_a_model_that_missed_its_gate_is_served_with_a_warning(
    running: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missed: list[str],
) -> None:
    with zipfile.ZipFile(tmp_path / "serve" / "model-store" / "lookalike-1.mar", "w") as mar:
        mar.writestr("card.json", json.dumps({"gate": {"passed": not missed, "missed": missed}}))
    queue = {"pendingRequests": 0, "remainingCapacity": 100}
    workers = [{"pid": 7, "status": "READY"}]
    described: list[dict[str, Any]] = [{"modelVersion": "1", "workers": workers, "jobQueueStatus": queue}]
    monkeypatch.setattr(management, "ask", lambda *request: described)
    monkeypatch.setattr(server, "use", lambda *arguments: "1")
    commands._introduce(Settings(runs=tmp_path), running)
    assert commands.main(["use", "--runs", str(tmp_path), "1"]) == 0
    warnings = ["Warning: version 1 failed its quality gate: c2st_auc is 0.9"] * (2 if missed else 0)
    assert capsys.readouterr().err.splitlines() == warnings
    assert commands.main(["status", "--runs", str(tmp_path)]) == 0
    assert ("failed its quality gate: c2st_auc is 0.9" in capsys.readouterr().out) == bool(missed)


def test_a_slow_launcher_is_a_failure_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(ServeError, match=r"launcher took longer than 0\.01 s\."):
        launch.start(Settings(runs=tmp_path, wait_seconds=0.01), tmp_path, tmp_path, tmp_path / "lookalike-1.mar")


@pytest.mark.parametrize(("code", "reason"), [(3, "exit code 3"), (0, "is there room in {}?")])
def test_a_launcher_that_names_no_process_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    (tmp_path / "logs").mkdir()
    popen = subprocess.Popen
    launcher = [sys.executable, "-c", f"raise SystemExit({code})"]
    monkeypatch.setattr(launch.subprocess, "Popen", lambda command, **settings: popen(launcher, **settings))
    with pytest.raises(ServeError) as told:
        launch.start(Settings(runs=tmp_path), tmp_path, tmp_path, tmp_path / "lookalike-1.mar")
    assert str(told.value) == f"TorchServe's launcher failed ({reason.format(tmp_path)})."


def test_an_interrupted_launch_leaves_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    java = tmp_path / "java.pid"
    # The interruption comes when the launcher has started Java but has not ended.
    code = "import pathlib, subprocess, time; java = subprocess.Popen(['sleep', '600']); "
    code += f"pathlib.Path({str(java)!r}).write_text(str(java.pid)); time.sleep(600)"
    popen = subprocess.Popen

    class Launcher(popen[bytes]):
        def __init__(self, command: list[str], **settings: Any) -> None:
            super().__init__([sys.executable, "-c", code], **settings)

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            while not (java.exists() and java.read_text()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(launch.subprocess, "Popen", Launcher)
    with pytest.raises(KeyboardInterrupt):
        launch.start(Settings(runs=tmp_path), tmp_path, tmp_path, tmp_path / "lookalike-1.mar")
    left = shutdown._await_end(
        [psutil.Process(int(java.read_text()))] if psutil.pid_exists(int(java.read_text())) else []
    )
    assert not left


def test_the_last_line_of_a_log_may_be_torn(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").write_text('{"time":"1","message":"whole"}\n{"time":"2","mess')
    assert launch.last_messages(tmp_path, 0) == ["whole", '{"time":"2","mess']


def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    logged = {"message": "Failed to load model: a.mar", "exception": " java.io.IOException: No space left\n\tat java"}
    (tmp_path / "logs" / "server.log").write_text(json.dumps(logged))
    assert launch.last_messages(tmp_path, 0) == ["Failed to load model: a.mar (java.io.IOException: No space left)"]


def test_a_process_that_ends_while_it_is_looked_at_is_no_server(
    running: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(process: psutil.Process) -> str:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "status", gone)
    assert states.process(running) is None


def test_an_interrupted_stop_ends_the_server(running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drain, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.stop(tmp_path)
    assert states.process(running) is None
    assert is_forgotten(tmp_path, running)


def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "KILL_SECONDS", 0.2)
    with server_of(tmp_path, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)") as stubborn:
        process = states.process(stubborn)
        assert process
        assert server.stop(tmp_path)
        assert process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("problem", "stopped", "told"),
    [
        (ServeError("it answers with other sequences."), False, r"^it answers with other sequences\. Its logs are in "),
        (ServeError("it ended."), True, "^the server was stopped, by another command, before it was ready$"),
        (KeyboardInterrupt(), False, "^$"),
        (KeyboardInterrupt(), True, "^$"),
    ],
)
def test_a_server_that_does_not_prove_itself_is_ended_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, stopped: bool, told: str
) -> None:
    started: list[State] = []
    proof_seconds: list[float] = []
    processes = ExitStack()

    def prove(state: State, *rest: object) -> None:
        assert states.running(tmp_path) == state
        started.append(state)
        if stopped:
            server.stop(tmp_path)
        raise problem

    def begin(settings: Settings, home: Path, scratch: Path, mar: Path) -> int:
        known = states.last(tmp_path)
        assert known, "if start were killed now, nobody would know of the server"
        assert (known.pid, known.scratch) == (0, str(scratch))
        return processes.enter_context(process_of(scratch)).pid

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(models, "located", lambda *_: nullcontext(tmp_path))
    monkeypatch.setattr(
        models, "put", lambda *_, seconds, **__: proof_seconds.append(seconds) or (tmp_path / "lookalike-1.mar", {})
    )
    monkeypatch.setattr(launch, "check", lambda settings: None)
    monkeypatch.setattr(launch, "start", begin)
    monkeypatch.setattr(server, "_await_golden", prove)
    with processes:
        with pytest.raises(type(problem), match=told):
            server.start(Settings(runs=tmp_path), lambda line: None)
        (state,) = started
        assert proof_seconds == [Settings.wait_seconds]
        assert states.process(state) is None
        assert is_forgotten(tmp_path, state)


@dataclass
class Predictions:
    """An HTTP server that answers with these (status, sequences) in turn and records the tokens it is sent."""

    port: int
    answers: list[tuple[int, list[list[int]]]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@pytest.fixture
def predictions() -> Iterator[Predictions]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            facts.tokens.append(self.headers["Authorization"])
            status, sequences = facts.answers.pop(0)
            body = json.dumps({"sequences": sequences}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening, ThreadPoolExecutor(1) as pool:
        facts = Predictions(listening.server_port)
        pool.submit(listening.serve_forever, 0.01)
        yield facts
        listening.shutdown()


GOLDEN = [[1, 0], [1, 1]]
CARD = {"version": "1", "golden": [{"seed": 0, "rows": GOLDEN}]}


@pytest.fixture
def _its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the started server, not this process, listens on the port."""
    monkeypatch.setattr(states, "listens", lambda state: True)


@pytest.mark.usefixtures("_its_port")
@pytest.mark.parametrize("sequences", [GOLDEN, GOLDEN[::-1]])
def test_a_server_is_ready_when_it_answers_with_the_golden_samples(
    running: State, predictions: Predictions, sequences: list[list[int]]
) -> None:
    state = dataclasses.replace(running, port=predictions.port)
    predictions.answers = [(200, sequences)]
    wrong = pytest.raises(ServeError, match="TorchServe's answer differs from the model's golden samples")
    with nullcontext() if sequences == GOLDEN else wrong:
        server._await_golden(state, CARD, time.monotonic() + 60)
    assert predictions.tokens == [None]


@pytest.mark.usefixtures("_its_port")
def test_a_version_that_was_not_loaded_is_not_waited_for(running: State, predictions: Predictions) -> None:
    predictions.answers = [(404, [])]
    with pytest.raises(ServeError, match="TorchServe could not load version 1"):
        server._await_golden(dataclasses.replace(running, port=predictions.port), CARD, time.monotonic() + 60)


@pytest.fixture
def guarded(running: State, predictions: Predictions, tmp_path: Path) -> State:
    """A server with a token file."""
    (tmp_path / "token").write_text("a-secret-of-the-server\n")
    return dataclasses.replace(running, port=predictions.port, token_file=str(tmp_path / "token"))


def test_nobody_else_on_the_port_is_given_the_token(guarded: State, predictions: Predictions) -> None:
    predictions.answers = [(200, GOLDEN)] * 9
    with pytest.raises(ServeError, match="did not answer a prediction in time"):
        server._await_golden(guarded, CARD, time.monotonic() + 0.5)
    assert predictions.tokens == []


@pytest.mark.usefixtures("_its_port")
@pytest.mark.parametrize("status", [401, 200])
def test_a_server_that_answers_strangers_is_not_ready(guarded: State, predictions: Predictions, status: int) -> None:
    predictions.answers = [(200, GOLDEN), (status, GOLDEN)]
    open_to_all = pytest.raises(ServeError, match="this archive's handler checks no token; rebuild it with")
    with nullcontext() if status == 401 else open_to_all:
        server._await_golden(guarded, CARD, time.monotonic() + 60)
    assert predictions.tokens == ["Bearer a-secret-of-the-server", None]


@pytest.mark.usefixtures("_its_port")
@pytest.mark.parametrize("busy", [503, 507])
def test_a_server_that_is_too_busy_for_a_stranger_is_asked_again(
    guarded: State, predictions: Predictions, busy: int
) -> None:
    predictions.answers = [(200, GOLDEN), (busy, []), (200, GOLDEN), (401, [])]
    server._await_golden(guarded, CARD, time.monotonic() + 60)
    assert predictions.answers == []


def test_a_load_may_be_over_before_its_time(predictions: Predictions) -> None:
    predictions.answers = [(200, GOLDEN)] * 100_000
    address, bodies = ("127.0.0.1", predictions.port), itertools.repeat(b"{}")
    begun = time.monotonic()
    load.run(
        address, "/", bodies, connections=2, seconds=300, accept="*/*", is_over=lambda: len(predictions.tokens) > 20
    )
    assert time.monotonic() - begun < 100
    assert len(predictions.tokens) < 30


def test_a_process_that_ends_by_itself_does_not_keep_others_from_being_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process_of(tmp_path) as worker:
        gone = psutil.Process(worker.pid)
    monkeypatch.setattr(shutdown, "_await_end", lambda family: [gone, *family])
    with server_of(tmp_path, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)") as stubborn:
        process = states.process(stubborn)
        assert process
        shutdown.end(stubborn)
        assert process.wait(10) == -signal.SIGKILL


def test_a_server_of_another_user_is_said_to_be_one(running: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "terminate", refuse)
    with pytest.raises(ServeError, match=rf"process {running.pid}\) belongs to another user; only they can stop it"):
        shutdown.end(running)


@pytest.mark.parametrize("held", [True, False])
def test_a_stop_says_when_requests_were_cut(
    running: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    held: bool,
) -> None:
    monkeypatch.setattr(shutdown, "_await_signatures", lambda *given: True)
    with drain.Lock(str(running.drain_lock)).shared() if held else nullcontext():
        assert commands.main(["stop", "--runs", str(tmp_path), "--grace-seconds", "0"]) == 0
    out, err = capsys.readouterr()
    assert out == "stopped\n"
    assert err == ("0 s were not enough for all accepted requests: the rest were cut off\n" if held else "")
    assert is_forgotten(tmp_path, running)


def test_a_server_whose_stop_was_killed_is_not_taken_for_one_that_answers(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drain.begin(running.drain_lock, 1)
    for command in (lambda: server.start(Settings(runs=tmp_path), print), lambda: server.use(tmp_path, "1")):
        with pytest.raises(
            ServeError, match="the server is being stopped, or a stop was killed; end it with: python -m serve"
        ):
            command()
    monkeypatch.setattr(
        management, "ask", lambda *request: [{"modelVersion": "1", "workers": [], "jobQueueStatus": {}}]
    )
    found = server.status(tmp_path)
    assert found
    assert found["stopping"]
    assert server.stop(tmp_path)
    assert is_forgotten(tmp_path, running)


def test_a_drain_lock_that_somebody_deleted_stops_nobody(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.drain_lock.unlink()  # as a cleaner of temporary files may
    monkeypatch.setattr(management, "ask", lambda *request: described())
    found = server.status(tmp_path)
    assert found
    assert not found["stopping"]
    assert server.start(Settings(runs=tmp_path), print) == running


def test_a_stop_without_a_drain_lock_says_that_it_could_not_wait(running: State, tmp_path: Path) -> None:
    running.drain_lock.unlink()  # as a cleaner of temporary files may
    told: list[str] = []
    assert server.stop(tmp_path, tell=told.append)
    assert told == [f"{running.drain_lock}: No such file or directory: requests in progress may have been cut off"]


def described(*workers: int) -> list[dict[str, Any]]:
    """TorchServe's description of a version with these workers (process ids)."""
    ready = [{"pid": pid, "status": "READY"} for pid in workers]
    return [{"modelVersion": "1", "workers": ready, "jobQueueStatus": {}}]


def test_a_stop_waits_until_each_worker_has_been_sent_another_batch(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise TorchServe may not yet have passed on a worker's last answer."""
    with process_of(tmp_path) as first, process_of(tmp_path) as second:
        knocked = []

        def knock(state: State, version: str) -> None:
            knocked.append(version)
            if len(knocked) <= 2:  # one worker after the other refuses and signs
                pid = (first, second)[len(knocked) - 1].pid
                with state.drain_lock.open("ab") as lock:
                    lock.write(b"%d\n" % pid)

        monkeypatch.setattr(management, "ask", lambda *request: described(first.pid, second.pid, 2**22 + 1))
        monkeypatch.setattr(shutdown, "_knock", knock)
        told: list[str] = []
        assert server.stop(tmp_path, tell=told.append)
        assert told == []
        assert len(knocked) == 2 + shutdown.KNOCKS


@pytest.mark.parametrize("others", [[], [os.getpid()]])
def test_a_stop_does_not_wait_for_answers_of_a_version_that_gives_none(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[int]
) -> None:
    """As while a start or use is loading it, or when its workers have died."""
    loading = {"modelVersion": "0", "workers": [{"pid": os.getpid(), "status": "UNLOADING"}], "jobQueueStatus": {}}
    knocked = []

    def knock(state: State, version: str) -> None:
        knocked.append(version)
        with state.drain_lock.open("ab") as lock:
            lock.write(b"%d\n" % os.getpid())

    monkeypatch.setattr(management, "ask", lambda *request: [loading, *(described(*others) if others else [])])
    monkeypatch.setattr(shutdown, "_knock", knock)
    assert server.stop(tmp_path)
    assert knocked == (["1"] * (1 + shutdown.KNOCKS) if others else [])


@pytest.mark.parametrize("signs", [True, False])
def test_a_worker_that_is_never_sent_another_batch_is_said_to_have_been_cut_off(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signs: bool
) -> None:
    def knock(state: State, version: str) -> None:
        time.sleep(0.01)
        if signs:
            with state.drain_lock.open("ab") as lock:
                lock.write(b"1\n")

    monkeypatch.setattr(shutdown, "SIGNATURE_SECONDS", 0.1)
    monkeypatch.setattr(management, "ask", lambda *request: described(os.getpid()))
    monkeypatch.setattr(shutdown, "_knock", knock)
    told: list[str] = []
    assert server.stop(tmp_path, grace_seconds=0.5, tell=told.append)
    # Where nobody signs, the workers are of an older version, which cannot sign.
    assert told == (["0.5 s were not enough for all accepted requests: the rest were cut off"] if signs else [])


def test_a_stop_does_not_wait_longer_than_its_grace_for_a_torchserve_that_hangs(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def hang(path: Path, method: str, target: str, token: str | None, seconds: float = 90) -> None:
        limits.append(seconds)
        raise ServeError("timed out")

    monkeypatch.setattr(management, "call", hang)
    told: list[str] = []
    assert server.stop(tmp_path, grace_seconds=5, tell=told.append)
    assert told == ["TorchServe does not answer: requests in progress may have been cut off"]
    assert len(limits) == 1
    assert 1 <= limits[0] <= 5


def test_a_status_does_not_wait_long_for_a_torchserve_that_hangs(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def hang(path: Path, method: str, target: str, token: str | None, seconds: float) -> None:
        limits.append(seconds)
        raise ServeError("timed out")

    monkeypatch.setattr(management, "call", hang)
    with pytest.raises(ServeError, match="timed out"):
        server.status(tmp_path)
    assert limits == [server.STATUS_SECONDS]


def test_a_server_is_ended_though_its_runs_have_been_moved(running: State, tmp_path: Path) -> None:
    (tmp_path / "serve").rename(tmp_path / "moved")
    assert server.finish(tmp_path, running, 1, print)
    assert states.process(running) is None
    assert not Path(running.scratch).exists()


def test_only_messages_of_this_start_are_told(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "server.log").write_text('{"time":"1","message":"of another server"}\n')
    os.utime(logs / "server.log", (1, 1))
    (logs / "console.log").write_text("no Java\n")
    assert launch.last_messages(tmp_path, 2) == ["no Java"]


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("/a b/c#d%41=:!", "/a b/c#d%41=:!"),
        ("/pröj", "/pr\\u00f6j"),
        ("a\\b", "a\\u005cb"),
        ("😀", "\\ud83d\\ude00"),
    ],
)
def test_java_reads_every_path(value: str, escaped: str) -> None:
    assert launch._escaped(value) == escaped


def test_a_dead_server_leaves_nothing_behind_when_it_is_stopped(running: State, tmp_path: Path) -> None:
    end(running)
    assert not server.stop(tmp_path)
    assert is_forgotten(tmp_path, running)


def test_a_dead_server_leaves_nothing_behind_at_the_next_start(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(running)
    told: list[str] = []
    monkeypatch.setattr(launch, "check", lambda settings: None)
    monkeypatch.setattr(server, "_start", lambda settings, tell: running)
    server.start(Settings(runs=tmp_path), told.append)
    assert told == ["the server that was started here has died; starting anew"]
    assert is_forgotten(tmp_path, running)


ASKING = (["status"], ["request"], ["token"], ["use", "1"])


@pytest.mark.parametrize("command", ASKING)
def test_a_dead_server_is_not_said_to_have_never_run(
    running: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    end(running)
    assert commands.main([*command, "--runs", str(tmp_path)]) == 1
    told = f"the server that was started here has died; its logs are in {tmp_path / 'serve' / 'logs'}."
    assert capsys.readouterr().err == f"Error: {told} Start it again with: python -m serve start\n"


def test_a_server_whose_stop_is_not_over_is_not_said_to_have_died(running: State, tmp_path: Path) -> None:
    assert drain.begin(running.drain_lock, 1)
    end(running)
    assert server.why_none(tmp_path) == server.STOPPING


@pytest.mark.parametrize("command", ASKING)
def test_a_start_at_work_is_told_to_those_who_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with server._locked(tmp_path):
        assert commands.main([*command, "--runs", str(tmp_path)]) == 1
    told = "a start or use is at work for these runs; try again when it is done"
    assert capsys.readouterr().err == f"Error: {told}\n"


def test_a_start_does_not_fail_because_somebody_asks_for_the_status(running: State, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with server._locked(tmp_path):
            start = pool.submit(server.start, Settings(runs=tmp_path), lambda line: None)
            time.sleep(0.05)
        assert start.result() == running


@pytest.mark.parametrize("status", ["READY", "UNLOADING"])
def test_a_server_whose_workers_are_loading_is_said_to_answer_nothing_yet(
    running: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: str,
) -> None:
    """As when its start was killed."""
    workers = [{"pid": 7, "status": status}, {"pid": -1, "status": "UNLOADING"}]
    queue = {"pendingRequests": 0, "remainingCapacity": 100}
    described: list[dict[str, Any]] = [{"modelVersion": "1", "workers": workers, "jobQueueStatus": queue}]
    monkeypatch.setattr(management, "ask", lambda *request: described)
    told = "answers no predictions yet: its workers are loading the model, or have died"
    assert commands.main(["start", "--runs", str(tmp_path)]) == 0
    assert (f"Warning: it {told}\n" in capsys.readouterr().err) == (status != "READY")
    assert commands.main(["status", "--runs", str(tmp_path)]) == 0
    assert (f"\n    {told}\n" in capsys.readouterr().out) == (status != "READY")


def test_a_dead_server_leaves_nothing_behind_in_the_foreground(running: State, tmp_path: Path) -> None:
    end(running)
    with pytest.raises(ServeError, match="exited unexpectedly"):
        server.attend(tmp_path, running, lambda: False)
    assert is_forgotten(tmp_path, running)


def test_a_folder_of_another_name_is_not_removed(running: State, tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    end(running)
    states.write(tmp_path, State(**(vars(running) | {"scratch": str(other)})))
    assert not server.stop(tmp_path)
    assert other.exists()


def test_a_server_that_was_started_since_is_not_forgotten(running: State, tmp_path: Path) -> None:
    server._clear(tmp_path, str(tmp_path / f"{server.SCRATCH}earlier"))
    assert states.running(tmp_path) == running


def test_starts_and_switches_keep_out_of_each_others_way(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with server._locked(tmp_path):
        with pytest.raises(ServeError, match="a start or use is at work"):
            server.start(Settings(runs=tmp_path), told.append)
        with pytest.raises(ServeError, match="a start or use is at work"):
            server.use(tmp_path, "1")
        assert not told
    assert server.start(Settings(runs=tmp_path, tokens=True), told.append) == running
    (line,) = told
    assert f"(process {running.pid}) and keeps its model and settings, whatever this start was given; " in line


def test_a_server_that_is_stopped_while_it_is_introduced_is_a_failure_in_one_line(
    running: State, tmp_path: Path
) -> None:
    end(running)
    with pytest.raises(ServeError, match="as soon as it was ready"):
        commands._introduce(Settings(runs=tmp_path), running)


def test_a_run_goes_before_an_older_copy_of_its_number(tmp_path: Path) -> None:
    stored = tmp_path / "serve" / "model-store" / "lookalike-2.mar"
    archived = tmp_path / "00002-reviews" / "lookalike.mar"
    for path, found in ((stored, stored), (archived, archived)):
        path.parent.mkdir(parents=True)
        path.touch()
        with models._of_version(tmp_path, "2") as source:
            assert source == found
    with models._of_version(tmp_path, "00002-reviews") as source:
        assert source == archived


def test_the_newest_run_is_the_model_and_no_other_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no trained model under {tmp_path}; train one with: make train"):
        models.find(tmp_path, None)
    for name in ("00009-toy", "00010-digits", "kept-from-last-year"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lookalike.mar").touch()
    (tmp_path / "00011-unfinished").mkdir()
    assert models.find(tmp_path, None) == tmp_path / "00010-digits" / "lookalike.mar"
    for name in ("99999-toy", "100000-toy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lookalike.mar").touch()
    assert models.find(tmp_path, None) == tmp_path / "100000-toy" / "lookalike.mar"
    with pytest.raises(UsageError, match=r"^/.*00011-unfinished: neither an archive, nor a run directory"):
        models.find(tmp_path, tmp_path / "00011-unfinished")


@pytest.mark.parametrize(
    ("wanted", "hint"), [("elsewhere", ""), ("lookalike@champion", "; a registered model is named models:/NAME@ALIAS")]
)
def test_what_is_no_version_is_told(tmp_path: Path, wanted: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"^{wanted}: no version of that name .* no such run or path{hint}$"):
        models._of_version(tmp_path, wanted)


def test_a_loaded_version_whose_archive_is_gone_is_no_version_to_use(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"lookalike-1\.mar"):
        models.proved(tmp_path, "1", ["1"], print)


@pytest.mark.parametrize("kind", ["archive", "artifact"])
def test_a_version_that_cannot_be_loaded_is_refused_without_a_proof(
    running: State, tmp_path: Path, artifact_directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    states.write(tmp_path, dataclasses.replace(running, loads_models=False))
    source = artifact_directory
    if kind == "archive":
        source = archive.build(artifact_directory, tmp_path / "lookalike.mar")
    told: list[str] = []
    monkeypatch.setattr(management, "ask", lambda *_: [{"modelVersion": "7"}])
    with pytest.raises(UsageError, match=r"^version 1 is not loaded, and without TorchServe's tokens"):
        server.use(tmp_path, str(source), told.append)
    assert told == []
    monkeypatch.setattr(management, "ask", lambda *_: [{"modelVersion": "1"}])
    monkeypatch.setattr(models, "put", lambda *_: (source, {"version": "1"}))
    monkeypatch.setattr(server, "_await_golden", lambda *_: None)
    assert server.use(tmp_path, str(source)) == "1", "a path may name a loaded version"


@pytest.mark.parametrize("content", [b"", b"PK", b"[]", b"{}", b'{"version": "../x"}'])
def test_what_names_no_version_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "lookalike.mar", "w") as mar:
        mar.writestr("card.json", content)
    for source in (tmp_path, tmp_path / "lookalike.mar"):
        with pytest.raises(ArchiveError, match=f"^{source}: n"):
            archive.stated_version(source)


@pytest.mark.parametrize("loaded", [[], ["2"]])
def test_a_version_that_does_not_answer_is_not_made_the_default(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[str]
) -> None:
    asked: list[str] = []

    def manage(state: State, method: str, target: str) -> list[dict[str, str]]:
        asked.append(f"{method} {target.split('?')[0]}")
        return [{"modelVersion": version} for version in loaded]

    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(management, "ask", manage)
    monkeypatch.setattr(models, "proved", lambda *_, **__: {"version": "2", "golden": [{}]})
    with pytest.raises(ServeError, match="version 2 did not answer"):
        server.use(tmp_path, "2")
    new = ["POST /models", "DELETE /models/lookalike/2"]
    assert asked == ["GET /models/lookalike/all", *([] if loaded else new)]


def test_a_host_that_is_not_here_is_no_matter_of_the_port() -> None:
    with pytest.raises(UsageError, match=r"^--host 192\.0\.2\.1: "):  # an address reserved for documentation
        launch._check_port("--port", "192.0.2.1", 8080)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"^--port {port} on 127.0.0.1 cannot be used"):
            launch._check_port("--port", "127.0.0.1", port)


def test_a_port_can_be_used_as_soon_as_its_last_server_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            listening.accept()[0].close()  # the side that closes first keeps its address for a minute
            assert client.recv(1) == b""
    launch._check_port("--port", "127.0.0.1", port)


@pytest.mark.parametrize(("runs", "option"), [("runs", ""), ("my runs", " --runs 'my runs'")])
def test_the_command_to_try_finds_the_token_of_these_runs(
    running: State, monkeypatch: pytest.MonkeyPatch, runs: str, option: str
) -> None:
    """curl reads the header from standard input: other users could see an argument."""
    monkeypatch.setattr(management, "inference_token", lambda state: "secret")
    tried = commands._curl(Path(runs), running)
    assert tried.startswith(f"python -m serve token --header{option} | curl -X POST ")
    assert tried.endswith(" -H @-")


@pytest.mark.parametrize(
    ("given", "loads"),
    [({}, False), ({"tokens": True}, True), ({"host": "0.0.0.0"}, True), ({"model_api": True}, True)],
)
def test_without_tokens_nothing_is_loaded_into_a_running_server(
    tmp_path: Path, given: dict[str, Any], loads: bool
) -> None:
    """Any user of the machine can reach the gRPC management API, which loads code from any folder."""
    assert f"enable_model_api={str(loads).lower()}\n" in launch._properties(Settings(runs=tmp_path, **given), tmp_path)
    assert "enable_model_api" not in (launch.HERE / "config.properties").read_text()
    token_file = Settings(runs=tmp_path, token_file=tmp_path / "token", **given)
    assert token_file.loads_models == ("model_api" in given), "a token file turns off TorchServe's own tokens"


@pytest.mark.usefixtures("running")
def test_who_wants_a_token_that_nobody_needs_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(management, "inference_token", lambda state: None)
    assert commands.main(["token", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("Error: the server here needs no token; ")
    assert commands.main(["token", "--runs", str(tmp_path / "others")]) == 1
    assert capsys.readouterr().err == f"Error: {server.NOT_RUNNING}\n"


def test_a_registered_model_without_mlflow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The serving image has no MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    name = "models:/lookalike@champion"
    with pytest.raises(UsageError, match=f"^{name}: MLflow is not installed here; name "):
        models._fetch(name, tmp_path, tmp_path)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tracking URI is set; MLflow's own, which holds for the whole process, is restored afterwards."""
    before = mlflow.get_tracking_uri()
    for variable in (*store.MLFLOW_DEFAULTS, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.usefixtures("own_registry")
def test_a_registry_that_is_away_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{gone.getsockname()[1]}")
    began = time.monotonic()
    with (
        pytest.raises(UsageError, match=r"^models:/lookalike/1: "),
        models.located(tmp_path, "models:/lookalike/1"),
    ):
        pass
    assert time.monotonic() - began < 60


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one registered model."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "model").mkdir()
    (folder / "model" / "card.json").touch()
    client = mlflow.MlflowClient(store.file_uri(folder / "mlflow.db"))
    client.create_registered_model("lookalike")
    client.create_model_version("lookalike", (folder / "model").as_uri())
    return folder / "mlflow.db"


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("folder", STRANGE_FOLDERS)
def test_the_registry_is_the_one_among_the_runs_whatever_their_folder_is_called(
    registry: Path, tmp_path: Path, folder: str
) -> None:
    runs = tmp_path / folder
    runs.mkdir()
    shutil.copy(registry, runs)
    with models.located(runs, "models:/lookalike/1") as found:
        assert (found / "card.json").is_file()
    assert [path.name for path in tmp_path.rglob("*.db")] == ["mlflow.db"], "no other store was created"


@pytest.mark.usefixtures("own_registry")
def test_an_unusable_registered_model_is_named_not_its_temporary_copy(registry: Path, tmp_path: Path) -> None:
    shutil.copy(registry, tmp_path)
    (tmp_path / "serve").mkdir()
    told = pytest.raises(ServeError, match=r"^models:/lookalike/1: not an artifact that can be served")
    with told, models.located(tmp_path, "models:/lookalike/1") as found:
        models.put(found, tmp_path)


@pytest.mark.usefixtures("own_registry")
def test_a_registry_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    told = pytest.raises(UsageError, match=f"there is no registry at {tmp_path / 'mlflow.db'}; set MLFLOW_TRACKING_URI")
    with told, models.located(tmp_path, "models:/lookalike/1"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (PermissionError(13, "Permission denied", "runs/serve"), "runs/serve: Permission denied"),
        *((kind("as it is"), "as it is") for kind in (ServeError, ArchiveError)),
        (KeyError("x"), "unexpected error, please report it: KeyError: 'x' (LOOKALIKE_DEBUG=1 shows where)"),
    ],
)
def test_every_problem_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Exception, line: str
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(server, "status", fail)
    assert commands.main(["status"]) == 1
    assert capsys.readouterr().err == f"Error: {line}\n"


def test_a_message_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ServeError("\x1b[2Jtoy is gone")

    shown: list[str] = []
    monkeypatch.setattr(server, "status", fail)
    monkeypatch.setattr(commands.click, "echo", lambda line, **_: shown.append(line))  # it drops such where nobody sees
    assert commands.main(["status"]) == 1
    assert shown == ["Error: \ufffd[2Jtoy is gone"]


def test_the_workers_are_told_where_drain_lock_and_token_are(tmp_path: Path) -> None:
    """Without the lock, a stop would cut off accepted requests; without the token, anybody would be answered."""
    seen = launch._environment(Settings(runs=tmp_path, token_file=tmp_path / "mine"), tmp_path, tmp_path / "scratch")
    lock = str(tmp_path / "scratch" / states.DRAIN_LOCK)
    assert seen[drain.VARIABLE] == seen["LOOKALIKE_GATE"] == lock, "older archives read LOOKALIKE_GATE"
    assert seen[bearer.VARIABLE] == str(tmp_path / "scratch" / "token")


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_java_reads_paths_as_utf_8_in_every_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.setenv(name, locale)
    seen = launch._environment(Settings(runs=tmp_path), tmp_path, tmp_path / "scratch")
    assert {name: value for name, value in seen.items() if name.startswith("LC_")} == {"LC_ALL": "C.UTF-8"}
    if java := shutil.which("java"):
        told = subprocess.run([java, "-XshowSettings:properties", "-version"], env=seen, capture_output=True, text=True)
        assert sys.platform == "darwin" or "sun.jnu.encoding = UTF-8" in told.stderr


@pytest.mark.parametrize("variable", [bearer.VARIABLE, drain.VARIABLE])
def test_what_workers_are_told_is_no_option_of_a_command(variable: str) -> None:
    """Workers of a plain TorchServe inherit whatever their user has exported for our commands."""
    commands_of_both = [*commands.cli.commands.values(), *training.cli.commands.values()]
    given = [parameter.envvar or [] for command in commands_of_both for parameter in command.params]
    named = {name for names in given for name in ([names] if isinstance(names, str) else names)}
    assert named > {"LOOKALIKE_GATE", "LOOKALIKE_SERVE_RUNS", "LOOKALIKE_OUT"}
    assert variable not in named


def test_a_switch_that_is_interrupted_unloads_the_new_version(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def manage(state: State, method: str, target: str) -> list[dict[str, str]]:
        asked.append(f"{method} {target.split('?')[0]}")
        return []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(management, "ask", manage)
    monkeypatch.setattr(server, "_await_golden", interrupted)
    monkeypatch.setattr(models, "proved", lambda *_, **__: {"version": "2"})
    with pytest.raises(KeyboardInterrupt):
        server.use(tmp_path, "2")
    assert asked == ["GET /models/lookalike/all", "POST /models", "DELETE /models/lookalike/2"]


def test_each_api_is_asked_with_its_own_token(running: State, monkeypatch: pytest.MonkeyPatch) -> None:
    state = dataclasses.replace(running, tokens=True)
    state.key_file.write_text(json.dumps({kind: {"key": f"for-{kind}"} for kind in ("management", "inference")}))
    given: list[str | None] = []
    monkeypatch.setattr(management, "call", lambda path, method, target, token, *limit: given.append(token))
    management.ask(state, "GET", "/models")
    assert given == ["for-management"]
    assert management.inference_token(state) == "for-inference"


@pytest.mark.usefixtures("_its_port")
def test_a_proxy_of_the_user_is_not_asked_whether_the_server_is_ready(
    running: State, predictions: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    predictions.answers = [(200, GOLDEN)]
    server._await_golden(dataclasses.replace(running, port=predictions.port), CARD, time.monotonic() + 2)


def test_a_server_that_ends_is_not_waited_for(running: State) -> None:
    process = states.process(running)
    assert process
    process.kill()
    process.wait()
    with pytest.raises(ServeError, match="ended before it had answered"):
        server._await_golden(running, CARD, time.monotonic() + 2)


def test_the_workers_end_with_their_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "KILL_SECONDS", 0.2)
    with server_of(tmp_path, before="import subprocess; subprocess.Popen(['sleep', '600'])") as state:
        process = states.process(state)
        assert process
        (worker,) = process.children()
        try:
            assert server.stop(tmp_path)
            assert not shutdown._is_alive(worker)
        finally:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def test_a_process_that_serves_other_runs_is_not_ours(running: State, tmp_path: Path) -> None:
    """Process ids are reused, possibly by another server."""
    assert states.process(dataclasses.replace(running, scratch=str(tmp_path / f"{server.SCRATCH}earlier"))) is None


def test_a_server_that_nobody_has_waited_for_is_no_server(running: State) -> None:
    process = psutil.Process(running.pid)
    process.kill()
    deadline = time.monotonic() + 30
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert states.process(running) is None


OTHERS = {"host": "", "port": 1, "metrics_port": 2, "tokens": False, "workers": 1, "scratch": ""}
NEGATIVE = json.dumps({"pid": -5} | OTHERS)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"pid": 1}', '{"pid": "1"}', NEGATIVE, None],
    ids=["empty", "half", "list", "deep", "short", "text", "negative", "folder"],
)  # fmt: skip
def test_a_damaged_state_is_not_taken_for_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "serve" / "state.json"
    if content is None:
        path.mkdir(parents=True)  # not even root can read a folder as a file
    else:
        path.parent.mkdir()
        path.write_text(content)
    for command in ("stop", "status", "start"):
        assert commands.main([command, "--runs", str(tmp_path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"Error: {path} does not say which server is running (")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_stop_where_nobody_may_write_says_that_no_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refused(path: Path, timeout: float) -> None:
        raise OSError(number, os.strerror(number), str(path))

    states.directory(tmp_path).mkdir()
    monkeypatch.setattr(server, "FileLock", refused)
    assert commands.main(["stop", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no server is running here\n"


def test_the_server_of_another_revision_is_known(running: State, tmp_path: Path) -> None:
    path = tmp_path / "serve" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of_a_later_revision": 1}))
    assert states.running(tmp_path) == running
    assert server.stop(tmp_path)
    assert is_forgotten(tmp_path, running)


@pytest.mark.parametrize(
    ("content", "options", "part"),
    [
        (None, [], "No such file or directory"),
        ("short", [], "must hold one token of at least 16 printable ASCII characters"),
        ("correct-horse-battery", ["--tokens"], "--token-file and --tokens/--no-tokens cannot be combined"),
        ("correct-horse-battery", ["--no-tokens"], "--token-file and --tokens/--no-tokens cannot be combined"),
    ],
)
def test_what_is_no_token_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, options: list[str], part: str
) -> None:
    file = tmp_path / "token"
    if content:
        file.write_text(content)
    assert commands.main(["start", "--runs", str(tmp_path), "--token-file", str(file), *options]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "serve").exists()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, "is missing, or not Java"),
        ("No Java runtime present", "is missing, or not Java"),  # the message of macOS's stub
        ('java version "1.8.0_292"', "version 8"),
        ('Picked up JAVA_TOOL_OPTIONS: -Dx\nopenjdk version "11.0.2" 2019-01-15', "version 11"),
        ('openjdk version "17.0.15" 2025-04-15', None),
        ('openjdk version "25" 2025-09-16', None),
    ],
)
def test_without_a_java_that_is_new_enough_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, found: str | None
) -> None:
    java = tmp_path / "bin" / "java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if said:
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{said}\nE\n")
        java.chmod(0o700)
    told = pytest.raises(UsageError, match=f"^TorchServe needs Java 17 or newer, but .*{java}.* {found}; install it")
    with told if found else nullcontext():
        launch._check_java()
    if found:
        with told:
            launch.check(Settings(runs=tmp_path))


def test_no_address_to_listen_on_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["start", "--runs", str(tmp_path), "--host", ""]) == 2
    assert capsys.readouterr().err.startswith("Error: --host: must name an address")


@pytest.mark.parametrize("kind", ["archive", "artifact", "unpacked"])
def test_a_full_disk_is_no_fault_of_the_model(
    tmp_path: Path, artifact_directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the source", None, "the copy")

    models.store(tmp_path).mkdir(parents=True)
    source = artifact_directory
    if kind == "archive":
        source = archive.build(artifact_directory, tmp_path / "lookalike.mar")
    if kind == "unpacked":
        monkeypatch.setattr(Path, "write_bytes", fail)
    else:
        monkeypatch.setattr(shutil, "copyfile", fail)
        monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    told = rf"^no room for copies of the model in {states.directory(tmp_path)} \(No space left on device\)$"
    with pytest.raises(ServeError, match=told):
        models.put(source, tmp_path)


@pytest.fixture
def half_started(running: State, tmp_path: Path) -> State:
    """Like `running`, but its start was killed before it knew the process id."""
    states.write(tmp_path, dataclasses.replace(running, pid=0))
    return running


def test_a_server_is_found_whose_start_was_killed(half_started: State, tmp_path: Path) -> None:
    told: list[str] = []
    assert server.start(Settings(runs=tmp_path), told.append) == half_started
    assert f"already runs at http://127.0.0.1:1 (process {half_started.pid})" in told[0]
    assert server.stop(tmp_path)
    assert states.process(half_started) is None
    assert is_forgotten(tmp_path, half_started)


def test_a_start_at_work_that_has_no_process_yet_is_not_swept_away(half_started: State, tmp_path: Path) -> None:
    end(half_started)
    with server._locked(tmp_path), pytest.raises(ServeError, match="a start or use is at work"):
        server.stop(tmp_path)
    assert Path(half_started.scratch).exists()
    assert not server.stop(tmp_path), "there is no process to stop"
    assert is_forgotten(tmp_path, half_started)


@pytest.mark.parametrize(("longer", "refused"), [(0, False), (1, True)])
def test_sockets_whose_paths_are_too_long_are_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, longer: int, refused: bool
) -> None:
    """Java would truncate the path and listen outside the private folder."""
    folder = "/tmp/é"
    room = launch.SOCKET_PATH_BYTES - len("/lookalike-serve-12345678/management.sock")
    folder += "x" * (room + longer - len(folder.encode()))
    monkeypatch.setattr(tempfile, "tempdir", folder)
    if not refused:
        launch._check_socket_path()
        return
    with pytest.raises(UsageError, match=f"^TMPDIR {folder} is too long: .* {launch.SOCKET_PATH_BYTES} is the limit"):
        launch.check(Settings(runs=Path()))


def test_killed_proofs_are_swept_away(tmp_path: Path, artifact_directory: Path) -> None:
    killed = tmp_path / "serve" / "proving-x"
    killed.mkdir(parents=True)
    models.store(tmp_path).mkdir()
    mar, card = models.put(artifact_directory, tmp_path)
    assert (mar.name, card["version"]) == ("lookalike-1.mar", "1")
    assert [path.name for path in (tmp_path / "serve").iterdir()] == ["model-store"]


def test_all_files_of_a_proof_lie_where_killed_proofs_are_swept_away(
    tmp_path: Path, artifact_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def prove(command: list[str], *, cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        folders.append(cwd)
        return subprocess.CompletedProcess(command, 0)

    models.store(tmp_path).mkdir(parents=True)
    monkeypatch.setattr(subprocess, "run", prove)
    models.put(artifact_directory, tmp_path)
    (folder,) = folders
    assert folder.parent.name.startswith(models.PROVING)


def test_a_version_that_answers_becomes_the_default(
    running: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(management, "ask", lambda state, *request: asked.append(request[0]) or [])
    monkeypatch.setattr(server, "_await_golden", lambda *_: None)
    monkeypatch.setattr(models, "proved", lambda *_, **__: {"version": "2"})
    assert server.use(tmp_path, "2") == "2"
    assert asked == ["GET", "POST", "PUT"]


def pretend_mlflow(monkeypatch: pytest.MonkeyPatch, download: Callable[..., None]) -> None:
    """An MLflow that can only download."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    artifacts = SimpleNamespace(download_artifacts=download)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_tracking_uri=lambda uri: None, artifacts=artifacts))


@pytest.mark.parametrize(
    ("file", "told"),
    [("MLmodel", "not a Lookalike model: it holds no artifact"), ("meta", "MLflow has no files of it any more")],
)
def test_an_artifact_of_something_else_in_the_registry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, told: str
) -> None:
    pretend_mlflow(monkeypatch, lambda dst_path, **_: Path(dst_path, file).touch())
    with pytest.raises(UsageError, match=told):
        models._fetch("models:/other/1", tmp_path, tmp_path)


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ModuleNotFoundError])
def test_a_registry_that_cannot_be_read_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """MLflow does not wrap all errors of requests, which are OSErrors without a file name, nor those of databases."""

    def fail(**_: object) -> None:
        raise kind("403 for url:\n http://me:secret@host/api")

    pretend_mlflow(monkeypatch, fail)
    with pytest.raises(UsageError, match=r"^models:/lookalike/1: 403 for url: http://host/api$"):
        models._fetch("models:/lookalike/1", tmp_path, tmp_path)


def test_mlflow_does_not_print_addresses_while_it_fetches_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where files are missing, it would print the address with the password."""
    logger = logging.getLogger("mlflow")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, "mlflow")  # as MLflow does
    pretend_mlflow(monkeypatch, lambda **_: logger.info("No artifacts found at http://me:secret@host"))
    with pytest.raises(UsageError, match="no files"):
        models._fetch("models:/lookalike/1", tmp_path, tmp_path)
    assert not caplog.text


def test_a_token_that_was_given_stands_in_for_those_of_torchserve() -> None:
    assert not Settings(runs=Path(), host="0.0.0.0", token_file=Path("token")).need_tokens


def test_the_number_of_a_run_is_its_whole_number(tmp_path: Path) -> None:
    (tmp_path / "00012-digits").mkdir()
    (tmp_path / "00012-digits" / "lookalike.mar").touch()
    with pytest.raises(UsageError, match=r"^2: no version of that name"):
        models._of_version(tmp_path, "2")


def test_runs_are_looked_for_where_training_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path))
    monkeypatch.setattr(server, "stop", lambda runs, *_: asked.append(runs))
    assert commands.main(["stop"]) == 0
    assert asked == [tmp_path]
