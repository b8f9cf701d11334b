"""Wait until clients have received the answers that were written to their sockets.

When it ends, TorchServe resets its connections, which discards data that a client has not received. Only Linux shows
how much is still unsent.
"""

import time
from pathlib import Path

QUIET_SECONDS = 0.3  # how long nothing may be unsent: the frontend takes a moment to pass on a worker's last answer
REFUSAL_BYTES = 4096  # at most this is ignored: during a stop, refusals are always on their way to some client
POLL_SECONDS = 0.01
TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def flush(port: int, deadline: float) -> bool:
    """Wait until the clients of a port have received their answers; False if that is not before the deadline.

    Clients with unsent data at the beginning are waited for to the last byte; later ones only while more than a refusal
    is unsent.
    """
    owing = {client for client, unsent in _unsent_bytes(port).items() if unsent}
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        unsent = _unsent_bytes(port)
        owing = {client for client in owing if unsent.get(client)}
        if owing or max(unsent.values(), default=0) > REFUSAL_BYTES:
            if time.monotonic() > deadline:
                return False
            quiet_since = time.monotonic()
        time.sleep(POLL_SECONDS)
    return True


def _unsent_bytes(port: int) -> dict[str, int]:
    """Unsent bytes for each client address of a port; empty where the system does not tell."""
    unsent = {}
    for table in TCP_TABLES:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, _, queues, *_ = line.split()
            if int(local.split(":")[1], 16) == port:
                unsent[remote] = int(queues.split(":")[0], 16)
    return unsent
