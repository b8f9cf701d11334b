"""The client: what it sends, what it shows, and what it says when something is wrong."""

import http
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve import __main__ as commands
from serve import client as clients
from serve.client import Client
from serve.errors import ServeError

ANSWER = {
    "sequences": [[1, 0], [1, 1]],
    "text": ["film", "film plot"],
    "seed": 3,
    "model": {"name": "lookalike", "version": "2", "run_id": "abc"},
}


@dataclass
class Server:
    """Answers with the given (status, body) pairs in turn and records what it is asked."""

    address: str = ""
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str | None, bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    retry_after: str | None = None
    location: str | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    facts = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            facts.paths.append(self.path)
            facts.asked.append((self.headers["Authorization"], body))
            status, answer = facts.answers.pop(0)
            self.send_response(status)
            if facts.location:
                self.send_header("Location", facts.location)
            self.send_header("Content-Length", str(len(answer)))
            if status != http.HTTPStatus.OK and facts.retry_after is not None:
                self.send_header("Retry-After", facts.retry_after)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        facts.address = f"http://127.0.0.1:{running.server_port}"
        yield facts
        running.shutdown()
        thread.join()


def test_the_exact_body_is_returned(server: Server) -> None:
    server.answers = [(200, b'{"any":  "thing"}')]
    assert Client(address=server.address).request(2, 3) == b'{"any":  "thing"}'
    assert server.asked == [(None, b'{"n": 2, "seed": 3}')]


def test_without_a_seed_none_is_sent(server: Server) -> None:
    server.answers = [(200, b"{}")]
    Client(address=server.address, token="t").request(2)
    assert server.asked == [("Bearer t", b'{"n": 2}')]


def test_neither_a_proxy_nor_a_netrc_of_the_user_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.answers = [(200, b"{}")]
    assert Client(address=server.address).request(1) == b"{}"
    assert server.asked == [(None, b'{"n": 1}')]


def test_options_that_were_chosen_are_sent(server: Server) -> None:
    server.answers = [(200, b"{}")]
    Client(address=server.address).request(1, temperature=0.5, label=None)
    assert server.asked == [(None, b'{"n": 1, "temperature": 0.5}')]


@pytest.mark.parametrize("retry_after", [None, "0"])  # without from TorchServe, with from a stopping worker
def test_a_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch, retry_after: str | None) -> None:
    monkeypatch.setattr(clients, "RETRY", clients.RETRY.new(backoff_factor=0))
    server.retry_after = retry_after
    server.answers = [(503, b""), (503, b""), (200, b"{}")]
    assert Client(address=server.address).request(1) == b"{}"


@pytest.mark.parametrize("status", [500, 507])  # which of them is a matter of chance, and 500 if it was not killed
def test_a_server_whose_worker_died_is_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(clients, "RETRY", clients.RETRY.new(backoff_factor=0))
    server.answers = [(status, b'{"code": %d, "message": "Worker died."}' % status), (200, b"{}")]
    assert Client(address=server.address).request(1) == b"{}"


def test_no_server_has_the_client_sleep_for_hours(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    server.retry_after = "21600"
    server.answers = [(503, b""), (200, b"{}")]
    assert Client(address=server.address).request(1) == b"{}"
    assert pauses == [10]


@pytest.mark.parametrize("status", [413, 429])
def test_a_refusal_is_told_at_once_though_it_says_when_to_come_again(server: Server, status: int) -> None:
    server.retry_after = "0"
    server.answers = [(status, b'{"error": {"field": "n", "message": "is too much"}}'), (200, b"{}")]
    with pytest.raises(ServeError, match=f"refused with {status}: n is too much"):
        Client(address=server.address).request(1)
    assert len(server.asked) == 1


def test_a_redirect_is_told_and_not_followed_without_the_request(server: Server) -> None:
    server.answers, server.location = [(301, b"")], "https://elsewhere/predictions/lookalike"
    with pytest.raises(ServeError, match="redirects to https://elsewhere/predictions/lookalike; use that address"):
        Client(address=server.address).request(3, 1)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_a_broken_connection_is_not_taken_for_no_server(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(Client(address=f"http://127.0.0.1:{listening.getsockname()[1]}").request, 1)
        connection, _ = listening.accept()
        connection.recv(2**16)
        connection.sendall(sent)
        connection.close()
        with pytest.raises(ServeError, match="closed the connection"):
            asked.result()


def test_a_server_that_stays_busy_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RETRY", clients.RETRY.new(backoff_factor=0))
    server.answers = [(503, b'{"message": "queue is full"}')] * 5
    with pytest.raises(ServeError, match="refused with 503: queue is full"):
        Client(address=server.address).request(1)
    assert not server.answers


def test_a_slow_server_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        port = silent.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port} gave no answer within 0.2 seconds"):
            Client(address=f"http://127.0.0.1:{port}").request(1)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_the_client_and_the_proxy_wait_for_longer_than_the_server() -> None:
    here = Path(clients.__file__).parent
    gives_up = yaml.safe_load((here / "model-config.yaml").read_text())["responseTimeout"]
    (proxy,) = re.findall(r"proxy_read_timeout (\d+)s;", (here / "nginx.conf").read_text())
    assert min(clients.ANSWER_SECONDS, int(proxy)) > gives_up


def test_a_server_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(
        ServeError, match=f"nothing answers at http://127.0.0.1:{port}; if none is just starting, start .*make serve"
    ):
        Client(address=f"http://127.0.0.1:{port}").request(1)
    assert not any(pauses)


def test_a_refusal_names_the_field(server: Server) -> None:
    server.answers = [(413, b'{"error": {"field": "n", "message": "must be at most 5"}}')]
    with pytest.raises(ServeError, match="413: n must be at most 5"):
        Client(address=server.address).request(10)


UNAUTHORIZED = {
    400: b'{"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed. Token either ..."}',
    401: b'{"error": {"field": "token", "message": "needs the server\'s token"}}',
}


@pytest.mark.parametrize("status", UNAUTHORIZED)
@pytest.mark.parametrize(("token", "fault"), [(None, "needs a token: "), ("old", "refuses this token, ")])
def test_a_server_with_tokens_is_told_from_one_that_refuses(
    server: Server, status: int, token: str | None, fault: str
) -> None:
    server.answers = [(status, UNAUTHORIZED[status])]
    with pytest.raises(ServeError, match=f"^{server.address} {fault}.*--token"):
        Client(address=server.address, token=token).request(1)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error": 1}', b"[" * 100_000])
def test_a_body_without_explanation_is_no_problem(body: bytes) -> None:
    assert clients.explain(body) == "no explanation"


def test_people_see_a_line_for_each_sequence() -> None:
    shown = clients.show(json.dumps(ANSWER).encode()).splitlines()
    assert shown == ["10  film", "11  film plot", "(seed 3, lookalike version 2, MLflow run abc)"]
    tokens = clients.show(json.dumps(ANSWER | {"sequences": [[1, 0], [1, 12]]}).encode()).splitlines()
    assert tokens[:2] == ["film", "film plot"]
    classes = clients.show(json.dumps(ANSWER | {"labels": ["good", "bad"]}).encode()).splitlines()
    assert classes[:2] == ["good  10  film", "bad  11  film plot"]
    empty = clients.show(json.dumps(ANSWER | {"sequences": [[1, 0, 0]], "text": [""]}).encode()).splitlines()
    assert empty[0] == "", "an empty text: only its end was drawn"
    absent = clients.show(json.dumps(ANSWER | {"sequences": [[0, 0]], "text": [""]}).encode()).splitlines()
    assert absent[0] == "00", "no word is present"
    bare = {name: value for name, value in ANSWER.items() if name != "text"}
    assert clients.show(json.dumps(bare).encode()).splitlines()[:2] == ["10", "11"]


@pytest.mark.parametrize(
    "part",
    [
        {"text": ["\x1b]0;owned\x07", "b"]},
        {"seed": "\x1b["},
        {"model": {"name": "\x1b", "version": "\x1b", "run_id": "\x1b"}},
    ],
)
def test_no_answer_steers_the_terminal(part: dict[str, Any]) -> None:
    assert "\x1b" not in clients.show(json.dumps(ANSWER | part).encode())


@pytest.mark.parametrize("body", [{"error": {"field": "\x1b", "message": "\x1b["}}, {"message": "\x1b["}])
def test_no_refusal_steers_the_terminal(body: dict[str, Any]) -> None:
    assert "\x1b" not in clients.explain(json.dumps(body).encode())


def test_half_a_character_can_be_printed() -> None:
    clients.show(json.dumps(ANSWER | {"text": ["\ud800", "b"]}).encode()).encode()


@pytest.mark.parametrize("address", ["http://a..b", f"http://{'a' * 64}", "http://[", "http://a:99999"])
def test_an_address_that_none_can_have_is_one_line(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert commands.main(["request", "--address", address]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {address}: ")


@pytest.mark.parametrize(
    "options",
    [["request", "--temperature"], ["start", "--wait-seconds"], ["stop", "--grace-seconds"], ["bench", "--seconds"]],
)
def test_no_number_is_out_of_every_range(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert commands.main([*options, "nan"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"Error: Invalid value for '{options[1]}'")
    assert told.endswith(": nan is not a number.\n")


@pytest.mark.parametrize("option", ["tokens", "model-api"])
def test_a_blank_variable_switches_nothing_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """A server without tokens, on all of a machine's addresses, must be meant."""
    variable = f"LOOKALIKE_SERVE_{option.replace('-', '_').upper()}"
    monkeypatch.setenv(variable, " ")
    assert commands.main(["start", "--runs", str(tmp_path)]) == 2
    told = f"Error: Invalid value for '--{option}' (env var: '{variable}'): is blank; it must be true or false.\n"
    assert capsys.readouterr().err == told


def test_a_token_for_no_address_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["request", "--runs", str(tmp_path), "--token", "secret"]) == 2
    assert capsys.readouterr().err.startswith("Error: --token: is for --address; ")
    monkeypatch.setenv("LOOKALIKE_SERVE_TOKEN", "of another server, and exported for all commands")
    assert commands.main(["request", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("Error: no server is running here")


def test_a_token_that_no_header_can_hold_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["request", "--address", "http://127.0.0.1:1", "--token", "ünï"]) == 2
    assert capsys.readouterr().err == "Error: --token: may hold only ASCII characters\n"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:8080", "localhost:8080", "ftp://127.0.0.1"])
def test_an_address_without_its_scheme_is_told(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert commands.main(["request", "--address", address]) == 2
    assert capsys.readouterr().err == f"Error: --address {address}: must start with http:// or https://\n"


@pytest.mark.parametrize("body", [b"<html>hi</html>", b"[]", b'{"any": "thing"}', b"[" * 100_000])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_answer_of_something_else_is_told(
    server: Server, capsys: pytest.CaptureFixture[str], body: bytes, form: list[str]
) -> None:
    server.answers = [(200, body)]
    assert commands.main(["request", "--address", server.address, *form]) == 1
    assert capsys.readouterr() == ("", "Error: what answers there is not a Lookalike server\n")


@pytest.mark.parametrize("path", ["", "/", "/predictions/lookalike", "/predictions/lookalike/"])
def test_an_address_may_be_the_one_that_start_prints(server: Server, path: str) -> None:
    server.answers = [(200, json.dumps(ANSWER).encode())]
    assert commands.main(["request", "--address", server.address + path, "--n", "2"]) == 0
    assert server.paths == ["/predictions/lookalike"]


def test_a_server_without_tls_is_told_as_such(server: Server) -> None:
    address = server.address.replace("http:", "https:")
    with pytest.raises(ServeError, match=f"^{address}: no TLS connection "):
        Client(address=address).request(1)


def test_what_the_command_is_given_reaches_the_server(server: Server) -> None:
    server.answers = [(200, json.dumps(ANSWER).encode())]
    options = ["--seed", "3", "--temperature", "0.5", "--candidates", "2", "--label", "calm", "--token", "secret"]
    assert commands.main(["request", "--address", server.address, "-n", "2", *options]) == 0
    ((token, body),) = server.asked
    assert token == "Bearer secret"
    assert json.loads(body) == {"n": 2, "seed": 3, "temperature": 0.5, "candidates": 2, "label": "calm"}
