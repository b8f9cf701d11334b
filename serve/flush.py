"""Wait until answers that have been written have also reached their clients.

TorchServe ends its connections by a reset, which drops what a client has not taken yet. Only Linux shows what that is.
"""

import time
from pathlib import Path

QUIET_SECONDS = 0.3  # without unsent answers; the server that passes a worker's last one on needs a moment for that
REFUSAL_BYTES = 4096  # on its way to a client there may always be a refusal, of which a stop makes ever more
POLL_SECONDS = 0.01
TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def flush(port: int, deadline: float) -> bool:
    """Wait until the clients of a port have taken their answers; False when that took longer than the deadline.

    A client that owes a read at the beginning is waited for to the last byte; of those that come later, only what is
    larger than a refusal.
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
    """How much each client of a port, by its address, has not taken yet; nothing where the system does not tell."""
    unsent = {}
    for table in TCP_TABLES:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, _, queues, *_ = line.split()
            if int(local.split(":")[1], 16) == port:
                unsent[remote] = int(queues.split(":")[0], 16)
    return unsent
