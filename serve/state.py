"""The state of a running server: a small file under runs/serve, and the process that it names."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_type_hints

import psutil

from serve.errors import ServeError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
SCRATCH = "lookalike-serve-"  # prefix of a server's temporary folder; short, since paths of Unix sockets are limited
MANAGEMENT_SOCKET = "management.sock"
DRAIN_LOCK = "gate"  # file name in that folder; kept, so that servers started by an older version can be drained


@dataclass(frozen=True, kw_only=True)
class State:
    """A server that was started.

    Attributes:
        pid: process id of Java; 0 until it is known.
        tokens: whether TorchServe requires the tokens that it generates.
        scratch: the server's private temporary folder: sockets, keys and unpacked models.
        token_file: the server's copy of the `--token-file`.
        loads_models: whether models can be loaded while it runs.
    """

    pid: int
    host: str
    port: int
    metrics_port: int
    tokens: bool
    workers: int
    scratch: str
    token_file: str | None = None
    loads_models: bool = True

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def management_socket(self) -> Path:
        return Path(self.scratch, MANAGEMENT_SOCKET)

    @property
    def drain_lock(self) -> Path:
        return Path(self.scratch, DRAIN_LOCK)

    @property
    def key_file(self) -> Path:
        return Path(self.scratch, "key_file.json")


def directory(runs: Path) -> Path:
    """The folder where a server for these runs keeps its state, logs and model store."""
    return runs.resolve() / "serve"


def write(runs: Path, state: State) -> None:
    path = directory(runs) / "state.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=1) + "\n")
    partial.replace(path)


def forget(runs: Path, scratch: str) -> None:
    """Delete the state of the server with this temporary folder, unless another server has been started since."""
    state = last(runs)
    if state and state.scratch == scratch:
        (directory(runs) / "state.json").unlink(missing_ok=True)


def last(runs: Path) -> State | None:
    """The server that was last started for these runs and not stopped, even if its process has ended.

    If a start was killed before it knew the server's process id, the process is searched for.

    Raises:
        ServeError: the state cannot be read, so a server may be running.
    """
    path = directory(runs) / "state.json"
    try:
        state = _parsed(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise ServeError(f"{path} does not say which server is running ({reason}); if none is, delete it") from problem
    candidates = () if state.pid else (replace(state, pid=pid) for pid in psutil.pids())
    return next(filter(process, candidates), state)


def _parsed(text: str) -> State:
    """Parse a state file of any revision of this project; unknown fields are ignored.

    Raises:
        ValueError, TypeError, AttributeError, RecursionError: it is no such file.
    """
    kinds = get_type_hints(State)
    known = {name: value for name, value in json.loads(text).items() if name in kinds}
    for name, value in known.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"its {name} is {value!r}")
    state = State(**known)
    if state.pid < 0:  # psutil raises ValueError for a negative pid
        raise ValueError(f"its pid is {state.pid}")
    return state


def running(runs: Path) -> State | None:
    """The server that runs for these runs, or None."""
    state = last(runs)
    return state if state and process(state) else None


def process(state: State) -> psutil.Process | None:
    """The server's process, or None if it has ended. Pids are reused, so the command line must match, too."""
    try:
        found = psutil.Process(state.pid)
        command, status = found.cmdline(), found.status()
    except psutil.Error:
        return None
    ours = MAIN_CLASS in command and str(Path(state.scratch, "config.properties")) in command
    return found if ours and status != psutil.STATUS_ZOMBIE else None


def listens(state: State) -> bool:
    """Whether the server's own process listens on its port."""
    found = process(state)
    try:
        connections = found.net_connections("tcp") if found else []
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == state.port for each in connections)
