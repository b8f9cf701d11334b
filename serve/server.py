"""Start, switch, examine and stop TorchServe.

`start` checks everything that it can before a port opens (Java, ports, the archive's checksums and golden samples) and
reports ready only when the server has answered a real prediction with the sequences that the card promises.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from filelock import FileLock, Timeout

from serve import archive, bearer, cpus, drain, management, models
from serve import state as states
from serve.errors import ServeError, UsageError
from serve.state import State
from train import MODEL_NAME

HERE = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost")
SCRATCH = "lookalike-serve-"  # how the name of a server's folder begins; short, because Unix sockets have short names
POLL_SECONDS = 0.2
ANSWER_SECONDS = 30.0  # for the first answer of a version whose workers have loaded it
KILL_SECONDS = 10.0
GRACE_SECONDS = 45.0  # a batch of the largest requests takes less
FLUSH_SECONDS = 0.3  # without unsent answers; the server that passes a worker's last one on needs a moment for that
REFUSAL_BYTES = 4096  # on its way to a client there may always be a refusal, of which a stop makes ever more
TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LOG_LINES = 12
OLDER_DRAIN_VARIABLE = "LOOKALIKE_GATE"  # of archives exported before it had to differ from `fit --gate`'s variable
METRICS_CONFIG, LOG_CONFIG = "metrics.yaml", "log4j2.xml"
NOT_RUNNING = "no server runs here; start one with: python -m serve start (or: make serve)"
STOPPING = "a stop is at work, or was killed; end the server with: python -m serve stop (or: make stop)"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve.

    Attributes:
        model: the path of an archive, a run directory or an artifact, or a name in MLflow's registry such as
            models:/lookalike@champion; None means the newest run's archive.
        grpc_port: on loopback; 0 is any free port. TorchServe cannot switch gRPC off.
        model_api: whether `use` may load models into the running server although TorchServe draws no tokens. Its gRPC
            management then loads those of any user of this machine, and runs their code.
    """

    runs: Path
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 8082
    grpc_port: int = 0
    workers: int = min(2, cpus.usable())  # while one answers a large request, the other answers the small ones
    tokens: bool | None = None
    token_file: Path | None = None
    model_api: bool = False
    wait_seconds: float = 40.0

    @property
    def need_tokens(self) -> bool:
        """Whether TorchServe draws tokens: as asked for; when nothing was, then wherever others than this machine's own
        users can reach the server and no token was given.
        """
        if self.token_file:
            return False
        return self.host not in LOOPBACK if self.tokens is None else self.tokens

    @property
    def loads_models(self) -> bool:
        """Whether models can be loaded while the server runs."""
        return self.need_tokens or self.model_api


def start(settings: Settings, tell: Callable[[str], None]) -> State:
    """Start TorchServe and return when it answers. A server that already runs for these runs is left alone.

    Args:
        tell: is given a line for people at each step.

    Raises:
        ServeError: nothing was started, or what was started has been stopped again.
    """
    if states.running(settings.runs) is None:
        check(settings)  # before anything is written: wrong usage leaves nothing behind
        if settings.token_file and settings.token_file.stat().st_mode & stat.S_IROTH:
            tell(f"Warning: all users of this machine can read {settings.token_file}: chmod 600 it")
    with _locked(settings.runs):
        state = states.last(settings.runs)
        if state and states.process(state):
            _check_open(state)
            tell(
                f"TorchServe already runs at {state.address} (process {state.pid}); "
                "switch its model with: python -m serve use VERSION"
            )
            return state
        if state:
            _clear(settings.runs, state.scratch)  # it died by itself and left its folder
        return _start(settings, tell)


def _check_open(state: State) -> None:
    """A server that a stop is at work on answers nobody any more."""
    if drain.has_begun(state.drain_lock):
        raise ServeError(STOPPING)


@contextmanager
def _locked(runs: Path) -> Iterator[None]:
    """Keep other starts and switches for these runs away: state and model store are for one at a time."""
    home = states.directory(runs)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "lock", timeout=0):
            yield
    except Timeout as problem:
        raise ServeError("another start or use is at work for these runs; try again when it is done") from problem


def _start(settings: Settings, tell: Callable[[str], None]) -> State:
    home = states.directory(settings.runs)
    with models.located(settings.runs, settings.model) as source:
        for folder in (home / "logs", models.store(settings.runs)):
            folder.mkdir(exist_ok=True)
        mar, card = models.put(source, settings.runs, tell=tell)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
    started, clock = time.monotonic(), time.time()
    state = None
    try:
        pid = _launch(settings, home, scratch, mar)
        state = State(
            pid=pid,
            host=settings.host,
            port=settings.port,
            metrics_port=settings.metrics_port,
            tokens=settings.need_tokens,
            token_file=str(scratch / "token") if settings.token_file else None,
            loads_models=settings.loads_models,
            workers=settings.workers,
            scratch=str(scratch),
        )
        states.write(settings.runs, state)
        tell(f"starting TorchServe (process {pid}) with {mar.name}")
        _await_golden(state, card, started + settings.wait_seconds)
        tell(f"ready after {time.monotonic() - started:.1f} s")
    except BaseException as problem:
        if state:
            _end(state)
        _clear(settings.runs, str(scratch))
        if isinstance(problem, ServeError):
            for line in _last_messages(home, clock):
                tell(f"  {line}")
            limit = f"--wait-seconds was {settings.wait_seconds:g}"
            raise ServeError(f"{problem} Its logs are in {home / 'logs'}; {limit}.") from problem
        raise
    return state


def stop(runs: Path, grace_seconds: float = GRACE_SECONDS, tell: Callable[[str], None] = lambda line: None) -> bool:
    """Let the accepted requests finish, then end the server and remove what it leaves behind. False when none ran.

    Args:
        tell: is given a line for people when requests may not have been finished.

    Raises:
        ServeError: a server is just being started.
    """
    state = states.last(runs)
    if state is None:
        if states.directory(runs).exists():
            with _locked(runs):  # or else a start is at work
                pass
        return False
    return finish(runs, state, grace_seconds, tell)


def finish(runs: Path, state: State, grace_seconds: float, tell: Callable[[str], None]) -> bool:
    """As `stop`, for a server that is known: its runs may have been moved since it was started."""
    running = states.process(state) is not None
    try:
        if running:
            _drain(state, grace_seconds, tell)
    finally:  # also of an interrupted stop: once it has begun, a server answers nobody
        _end(state)
        _clear(runs, state.scratch)
    return running


def _drain(state: State, seconds: float, tell: Callable[[str], None]) -> None:
    """Have the server take no more and wait until every accepted request is answered; say so where that cannot be."""
    deadline = time.monotonic() + seconds
    try:
        answered = drain.begin(state.drain_lock, seconds)
    except FileNotFoundError:
        tell(f"{state.drain_lock} has been deleted: requests under way may have been cut off")
        return
    if not (_flush(state.port, deadline) and answered):
        tell(f"{seconds:g} s were not enough for all accepted requests: the others were cut off")


def _flush(port: int, deadline: float) -> bool:
    """Wait until the answers have reached their clients; False when that took too long."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < FLUSH_SECONDS:
        if _unsent_bytes(port) > REFUSAL_BYTES:
            if time.monotonic() > deadline:
                return False
            quiet_since = time.monotonic()
        time.sleep(0.01)
    return True


def _unsent_bytes(port: int) -> int:
    """How much the slowest client of a port has not taken yet. Only Linux tells; elsewhere 0."""
    unsent = 0
    for table in TCP_TABLES:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, _, queues, *_ = line.split()
            if int(local.split(":")[1], 16) == port:
                unsent = max(unsent, int(queues.split(":")[0], 16))
    return unsent


def status(runs: Path) -> dict[str, Any] | None:
    """What runs, as plain JSON, or None: address, versions, workers, queue, and whether it is stopping.

    Raises:
        ServeError: the process is there, but does not answer.
    """
    state = states.running(runs)
    if state is None:
        return None
    described = _manage(state, "GET", f"/models/{MODEL_NAME}/all")
    default = _manage(state, "GET", f"/models/{MODEL_NAME}")[0]["modelVersion"]
    versions = [_described(version, models.card(runs, version["modelVersion"])) for version in described]
    return {
        "model": MODEL_NAME,
        "address": state.address,
        "metrics": f"http://{state.host}:{state.metrics_port}/metrics",
        "pid": state.pid,
        "tokens": state.tokens,
        "stopping": drain.has_begun(state.drain_lock),
        "logs": str(states.directory(runs) / "logs"),
        "versions": [{**version, "default": version["version"] == default} for version in versions],
    }


def _described(version: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """What is told of a version, from TorchServe's description of it and from its card."""
    return {
        "version": version["modelVersion"],
        "run_id": card.get("run_id"),
        "missed": models.missed_limits(card),
        "workers": [{"pid": worker["pid"], "status": worker["status"]} for worker in version["workers"]],
        "queue": version["jobQueueStatus"],
    }


def attend(runs: Path, state: State, interrupted: Callable[[], bool]) -> bool:
    """Stay until `interrupted`, for as long as the server runs, as a container's main process does.

    Returns:
        False when the server was stopped by another command.

    Raises:
        ServeError: the server ended by itself.
    """
    while not interrupted():
        if states.process(state) is None:
            if drain.has_begun(state.drain_lock):
                return False
            _clear(runs, state.scratch)
            raise ServeError(f"TorchServe ended by itself; its logs are in {states.directory(runs) / 'logs'}.")
        time.sleep(POLL_SECONDS)
    return True


def use(runs: Path, wanted: str, tell: Callable[[str], None] = lambda line: None) -> str:
    """Make a version the one that answers, loading it first where needed, and return its name.

    Other versions stay loaded, at /predictions/lookalike/VERSION, so switching back takes no time.

    Args:
        wanted: a version that is loaded, in the model store or among the runs, or a model as in Settings.
        tell: is given a line for people at each step that takes a while.

    Raises:
        ServeError: no server runs, or there is no such version, or it does not prove itself; then the one that answered
            before still does.
    """
    state = states.running(runs)
    if state is None:
        raise ServeError(NOT_RUNNING)
    with _locked(runs):
        _check_open(state)
        loaded = {version["modelVersion"] for version in _manage(state, "GET", f"/models/{MODEL_NAME}/all")}
        card = models.proved(runs, wanted, loaded, tell)
        version = str(card["version"])
        if version in loaded:
            _await_golden(state, card, time.monotonic() + ANSWER_SECONDS)  # its workers may have ended since
        elif not state.loads_models:
            raise UsageError(
                f"version {version} is not loaded, and without tokens this server loads nothing, or else any user of "
                f"this machine could have it load code: start it with --tokens (or --model-api), or with this --model"
            )
        else:
            tell(f"loading version {version}")
            _load(state, card)
        _manage(state, "PUT", f"/models/{MODEL_NAME}/{version}/set-default")
    return version


def _load(state: State, card: dict[str, Any]) -> None:
    """Have TorchServe load a version from the model store; one that does not answer is unloaded again.

    TorchServe itself keeps what it could not load, without workers.
    """
    version = str(card["version"])
    query = f"url={models.mar_name(version)}&model_name={MODEL_NAME}&initial_workers={state.workers}&synchronous=true"
    try:
        _manage(state, "POST", f"/models?{query}")
        _await_golden(state, card, time.monotonic() + ANSWER_SECONDS)
    except BaseException:
        with suppress(ServeError):
            _manage(state, "DELETE", f"/models/{MODEL_NAME}/{version}")
        raise


def inference_token(state: State) -> str | None:
    """The token that predictions need, or None where they need none."""
    return bearer.read(state.token_file) if state.token_file else _token(state, "inference")


def check(settings: Settings) -> None:
    """Raises UsageError for what can be known to fail before anything is started."""
    if ":" in settings.host:
        raise UsageError(f"--host {settings.host}: TorchServe knows IPv4 addresses and names only")
    if len({settings.port, settings.metrics_port, settings.grpc_port}) < 3:
        raise UsageError("--port, --metrics-port and --grpc-port must differ")
    if settings.token_file and settings.tokens is not None:
        raise UsageError("--token-file and --tokens/--no-tokens exclude each other")
    try:
        bearer.read(settings.token_file)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"--token-file {settings.token_file}: {reason}") from problem
    if not shutil.which(_java()):
        raise UsageError(
            "TorchServe needs Java 17 or newer; install it (Debian, Ubuntu: apt install openjdk-17-jre-headless; "
            "macOS: brew install openjdk@17) or set JAVA_HOME"
        )
    _check_port("--port", settings.host, settings.port)
    _check_port("--metrics-port", settings.host, settings.metrics_port)
    _check_port("--grpc-port", LOOPBACK[0], settings.grpc_port)
    if not models.is_registered(settings.model):
        models.find(settings.runs, settings.model)


def _check_port(option: str, host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise UsageError(f"--host {host}: {problem.strerror}") from problem
            raise UsageError(
                f"{option} {port} on {host} cannot be used ({problem.strerror}); "
                f"choose another port or stop what listens there"
            ) from problem


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else "java"


def _launch(settings: Settings, home: Path, scratch: Path, mar: Path) -> int:
    """Start Java through TorchServe's own launcher and return its process id."""
    (scratch / states.DRAIN_LOCK).touch()
    (scratch / "workflows").mkdir()
    (scratch / "config.properties").write_text(_properties(settings, scratch), encoding="ascii")
    for name in (METRICS_CONFIG, LOG_CONFIG):  # Java cannot read them under every path that a project may have
        shutil.copyfile(HERE / name, scratch / name)
    if settings.token_file:  # a copy, so that all workers know the same token for as long as the server runs
        shutil.copyfile(settings.token_file, scratch / "token")
    command = [
        sys.executable, "-I", "-m", "ts.model_server", "--start", "--ncs",
        "--models", f"{MODEL_NAME}={mar.name}", "--model-store", str(mar.parent),
        "--ts-config", str(scratch / "config.properties"), "--log-config", str(scratch / LOG_CONFIG),
    ]  # fmt: skip
    with (home / "logs" / "console.log").open("w") as console:
        launcher = subprocess.Popen(
            command,
            cwd=scratch,
            env=_environment(settings, home / "logs", scratch),
            stdout=console,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        launcher.wait(settings.wait_seconds)
        return int((scratch / ".model_server.pid").read_text())
    except BaseException as problem:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)  # Java may run already, and nobody else knows of it
        launcher.wait()
        if isinstance(problem, subprocess.TimeoutExpired):
            raise ServeError(f"TorchServe's launcher took longer than {settings.wait_seconds:g} s.") from problem
        if isinstance(problem, OSError | ValueError):
            raise ServeError(f"TorchServe's launcher failed (exit code {launcher.returncode}).") from problem
        raise


def _environment(settings: Settings, logs: Path, scratch: Path) -> dict[str, str]:
    """All that TorchServe and its workers see of the environment."""
    facts = {
        "TMPDIR": scratch,
        "TEMP": scratch,  # the launcher's pid file; Java's files and the workers' sockets
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "CUDA_VISIBLE_DEVICES": "",
        drain.VARIABLE: scratch / states.DRAIN_LOCK,
        OLDER_DRAIN_VARIABLE: scratch / states.DRAIN_LOCK,
    }
    if settings.token_file:
        facts[bearer.VARIABLE] = scratch / "token"
    return archive.kept_environment() | {name: str(value) for name, value in facts.items()}


def _properties(settings: Settings, scratch: Path) -> str:
    """config.properties as it is in this folder, and what only this start knows."""
    facts = {
        "inference_address": f"http://{settings.host}:{settings.port}",
        "metrics_address": f"http://{settings.host}:{settings.metrics_port}",
        "management_address": f"unix:{scratch / 'management.sock'}",
        "grpc_inference_port": settings.grpc_port,
        "grpc_management_port": 0,  # any free one, which other users can find nevertheless
        "model_store": models.store(settings.runs),
        "workflow_store": scratch / "workflows",
        "metrics_config": scratch / METRICS_CONFIG,
        "default_workers_per_model": settings.workers,
        "disable_token_authorization": str(not settings.need_tokens).lower(),
        "enable_model_api": str(settings.loads_models).lower(),
    }
    lines = [f"{name}={_escaped(str(value))}\n" for name, value in facts.items()]
    return (HERE / "config.properties").read_text() + "\n" + "".join(lines)


def _escaped(value: str) -> str:
    """A value as Java's properties take it: backslashes, and what is not ASCII, as numbers of UTF-16."""

    def numbered(found: re.Match[str]) -> str:
        digits = found[0].encode("utf-16-be").hex()
        return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))

    return re.sub(r"[^ -~]|\\", numbered, value)


def _await_golden(state: State, card: dict[str, Any], deadline: float) -> None:
    """Wait until a version answers a golden sample's request with the golden sample."""
    golden = card["golden"][0]
    url = f"{state.address}/predictions/{MODEL_NAME}/{card['version']}"
    session = requests.Session()
    session.trust_env = False  # a proxy would not reach loopback
    while time.monotonic() < deadline:
        if states.process(state) is None:
            raise ServeError("TorchServe ended before it had answered a prediction.")
        if not states.listens(state):  # somebody else may, and must not be given the token
            time.sleep(POLL_SECONDS)
            continue
        try:
            token = inference_token(state)
            answer = session.post(
                url,
                json={"n": len(golden["rows"]), "seed": golden["seed"]},
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except (requests.RequestException, OSError, ValueError, KeyError):
            time.sleep(POLL_SECONDS)
            continue
        if answer.status_code == requests.codes.ok:
            if answer.json()["sequences"] != golden["rows"]:
                raise ServeError("TorchServe answers with other sequences than the model's golden samples.")
            if not state.token_file or _refuses_strangers(session, url, deadline):
                return
        time.sleep(POLL_SECONDS)
    raise ServeError(f"version {card['version']} did not answer a prediction in time.")


def _refuses_strangers(session: requests.Session, url: str, deadline: float) -> bool:
    """Whether a request without the token is refused for that; False where a busy server has not come to it.

    Raises:
        ServeError: it is answered.
    """
    try:
        answer = session.post(url, json={"n": 1}, timeout=max(1.0, deadline - time.monotonic()))
    except requests.RequestException:
        return False
    if answer.status_code == requests.codes.ok:
        raise ServeError("this archive's handler checks no token; make it anew: python -m train export RUN.")
    return answer.status_code == requests.codes.unauthorized


def _clear(runs: Path, scratch: str) -> None:
    """Remove what an ended server leaves behind."""
    states.forget(runs, scratch)
    if Path(scratch).name.startswith(SCRATCH):  # it was read from a file, which others may have changed
        shutil.rmtree(scratch, ignore_errors=True)


def _end(state: State) -> None:
    """End the server's processes.

    Raises:
        ServeError: they are another user's.
    """
    process = states.process(state)
    if process is None:
        return
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
        for survivor in _await_end(family):
            survivor.kill()
        _await_end(family)
    except psutil.NoSuchProcess:
        pass  # another stop was quicker
    except psutil.AccessDenied as problem:
        raise ServeError(
            f"the server (process {process.pid}) belongs to another user, who alone can stop it"
        ) from problem


def _await_end(family: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end and return those that did not. A zombie has ended: its parent only has not noticed."""
    deadline = time.monotonic() + KILL_SECONDS
    while (alive := [process for process in family if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _manage(state: State, method: str, target: str) -> Any:
    return management.call(state.management_socket, method, target, _token(state, "management"))


def _token(state: State, kind: str) -> str | None:
    if not state.tokens:
        return None
    key: str = json.loads(state.key_file.read_text())[kind]["key"]
    return key


def _last_messages(home: Path, since: float) -> list[str]:
    """The last lines that the server wrote, to its console and to its log, without the log's decorations.

    Args:
        since: when it was started, in seconds since 1970: a log that is older is another server's.
    """
    lines = []
    for log in (home / "logs" / "console.log", home / "logs" / "server.log"):
        with suppress(OSError):
            if log.stat().st_mtime >= since:
                lines += log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return [_message(line) for line in lines]


def _message(line: str) -> str:
    """What a line of a log says; the last one may be torn."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
