"""Start TorchServe: the checks before, its configuration, and its last log lines if it ends.

`server` calls this module and then waits for the first answer.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serve import archive, bearer, drain, models
from serve import state as states
from serve.errors import ServeError, UsageError
from train import JAVA, MODEL_NAME, cpus

HERE = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost")
LOG_LINES = 12
OLDER_DRAIN_VARIABLE = "LOOKALIKE_GATE"  # read by older archives; renamed because `fit --gate` uses this name
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107  # Java truncates longer paths and listens there
METRICS_CONFIG, LOG_CONFIG = "metrics.yaml", "log4j2.xml"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve.

    Attributes:
        model: path of an archive, a run directory or an artifact, or a name in MLflow's registry such as
            models:/lookalike@champion; None means the newest run's archive.
        grpc_port: on loopback; 0 is any free port. TorchServe cannot switch gRPC off.
        model_api: whether `use` may load models into the running server even without TorchServe's tokens. Any user of
            this machine can then have the gRPC management API load a model and run its code.
        beside: additional models to serve from the start, unproved: NAME=FILE, a file in the model store.
        wait_seconds: time limit for TorchServe's first answer, and for the proof before, which gets at least 120 s.
    """

    runs: Path
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 8082
    grpc_port: int = 0
    workers: int = min(2, cpus.usable())  # with two, a large request does not block small ones
    tokens: bool | None = None
    token_file: Path | None = None
    model_api: bool = False
    beside: tuple[str, ...] = ()
    wait_seconds: float = 120.0  # 40 were too few on two slow, busy cores

    @property
    def need_tokens(self) -> bool:
        """Whether TorchServe generates tokens: never with `token_file`; otherwise as `tokens` says; by default unless
        the server is on loopback.
        """
        if self.token_file:
            return False
        return self.host not in LOOPBACK if self.tokens is None else self.tokens

    @property
    def loads_models(self) -> bool:
        """Whether models can be loaded while the server runs."""
        return self.need_tokens or self.model_api


def check(settings: Settings) -> None:
    """Check what can be checked before anything is started.

    Raises:
        UsageError: the settings are unusable, Java is missing or too old, a port is taken, or there is no such model.
    """
    if not settings.host:
        raise UsageError("--host: must name an address; 0.0.0.0 means all of this machine's")
    if ":" in settings.host:
        raise UsageError(f"--host {settings.host}: TorchServe takes only IPv4 addresses and host names")
    if len({settings.port, settings.metrics_port, settings.grpc_port}) < 3:
        raise UsageError("--port, --metrics-port and --grpc-port must differ")
    if settings.token_file and settings.tokens is not None:
        raise UsageError("--token-file and --tokens/--no-tokens cannot be combined")
    try:
        bearer.read(settings.token_file)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"--token-file {settings.token_file}: {reason}") from problem
    _check_socket_path()
    _check_java()
    _check_port("--port", settings.host, settings.port)
    _check_port("--metrics-port", settings.host, settings.metrics_port)
    _check_port("--grpc-port", LOOPBACK[0], settings.grpc_port)
    if not models.is_registered(settings.model):
        models.find(settings.runs, settings.model)


def _check_java() -> None:
    """Raise UsageError unless Java is new enough: with an older one TorchServe exits and says why in its log only."""
    try:
        told = subprocess.run([_java(), "-version"], capture_output=True, text=True, errors="replace")
        said = told.stderr + told.stdout
    except OSError:
        said = ""
    found = re.search(r'version "(?:1\.)?(\d+)', said)  # Java 8 calls itself 1.8
    if found is None or int(found[1]) < JAVA:
        here = f"{_java()} is version {found[1]}" if found else f"{_java()} is missing, or not Java"
        raise UsageError(
            f"TorchServe needs Java {JAVA} or newer, but {here}; install it (Debian, Ubuntu: apt install "
            f"openjdk-{JAVA}-jre-headless; macOS: brew install openjdk@{JAVA}) or set JAVA_HOME"
        )


def _check_socket_path() -> None:
    """Raise UsageError if the path of the management socket, the longest of all sockets, would be too long."""
    longest = Path(tempfile.gettempdir(), f"{states.SCRATCH}12345678", states.MANAGEMENT_SOCKET)
    length = len(os.fsencode(longest))
    if length > SOCKET_PATH_BYTES:
        raise UsageError(
            f"TMPDIR {tempfile.gettempdir()} is too long: the sockets in it would have paths of {length} bytes, and "
            f"{SOCKET_PATH_BYTES} is the limit; set TMPDIR to a shorter one, such as /tmp"
        )


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


def start(settings: Settings, home: Path, scratch: Path, mar: Path) -> int:
    """Start TorchServe through its own launcher and return the process id of Java.

    Args:
        home: the folder of the server's state and logs.
        scratch: the server's private temporary folder.
        mar: the archive to serve, in the model store.

    Raises:
        ServeError: the launcher failed or took too long; its processes have been killed.
    """
    (scratch / states.DRAIN_LOCK).touch()
    (scratch / "workflows").mkdir()
    (scratch / "config.properties").write_text(_properties(settings, scratch), encoding="ascii")
    for name in (METRICS_CONFIG, LOG_CONFIG):  # Java cannot read them from some project paths
        shutil.copyfile(HERE / name, scratch / name)
    if settings.token_file:  # a copy, so that all workers keep the same token while the server runs
        shutil.copyfile(settings.token_file, scratch / "token")
    command = [
        sys.executable, "-I", "-m", "ts.model_server", "--start", "--ncs",
        "--models", f"{MODEL_NAME}={mar.name}", *settings.beside, "--model-store", str(mar.parent),
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
            os.killpg(launcher.pid, signal.SIGKILL)  # Java may run already, and its pid is not known yet
        launcher.wait()
        if isinstance(problem, subprocess.TimeoutExpired):
            raise ServeError(f"TorchServe's launcher took longer than {settings.wait_seconds:g} s.") from problem
        if isinstance(problem, OSError | ValueError):
            # On a full disk it writes its process id elsewhere, and succeeds.
            reason = f"exit code {launcher.returncode}" if launcher.returncode else f"is there room in {scratch}?"
            raise ServeError(f"TorchServe's launcher failed ({reason}).") from problem
        raise


def _environment(settings: Settings, logs: Path, scratch: Path) -> dict[str, str]:
    """The environment of TorchServe and its workers."""
    facts = {
        "LC_ALL": "C.UTF-8",  # Java decodes paths in the locale's encoding
        "TMPDIR": scratch,
        "TEMP": scratch,  # for the launcher's pid file, Java's files and the workers' sockets
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
    """The contents of config.properties: the file in this folder, plus the settings of this start."""
    facts = {
        "inference_address": f"http://{settings.host}:{settings.port}",
        "metrics_address": f"http://{settings.host}:{settings.metrics_port}",
        "management_address": f"unix:{scratch / states.MANAGEMENT_SOCKET}",
        "grpc_inference_port": settings.grpc_port,
        "grpc_management_port": 0,  # any free port; other users can still find it
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
    r"""A value for a Java properties file: backslashes and non-ASCII characters as \uXXXX escapes (UTF-16)."""

    def numbered(found: re.Match[str]) -> str:
        digits = found[0].encode("utf-16-be").hex()
        return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))

    return re.sub(r"[^ -~]|\\", numbered, value)


def last_messages(home: Path, since: float) -> list[str]:
    """The last messages in the server's console and log files.

    Args:
        since: when the server was started, in seconds since 1970. Older files belong to an earlier server.
    """
    lines = []
    for log in (home / "logs" / "console.log", home / "logs" / "server.log"):
        with suppress(OSError):
            if log.stat().st_mtime >= since:
                lines += log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return [_message(line) for line in lines]


def _message(line: str) -> str:
    """What a log line says, with its exception, or the whole line if it is not JSON, such as a truncated one."""
    try:
        parsed = json.loads(line)
        exception = parsed.get("exception", "").strip().split("\n")[0]  # the rest says where in TorchServe
        return f"{parsed['message']} ({exception})" if exception else str(parsed["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
