"""The example serve/nginx.conf in a real nginx on loopback, in front of TorchServe or a server of the test's own."""

import http.server
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from serve import archive
from serve.client import Client
from serve.errors import ServeError
from tests.integration.serve.running import Served, conform
from tests.ports import free_port

HEADERS = {"Content-Type": "application/json"}
ELSEWHERE = [
    *("/", "/ping", "/models", "/models/lookalike", "/workflows", "/metrics", "/api-description", "/wfpredict/x"),
    *("/predictions", "/predictions/noop", "/predictions/lookalike/1/x"),
    *("/predictions/lookalike%0a", "/predictions/lookalike/1%0a"),
    *("/predictions/lookalike/../../models", "/predictions/lookalike%2f..%2f..%2fmodels"),
]
AROUND = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/lookalike.conf;
}}
"""


class Session(requests.Session):
    """Sends requests to one nginx, and trusts only its certificate."""

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(certificate)
        self.base = f"https://127.0.0.1:{port}"

    def ask(self, path: str = "/predictions/lookalike", **arguments: object) -> requests.Response:
        return self.request("POST", self.base + path, timeout=30, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("nginx") or not shutil.which("openssl"):
        pytest.skip("nginx and openssl are needed to test serve/nginx.conf (Debian: apt install nginx-light openssl)")
    folder = tmp_path_factory.mktemp("certificate")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 1 -subj /CN=localhost"
    )
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "certificate.pem"


@pytest.fixture
def proxy(certificate: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Starts nginx in front of a port; a test can replace parts of the example's text."""
    with ExitStack() as running:

        def start(upstream: int, **other: str) -> Session:
            port = free_port()
            changes = {
                "listen 443": f"listen 127.0.0.1:{port}",
                "127.0.0.1:8080": f"127.0.0.1:{upstream}",
                "/etc/lookalike/certificate.pem": str(certificate),
                "/etc/lookalike/key.pem": str(certificate.with_name("key.pem")),
            }
            example = (archive.HERE / "nginx.conf").read_text()
            for old, new in (changes | other).items():
                assert old in example
                example = example.replace(old, new)
            (tmp_path / "lookalike.conf").write_text(example)
            (tmp_path / "nginx.conf").write_text(AROUND.format(folder=tmp_path))
            running.enter_context(_nginx(tmp_path, port))
            return running.enter_context(Session(port, certificate))

        yield start


@contextmanager
def _nginx(folder: Path, port: int) -> Iterator[None]:
    command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 30
            while not _listens(port):
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
            yield
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        requests.get(f"http://127.0.0.1:{port}", timeout=1)
    except requests.ConnectionError:
        return False
    return True


def test_predictions_come_through_tls_as_they_are(
    served: Served, proxy: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = proxy(served.settings.port)
    asked = {"n": 5, "seed": 1}
    direct = requests.post(served.url, json=asked, timeout=30)
    assert session.ask(json=asked).content == direct.content
    assert session.ask("/predictions/lookalike/1", json=asked).content == direct.content
    assert session.ask("/predictions/lookalike?n=9", json=asked).content == direct.content
    assert session.ask(json=asked, headers={"Accept": "application/x-npy"}).headers["X-Lookalike-Seed"] == "1"
    assert len(session.ask().json()["sequences"]) == 1
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(session.verify))
    assert Client(address=session.base).request(5, 1) == direct.content
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ServeError, match="if the authority is your own, name its certificate: REQUESTS_CA_BUNDLE"):
        Client(address=session.base).request(5, 1)
    plain = requests.post(session.base.replace("https", "http"), json=asked, timeout=30)
    assert plain.status_code == 400, "nothing is answered without TLS"


@pytest.mark.parametrize(
    ("arguments", "status", "field"),
    [
        ({"json": {"n": 0}}, 400, "n"),
        ({"json": {"n": 10**9}}, 413, "n"),
        ({"data": b"n=%zz", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415, "Content-Type"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 415, "Content-Type"),
        ({"files": {"body": b"{}"}}, 415, "Content-Type"),
        ({"data": b"{}", "headers": {"Content-Type": "application/jsonx"}}, 415, "Content-Type"),
        ({"data": b" " * 70_000, "headers": HEADERS}, 413, "body"),
    ],
)
def test_mistakes_are_refused_in_one_form(
    served: Served, proxy: Callable[..., Session], arguments: dict[str, object], status: int, field: str
) -> None:
    answer = proxy(served.settings.port).ask(**arguments)
    conform("Error", answer.json())
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert "Retry-After" not in answer.headers


def test_nothing_but_predictions_gets_through(served: Served, proxy: Callable[..., Session]) -> None:
    session = proxy(served.settings.port)
    for path in ELSEWHERE:
        prepared = session.prepare_request(requests.Request("POST", session.base, json={}))
        prepared.url = session.base + path  # set afterwards: requests would resolve the dots
        answer = session.send(prepared, timeout=30)
        assert (answer.status_code, answer.json()["error"]["field"]) == (404, "path"), path
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = session.request(method, session.base + "/predictions/lookalike", timeout=30)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_a_full_queue_is_answered_with_retry_after(served: Served, proxy: Callable[..., Session]) -> None:
    session = proxy(served.settings.port, **{"rate=50r/s": "rate=9000r/s", "burst=100": "burst=9000"})

    workers = psutil.Process(served.state.pid).children(recursive=True)

    def ask(_: int) -> tuple[int, str | None]:
        answer = requests.post(
            f"{session.base}/predictions/lookalike", json={"n": 1}, verify=str(session.verify), timeout=60
        )
        if answer.status_code == 503:
            resume()
        return answer.status_code, answer.headers.get("Retry-After")

    def resume() -> None:
        for worker in workers:
            worker.resume()

    for worker in workers:
        worker.suspend()
    try:
        with ThreadPoolExecutor(400) as pool:
            answers = Counter(pool.map(ask, range(400)))
    finally:
        resume()
    assert set(answers) == {(200, None), (503, "1")}, answers


@contextmanager
def upstream(status: int, **headers: str) -> Iterator[tuple[int, list[str | None]]]:
    """A server that always answers with this status and these headers; yields its port and the tokens sent to it."""
    tokens: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            tokens.append(self.headers["Authorization"])
            self.send_response(status)
            for name, value in {"Content-Length": "2", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_port, tokens
        running.shutdown()
        thread.join()


def test_the_token_goes_with_the_request(proxy: Callable[..., Session]) -> None:
    with upstream(200) as (port, tokens):
        assert proxy(port).ask(json={}, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert tokens == ["Bearer secret"]


@pytest.mark.parametrize("sent", [{}, {"Retry_After": "7"}])
def test_a_busy_server_says_when_to_come_again_just_once(proxy: Callable[..., Session], sent: dict[str, str]) -> None:
    with upstream(503, **sent) as (port, _):
        assert proxy(port).ask(json={}).headers["Retry-After"] == "1"


def test_a_server_that_is_gone_is_a_503(proxy: Callable[..., Session]) -> None:
    answer = proxy(free_port()).ask(json={})
    conform("Error", answer.json())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_slow_answer_is_given_up_and_not_to_be_asked_for_again(proxy: Callable[..., Session]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = proxy(silent.getsockname()[1], **{"proxy_read_timeout 610s": "proxy_read_timeout 1s"}).ask(json={})
    conform("Error", answer.json())
    assert (answer.status_code, answer.json()["error"]["field"]) == (504, "server")
    assert "Retry-After" not in answer.headers, "the work may still go on"


def test_a_client_that_is_too_fast_is_slowed_down(proxy: Callable[..., Session]) -> None:
    with upstream(200) as (port, _):
        session = proxy(port, **{"rate=50r/s": "rate=1r/s", "burst=100": "burst=5"})
        answers = [session.ask(json={}) for _ in range(20)]
    refused = next(answer for answer in answers if answer.status_code != 200)
    conform("Error", refused.json())
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert answers.index(refused) >= 5
