"""Waiting until clients have taken their answers."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from serve import flush

NO_DUAL_STACK = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no sockets for both versions of IP here")


def write_table(path: Path, connections: list[tuple[int, int, int]]) -> None:
    """Write a table of TCP connections as Linux does, given (server port, client port, unsent bytes) of each."""
    line = "{}: 0100007F:{:04X} 0100007F:{:04X} 01 {:08X}:00000000 00:00000000 00000000 0 0 1054\n"
    lines = (line.format(k, *facts) for k, facts in enumerate(connections))
    path.with_suffix(".new").write_text("".join(["sl\n", *lines]))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(("unsent", "flushed"), [(flush.REFUSAL_BYTES, True), (flush.REFUSAL_BYTES + 1, False)])
def test_of_later_clients_only_answers_are_waited_for_not_the_refusals_that_never_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsent: int, flushed: bool
) -> None:
    table = tmp_path / "tcp"
    write_table(table, [(8081, 1, 10**6)])
    monkeypatch.setattr(flush, "TCP_TABLES", (table,))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(flush.flush, 8080, time.monotonic() + 3 * flush.QUIET_SECONDS)
        time.sleep(flush.QUIET_SECONDS / 3)
        write_table(table, [(8081, 1, 10**6), *((8080, client, unsent) for client in range(2, 9))])
        assert found.result() == flushed


def test_a_client_that_owes_a_read_is_waited_for_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "tcp"
    write_table(table, [(8080, 2, 1)])
    monkeypatch.setattr(flush, "TCP_TABLES", (table,))
    assert not flush.flush(8080, time.monotonic() + 2 * flush.QUIET_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(flush.flush, 8080, time.monotonic() + 60)
        time.sleep(2 * flush.QUIET_SECONDS)
        assert not found.done()
        write_table(table, [(8080, 2, 0)])
        assert found.result()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells what was not sent")
@pytest.mark.parametrize("dual", [False, pytest.param(True, marks=NO_DUAL_STACK)])  # Java's sockets are dual-stack
def test_an_answer_is_waited_for_until_its_client_has_taken_it(dual: bool) -> None:
    family, host = (socket.AF_INET6, "::ffff:127.0.0.1") if dual else (socket.AF_INET, "127.0.0.1")
    with (
        socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as listening,
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client,
        listening.accept()[0] as answering,
    ):
        port = listening.getsockname()[1]
        answering.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                answering.send(bytes(2**20))
        assert not flush.flush(port, time.monotonic() + 0.1)
        with ThreadPoolExecutor(1) as pool:
            flushed = pool.submit(flush.flush, port, time.monotonic() + 60)
            client.settimeout(flush.QUIET_SECONDS / 2)
            with suppress(TimeoutError):
                while client.recv(2**20):
                    assert not flushed.done()
            assert flushed.result()
