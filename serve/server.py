"""Start, switch, inspect and stop TorchServe.

`start` checks everything that it can before a port opens (Java, ports, the archive's checksums and golden samples), and
reports ready only when the server has answered a real prediction with the card's golden sample.
"""

import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout

from serve import bearer, drain, launch, management, models, shutdown
from serve import state as states
from serve.errors import ServeError
from serve.launch import Settings
from serve.state import SCRATCH, State
from train import MODEL_NAME

POLL_SECONDS = 0.2
ANSWER_SECONDS = 30.0  # for the first answer of a version whose workers have loaded it
LOCK_SECONDS = 0.2  # a command that only asks whether a start is at work holds its lock for a moment
STATUS_SECONDS = 15.0  # a TorchServe that takes longer to describe itself hangs
GRACE_SECONDS = 45.0  # a batch of the largest requests takes less
NOT_RUNNING = "no server is running here; start one with: python -m serve start (or: make serve)"
DIED = "the server that was started here has died"
LOADING = "answers no predictions yet: its workers are loading the model, or have died"
STOPPING = "the server is being stopped, or a stop was killed; end it with: python -m serve stop (or: make stop)"


def start(settings: Settings, tell: Callable[[str], None]) -> State:
    """Start TorchServe and return when it answers. A server that already runs for this folder of runs is left alone.

    Args:
        tell: is called with a line for people at each step.

    Raises:
        ServeError: nothing was started, or it has been stopped again.
    """
    if states.running(settings.runs) is None:
        launch.check(settings)  # before anything is written, so that wrong usage leaves nothing behind
        if settings.token_file and settings.token_file.stat().st_mode & stat.S_IROTH:
            tell(f"Warning: all users of this machine can read {settings.token_file}: chmod 600 it")
    with _locked(settings.runs):
        state = states.last(settings.runs)
        if state and states.process(state):
            _check_open(state)
            tell(
                f"TorchServe already runs at {state.address} (process {state.pid}) and keeps its model and settings, "
                "whatever this start was given; switch its model with: python -m serve use VERSION"
            )
            return state
        if state:
            tell(f"{DIED}; starting anew")
            _clear(settings.runs, state.scratch)
        return _start(settings, tell)


def _check_open(state: State) -> None:
    """Raise ServeError if a stop has begun, since the server then refuses everything."""
    if drain.has_begun(state.drain_lock):
        raise ServeError(STOPPING)


@contextmanager
def _locked(runs: Path) -> Iterator[None]:
    """Lock out other starts and switches for this folder of runs, which would use the same state and model store."""
    home = states.directory(runs)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as problem:
        raise ServeError("a start or use is at work for these runs; try again when it is done") from problem


def _check_idle(runs: Path) -> None:
    """Raise ServeError if a start or use is at work, as far as can be told: its lock needs a folder we can write."""
    if states.directory(runs).exists():
        with suppress(OSError), _locked(runs):
            pass


def why_none(runs: Path) -> str:
    """Why no server is running for these runs, and what to do, in one line."""
    try:
        _check_idle(runs)
        state = states.last(runs)
        if state is None:
            return NOT_RUNNING
        _check_open(state)
    except ServeError as problem:
        return str(problem)
    return f"{DIED}; its logs are in {states.directory(runs) / 'logs'}. Start it again with: python -m serve start"


def _start(settings: Settings, tell: Callable[[str], None]) -> State:
    home = states.directory(settings.runs)
    with models.located(settings.runs, settings.model) as source:
        for folder in (home / "logs", models.store(settings.runs)):
            folder.mkdir(exist_ok=True)
        mar, card = models.put(source, settings.runs, tell=tell, seconds=settings.wait_seconds)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
    started, clock = time.monotonic(), time.time()
    state = State(
        pid=0,
        host=settings.host,
        port=settings.port,
        metrics_port=settings.metrics_port,
        tokens=settings.need_tokens,
        token_file=str(scratch / "token") if settings.token_file else None,
        loads_models=settings.loads_models,
        workers=settings.workers,
        scratch=str(scratch),
    )
    try:
        states.write(settings.runs, state)  # before the process starts, since this one may be killed at any time
        pid = launch.start(settings, home, scratch, mar)
        state = replace(state, pid=pid)
        states.write(settings.runs, state)
        tell(f"starting TorchServe (process {pid}) with {mar.name}")
        _await_golden(state, card, started + settings.wait_seconds)
        tell(f"ready after {time.monotonic() - started:.1f} s")
    except BaseException as problem:
        stopped = _was_stopped(state)
        shutdown.end(state)
        _clear(settings.runs, str(scratch))
        if isinstance(problem, ServeError) and stopped:
            raise ServeError("the server was stopped, by another command, before it was ready") from problem
        if isinstance(problem, ServeError):
            for line in launch.last_messages(home, clock):
                tell(f"  {line}")
            limit = f"--wait-seconds was {settings.wait_seconds:g}"
            raise ServeError(f"{problem} Its logs are in {home / 'logs'}; {limit}.") from problem
        raise
    return state


def stop(runs: Path, grace_seconds: float = GRACE_SECONDS, tell: Callable[[str], None] = lambda line: None) -> bool:
    """Let the accepted requests finish, then end the server and remove what it leaves behind. False if none ran.

    Args:
        tell: is called with a line for people when requests may have been cut off.

    Raises:
        ServeError: a server is being started, or the server belongs to another user.
    """
    state = states.last(runs)
    if state is None or not state.pid:
        _check_idle(runs)
    if state is None:
        return False
    return finish(runs, state, grace_seconds, tell)


def finish(runs: Path, state: State, grace_seconds: float, tell: Callable[[str], None]) -> bool:
    """Like `stop`, for a known server, even if its folder of runs has been moved since it was started."""
    running = states.process(state) is not None
    try:
        if running:
            shutdown.let_finish(state, grace_seconds, tell)
    finally:  # also when interrupted: once draining has begun, the server refuses everything
        shutdown.end(state)
        _clear(runs, state.scratch)
    return running


def status(runs: Path) -> dict[str, Any] | None:
    """What runs, as plain JSON: address, versions, workers, queue, and whether it is stopping. None if nothing runs.

    Raises:
        ServeError: the process runs, but does not answer.
    """
    state = states.running(runs)
    if state is None:
        return None
    described = management.ask(state, "GET", f"/models/{MODEL_NAME}/all", STATUS_SECONDS)
    default = management.ask(state, "GET", f"/models/{MODEL_NAME}", STATUS_SECONDS)[0]["modelVersion"]
    versions = [_described(version, models.card(runs, version["modelVersion"])) for version in described]
    return {
        "model": MODEL_NAME,
        "address": state.address,
        "metrics": f"http://{state.host}:{state.metrics_port}/metrics",
        "pid": state.pid,
        "tokens": state.tokens or state.token_file is not None,
        "stopping": drain.has_begun(state.drain_lock),
        "logs": str(states.directory(runs) / "logs"),
        "versions": [{**version, "default": version["version"] == default} for version in versions],
    }


def _described(version: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """What `status` says about a version, from TorchServe's description of it and its card."""
    return {
        "version": version["modelVersion"],
        "run_id": card.get("run_id"),
        "missed": models.missed_limits(card),
        "workers": [{"pid": worker["pid"], "status": management.readiness(worker)} for worker in version["workers"]],
        "queue": version["jobQueueStatus"],
    }


def _was_stopped(state: State) -> bool:
    """Whether a stop has begun, or has already removed everything."""
    return drain.has_begun(state.drain_lock) or not Path(state.scratch).exists()


def attend(runs: Path, state: State, interrupted: Callable[[], bool]) -> bool:
    """Wait while the server runs, as a container's main process does.

    Returns:
        True when `interrupted`; False when the server was stopped by another command.

    Raises:
        ServeError: the server ended by itself.
    """
    while not interrupted():
        if states.process(state) is None:
            if _was_stopped(state):
                return False
            _clear(runs, state.scratch)
            raise ServeError(f"TorchServe exited unexpectedly; its logs are in {states.directory(runs) / 'logs'}.")
        time.sleep(POLL_SECONDS)
    return True


def use(runs: Path, wanted: str, tell: Callable[[str], None] = lambda line: None) -> str:
    """Make a version the default, loading it first if necessary, and return its name.

    Other versions stay loaded, at /predictions/lookalike/VERSION, so switching back takes no time.

    Args:
        wanted: a version that is loaded, in the model store or among the runs, or a model as in `Settings`.
        tell: is called with a line for people at each slow step.

    Raises:
        ServeError: no server runs, there is no such version, it cannot be proved or loaded, or it does not answer; the
            default is then unchanged.
    """
    state = states.running(runs)
    if state is None:
        raise ServeError(why_none(runs))
    with _locked(runs):
        _check_open(state)
        loaded = {version["modelVersion"] for version in management.ask(state, "GET", f"/models/{MODEL_NAME}/all")}
        card = models.proved(runs, wanted, loaded, tell, only_loaded=not state.loads_models)
        version = str(card["version"])
        if version in loaded:
            _await_golden(state, card, time.monotonic() + ANSWER_SECONDS)  # its workers may have died since
        else:
            tell(f"loading version {version}")
            _load(state, card)
        management.ask(state, "PUT", f"/models/{MODEL_NAME}/{version}/set-default")
    return version


def _load(state: State, card: dict[str, Any]) -> None:
    """Make TorchServe load a version from the model store, and unload it again if it does not answer.

    TorchServe itself would keep a version that failed to load, without workers.

    Raises:
        ServeError: TorchServe refuses, or the version does not answer with its golden sample.
    """
    version = str(card["version"])
    query = f"url={models.mar_name(version)}&model_name={MODEL_NAME}&initial_workers={state.workers}&synchronous=true"
    try:
        management.ask(state, "POST", f"/models?{query}")
        _await_golden(state, card, time.monotonic() + ANSWER_SECONDS)
    except BaseException:
        with suppress(ServeError):
            management.ask(state, "DELETE", f"/models/{MODEL_NAME}/{version}")
        raise


def _await_golden(state: State, card: dict[str, Any], deadline: float) -> None:
    """Wait until a version answers with its golden sample, and with `--token-file` refuses requests without the token.

    Raises:
        ServeError: the server ended, did not answer in time, or answered something else.
    """
    golden = card["golden"][0]
    url = f"{state.address}/predictions/{MODEL_NAME}/{card['version']}"
    session = requests.Session()
    session.trust_env = False  # a proxy would not reach loopback
    while time.monotonic() < deadline:
        if states.process(state) is None:
            raise ServeError("TorchServe ended before it had answered a prediction.")
        if not states.listens(state):  # another process may, and must not get the token
            time.sleep(POLL_SECONDS)
            continue
        try:
            answer = session.post(
                url,
                json={"n": len(golden["rows"]), "seed": golden["seed"]},
                headers=bearer.header(management.inference_token(state)),
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except (requests.RequestException, OSError, ValueError, KeyError):
            time.sleep(POLL_SECONDS)
            continue
        if answer.status_code == requests.codes.ok:
            if answer.json()["sequences"] != golden["rows"]:
                raise ServeError("TorchServe's answer differs from the model's golden samples.")
            if not state.token_file or _refuses_strangers(session, url, deadline):
                return
        if answer.status_code == requests.codes.not_found:  # TorchServe loads its models before it listens
            raise ServeError(f"TorchServe could not load version {card['version']}.")
        time.sleep(POLL_SECONDS)
    raise ServeError(f"version {card['version']} did not answer a prediction in time.")


def _refuses_strangers(session: requests.Session, url: str, deadline: float) -> bool:
    """Whether a request without the token is refused with 401; False if the server did not answer or was too busy.

    Raises:
        ServeError: the request is answered.
    """
    try:
        answer = session.post(url, json={"n": 1}, timeout=max(1.0, deadline - time.monotonic()))
    except requests.RequestException:
        return False
    if answer.status_code == requests.codes.ok:
        raise ServeError("this archive's handler checks no token; rebuild it with: python -m train export RUN.")
    return answer.status_code == requests.codes.unauthorized


def _clear(runs: Path, scratch: str) -> None:
    """Remove the state and the temporary folder of a server that has ended."""
    states.forget(runs, scratch)
    if Path(scratch).name.startswith(SCRATCH):  # the path was read from a file, which may have been edited
        with suppress(OSError):  # renamed first, so that for `attend` the folder is gone at once
            shutil.rmtree(Path(scratch).rename(f"{scratch}-gone"), ignore_errors=True)
