"""A small HTTP load generator: a fixed number of connections, each with one request in flight."""

import math
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

CHUNK = 1 << 20
WARM_UP = 0.1  # as a fraction of the measured time, to which it is added
PATIENCE_SECONDS = 120  # a batch of the largest requests for texts takes half a minute
END_OF_HEADERS = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """The results of a load.

    Attributes:
        per_second: successful answers per second after the warm-up, summed over the connections.
        p50, p99: median and 99th percentile of the latency, in milliseconds.
        answers: all successful answers, including the warm-up.
        failures: refusals, and connections that the server closed, including the warm-up.
    """

    per_second: float
    p50: float
    p99: float
    answers: int
    failures: int


class _Connection:
    """A connection that sends one request after another."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self._address, self._requests = address, requests
        self.times: list[float] = []  # latencies after the warm-up, in seconds
        self.began, self.ended, self.whole = math.inf, 0.0, 0
        self.connect()

    def count(self, now: float, success: bool) -> None:
        """Count the outcome of a request that was sent after the warm-up."""
        self.times.append(now - self.sent)
        self.began, self.ended, self.whole = min(self.began, self.sent), now, self.whole + success

    @property
    def per_second(self) -> float:
        return self.whole / (self.ended - self.began) if self.times else 0.0

    def connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.socket.close()

    def send(self) -> None:
        self._answer = bytearray()
        self._missing = 0
        request = next(self._requests)
        self.sent = time.perf_counter()
        with suppress(ConnectionError):  # `receive` will notice
            self.socket.sendall(request)

    def receive(self) -> bool | None:
        """Read available data; None while the answer is incomplete, then whether it was a success."""
        try:
            chunk = self.socket.recv(CHUNK)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return False
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
    address: tuple[str, int],
    path: str,
    bodies: Iterator[bytes],
    *,
    connections: int,
    seconds: float,
    accept: str,
    is_over: Callable[[], bool] = lambda: False,
) -> Load:
    """Load a server for `seconds`, after a warm-up of `WARM_UP` times as long.

    Requests in flight at the end still count, and so does the time that they take. A refusal, or a connection that the
    server closes, counts as a failure; a new connection then replaces the old one.

    Args:
        bodies: request bodies; must be infinite.
        is_over: ends the load early when it returns True.

    Raises:
        OSError: the server cannot be reached, or gives no answer for `PATIENCE_SECONDS`.
    """
    headers = f"POST {path} HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
    requests = (f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies)
    answers = failures = 0
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        all_connections = [_Connection(address, requests) for _ in range(connections)]
        for connection in all_connections:
            stack.callback(connection.close)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        begin = time.perf_counter() + WARM_UP * seconds
        while selector.get_map():
            if not (ready := selector.select(timeout=PATIENCE_SECONDS)):
                raise TimeoutError(f"no answer came for {PATIENCE_SECONDS} seconds")
            for key, _ in ready:
                connection = key.data
                success = connection.receive()
                if success is None:
                    continue
                now = time.perf_counter()
                answers, failures = answers + success, failures + (not success)
                if connection.sent >= begin:
                    connection.count(now, success)
                # A connection without a counted answer goes on, so that requests longer than `seconds` count, too.
                going_on = (now < begin + seconds or (success and not connection.times)) and not is_over()
                if going_on and success:
                    connection.send()
                    continue
                selector.unregister(connection.socket)
                connection.close()
                if going_on:  # TorchServe closes the connection after a refusal
                    connection.connect()
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                    connection.send()
    ranks = percentiles([each for connection in all_connections for each in connection.times])
    return Load(
        per_second=sum(connection.per_second for connection in all_connections),
        p50=ranks[49] * 1e3,
        p99=ranks[98] * 1e3,
        answers=answers,
        failures=failures,
    )


def percentiles(times: Sequence[float]) -> Sequence[float]:
    """The 1st to the 99th percentile, within the range of the times; NaN if there are none."""
    if len(times) < 2:
        return (list(times) or [math.nan]) * 99
    return statistics.quantiles(times, n=100, method="inclusive")


def _content_length(headers: bytes | bytearray) -> int:
    for line in bytes(headers).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    raise ConnectionError("an answer names no length")
