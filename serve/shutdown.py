"""End a server: let accepted requests finish, then end its processes."""

import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import requests

from serve import bearer, drain, management
from serve import state as states
from serve.errors import ServeError
from serve.flush import flush
from serve.state import State
from train import MODEL_NAME

POLL_SECONDS = 0.2
KILL_SECONDS = 10.0  # between SIGTERM and SIGKILL
SIGNATURE_SECONDS = 5.0  # within which a first worker signs, if they sign at all
KNOCKS, KNOCK_SECONDS = 8, 2.0  # a few for each of the frontend's threads (number_of_netty_threads)


def let_finish(state: State, seconds: float, tell: Callable[[str], None]) -> None:
    """Make the server refuse new requests and wait for the accepted ones; tell if some may have been cut off."""
    deadline = time.monotonic() + seconds
    try:
        answered = drain.begin(state.drain_lock, seconds)
    except OSError as problem:
        tell(f"{state.drain_lock}: {problem.strerror}: requests in progress may have been cut off")
        return
    try:
        answered = answered and _await_signatures(state, deadline)
    except (ServeError, OSError, ValueError, LookupError):
        tell("TorchServe does not answer: requests in progress may have been cut off")
    if not (flush(state.port, deadline) and answered):
        tell(f"{seconds:g} s were not enough for all accepted requests: the rest were cut off")


def _await_signatures(state: State, deadline: float) -> bool:
    """Wait until TorchServe has passed on the last answers of its workers.

    By then each worker has refused a batch, which TorchServe only sends after passing on the answers to the one before,
    and each thread of the frontend has written a later answer. Workers of archives that an older version exported do
    not sign: the wait for them is short.

    Returns:
        False if that did not happen before the deadline.

    Raises:
        ServeError: the management API does not answer, or refuses.
    """
    unsigned_until = time.monotonic() + SIGNATURE_SECONDS
    patience = max(1.0, deadline - time.monotonic())  # do not wait for a hanging TorchServe beyond the grace period
    described = management.ask(state, "GET", f"/models/{MODEL_NAME}/all", patience)
    ready = {  # the others have taken no batch, and a version without any would let each knock wait
        version["modelVersion"]: {
            int(worker["pid"]) for worker in version["workers"] if management.readiness(worker) == "READY"
        }
        for version in described
    }
    for version, workers in ready.items():
        while any(map(psutil.pid_exists, workers - (signed := drain.signed(state.drain_lock)))):
            if not signed and time.monotonic() > unsigned_until:
                break
            if time.monotonic() > deadline:
                return False
            _knock(state, version)
    answering = [version for version, workers in ready.items() if workers]
    for version in answering[:1] * KNOCKS:
        if time.monotonic() > deadline:
            return False
        _knock(state, version)
    return True


def _knock(state: State, version: str) -> None:
    """Send a request to be refused, on a new connection: TorchServe assigns those to its threads in turn."""
    with requests.Session() as session, suppress(requests.RequestException):
        session.trust_env = False
        session.post(
            f"{state.address}/predictions/{MODEL_NAME}/{version}",
            headers=bearer.header(management.inference_token(state)),
            timeout=KNOCK_SECONDS,
        )


def end(state: State) -> None:
    """End the server's processes.

    Raises:
        ServeError: they belong to another user.
    """
    process = states.process(state)
    if process is None:
        return
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
        for survivor in _await_end(family):
            with suppress(psutil.NoSuchProcess):  # it has ended since, but the others may not have
                survivor.kill()
        _await_end(family)
    except psutil.NoSuchProcess:
        pass  # ended by another stop
    except psutil.AccessDenied as problem:
        raise ServeError(
            f"the server (process {process.pid}) belongs to another user; only they can stop it"
        ) from problem


def _await_end(family: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end and return those that did not. A zombie counts as ended."""
    deadline = time.monotonic() + KILL_SECONDS
    while (alive := [process for process in family if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
