"""A small HTTP load generator: a fixed number of connections, each with one request under way."""

import selectors
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 1 << 20
END_OF_HEADERS = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load measured: whole answers a second, milliseconds at the median and at the 99th percentile, failures."""

    per_second: float
    p50: float
    p99: float
    failures: int


class _Connection:
    """One connection that sends one request after the other."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests

    def send(self) -> None:
        self._answer = bytearray()
        self._missing = 0
        request = next(self._requests)
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool | None:
        """Read what has come: None while the answer is incomplete, then whether it was a success."""
        chunk = self.socket.recv(CHUNK)
        if not chunk:
            raise ConnectionError("the server closed a connection")
        if self._missing:
            self._missing -= len(chunk)
        else:
            self._answer += chunk
            end = self._answer.find(END_OF_HEADERS)
            if end < 0:
                return None
            self._missing = _content_length(self._answer[:end]) - (len(self._answer) - end - len(END_OF_HEADERS))
        return None if self._missing else self._answer.startswith(b"HTTP/1.1 200")


def run(
    address: tuple[str, int], path: str, bodies: Iterator[bytes], *, connections: int, seconds: float, accept: str
) -> Load:
    """Load a server for some seconds, after a tenth of that time as warm-up. `bodies` must not end.

    Raises:
        ConnectionError: the server closes a connection.
        OSError: there is no server.
    """
    headers = f"POST {path} HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
    requests = (f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies)
    times: list[float] = []
    failures = 0
    with selectors.DefaultSelector() as selector:
        everyone = [_Connection(address, requests) for _ in range(connections)]
        for connection in everyone:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        begin = time.perf_counter() + seconds / 10
        while selector.get_map():
            for key, _ in selector.select(timeout=60):
                connection = key.data
                success = connection.receive()
                if success is None:
                    continue
                now = time.perf_counter()
                if now > begin:
                    times.append(now - connection.sent)
                    failures += not success
                if now < begin + seconds:
                    connection.send()
                else:  # answers that are under way at the end still count, and so does their time
                    selector.unregister(connection.socket)
                    connection.socket.close()
    ranks = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    whole = len(times) - failures
    return Load(per_second=whole / (now - begin), p50=ranks[49] * 1e3, p99=ranks[98] * 1e3, failures=failures)


def _content_length(headers: bytes | bytearray) -> int:
    for line in bytes(headers).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    raise ConnectionError("an answer names no length")
