"""What is known of a running server: one small file under runs/serve, and the process that it names."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_type_hints

import psutil

from serve.errors import ServeError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
SCRATCH = "lookalike-serve-"  # how the name of a server's folder begins; short, because Unix sockets have short names
MANAGEMENT_SOCKET = "management.sock"
DRAIN_LOCK = "gate"  # its name in a server's folder, so that also a server that an older version started is drained


@dataclass(frozen=True, kw_only=True)
class State:
    """A server that was started.

    Attributes:
        pid: of Java's process; 0 from before it is launched until it is known.
        scratch: a private folder with its sockets, keys and unpacked models.
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
    """Where a server started for these runs keeps its state, logs and model store."""
    return runs.resolve() / "serve"


def write(runs: Path, state: State) -> None:
    path = directory(runs) / "state.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=1) + "\n")
    partial.replace(path)


def forget(runs: Path, scratch: str) -> None:
    """Forget the server of this folder; one that has been started since is still known."""
    state = last(runs)
    if state and state.scratch == scratch:
        (directory(runs) / "state.json").unlink(missing_ok=True)


def last(runs: Path) -> State | None:
    """The server that was last started for these runs and not stopped, even if its process is no longer there.

    Where a start was killed before it knew its server's process, that is looked for.

    Raises:
        ServeError: what is known of it cannot be read, so a server may run.
    """
    path = directory(runs) / "state.json"
    try:
        state = _parsed(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise ServeError(f"{path} does not say which server runs ({reason}); if none does, delete it") from problem
    candidates = () if state.pid else (replace(state, pid=pid) for pid in psutil.pids())
    return next(filter(process, candidates), state)


def _parsed(text: str) -> State:
    """A state as any revision of this project writes it: fields that this one does not know are left out."""
    kinds = get_type_hints(State)
    known = {name: value for name, value in json.loads(text).items() if name in kinds}
    for name, value in known.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"its {name} is {value!r}")
    state = State(**known)
    if state.pid < 0:  # no process has such a number, and psutil would not look for one
        raise ValueError(f"its pid is {state.pid}")
    return state


def running(runs: Path) -> State | None:
    """The server started for these runs, or None when none was, or its process is no longer there."""
    state = last(runs)
    return state if state and process(state) else None


def process(state: State) -> psutil.Process | None:
    """The server's process, if the pid still belongs to it: pids are used again, so the command line must fit too."""
    try:
        found = psutil.Process(state.pid)
        command, status = found.cmdline(), found.status()
    except psutil.Error:
        return None
    ours = MAIN_CLASS in command and str(Path(state.scratch, "config.properties")) in command
    return found if ours and status != psutil.STATUS_ZOMBIE else None


def listens(state: State) -> bool:
    """Whether it is the server's process that listens on its port."""
    found = process(state)
    try:
        connections = found.net_connections("tcp") if found else []
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == state.port for each in connections)
