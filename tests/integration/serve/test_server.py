"""Serving with the real TorchServe: predictions, mistakes, safety, versions, refusals, stopping."""

import dataclasses
import io
import itertools
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import requests

from serve import archive, load, management, models, server
from serve import state as states
from serve.errors import ServeError, UsageError
from serve.launch import Settings
from tests.integration.serve.running import Served, conform, make_rated_run, make_run, settings_for
from tests.ports import free_port, free_ports
from tests.rated import CLASSES
from train import artifact

Command = Callable[..., subprocess.CompletedProcess[str]]
HEADERS = {"Content-Type": "application/json"}
# Importing MLflow leaves files open, so it is kept out of this process.
REGISTER = """
import sys, mlflow
from pathlib import Path
import train
mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.log_model(
    name="model", python_model=str(Path(train.__file__).parent / "mlflow_model.py"),
    artifacts={"artifact": sys.argv[2]}, registered_model_name="lookalike", pip_requirements=[],
)
mlflow.MlflowClient().set_registered_model_alias("lookalike", "champion", 1)
print("version 4")
"""
FIND = """
import json, sys
from pathlib import Path
from serve import archive, models
with models.located(Path(sys.argv[1]), sys.argv[2]) as artifact:
    print("version", json.loads((artifact / "card.json").read_text())["version"])
"""


def post(served: Served, fields: dict[str, Any], **headers: str) -> requests.Response:
    return requests.post(served.url, json=fields, headers=headers, timeout=30)


def test_a_prediction_is_what_the_artifact_makes(served: Served) -> None:
    answer = post(served, {"n": 5, "seed": 1})
    body = answer.json()
    conform("Response", body)
    original = artifact.load(served.settings.runs / "00001-reviews" / "artifact")
    assert answer.headers["content-type"] == "application/json"
    assert body["sequences"] == original.sample(5, 1).tolist()
    assert body["text"] == original.codec.decode(original.sample(5, 1))
    assert body["seed"] == 1
    assert body["model"] == {"name": "lookalike", "version": "1", "run_id": "run1"}


def test_a_seed_gives_the_same_bytes_alone_and_among_others_on_any_worker(served: Served) -> None:
    def ask(seed: int) -> bytes:
        return post(served, {"n": 1 + seed % 7, "seed": seed}).content

    alone = [ask(seed) for seed in range(40)]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            assert list(pool.map(ask, range(40))) == alone


def test_answers_without_a_seed_differ_and_their_seeds_give_them_again(served: Served) -> None:
    sizes = [n for n in (1, 4, 100) for _ in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: post(served, {"n": n}), sizes))
        seeds = [answer.json()["seed"] for answer in answers]
        again = pool.map(lambda n, seed: post(served, {"n": n, "seed": seed}), sizes, seeds)
        assert [answer.content for answer in again] == [answer.content for answer in answers]
    assert len(set(seeds)) == len(seeds)
    assert [len(answer.json()["sequences"]) for answer in answers] == sizes


def test_npy(served: Served) -> None:
    answer = post(served, {"n": 6, "seed": 2, "format": "npy"})
    by_header = post(served, {"n": 6, "seed": 2}, Accept="application/x-npy")
    assert answer.content == by_header.content
    assert answer.headers["content-type"] == "application/x-npy"
    assert answer.headers["X-Lookalike-Seed"] == "2"
    assert np.load(io.BytesIO(answer.content)).tolist() == post(served, {"n": 6, "seed": 2}).json()["sequences"]


def test_the_largest_answer_arrives(served: Served) -> None:
    refused = post(served, {"n": 10**9})
    limit = int(refused.json()["error"]["message"].split()[4])
    answer = post(served, {"n": limit, "seed": 0})
    assert refused.status_code == 413
    assert len(answer.json()["sequences"]) == limit
    assert len(answer.content) < 6_553_500


@pytest.mark.parametrize(
    ("data", "headers", "status", "field"),
    [
        (b'{"n": 0}', HEADERS, 400, "n"),
        (b'{"n": true}', HEADERS, 400, "n"),
        (b'{"n": 1e400}', HEADERS, 400, "n"),
        (b'{"n": NaN}', HEADERS, 400, "n"),
        (b'{"seed": -1}', HEADERS, 400, "seed"),
        (b'{"format": "xml"}', HEADERS, 400, "format"),
        (b'{"m": 5}', HEADERS, 400, "m"),
        (b'{"n": ', HEADERS, 400, "body"),
        (b"\xff\xfe", HEADERS, 400, "body"),
        (b"[" * 60_000, HEADERS, 400, "body"),
        (b'{"n": ' + b"9" * 60_000 + b"}", HEADERS, 400, "body"),
        (b"[]", HEADERS, 400, "body"),
        (b'{"n": 5}', {}, None, None),
        (b'{"n": 5}', {"Content-Type": "text/plain"}, 415, "Content-Type"),
        (b"n=5&seed=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        (b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "Content-Type"),
        (b"{}", HEADERS | {"Accept": "text/html"}, 406, "Accept"),
    ],
)
def test_a_mistake_gets_its_status_and_field(
    served: Served, data: bytes, headers: dict[str, str], status: int | None, field: str | None
) -> None:
    answer = requests.post(served.url, data=data, headers=headers, timeout=30)
    assert answer.status_code == (status or 200), answer.text
    if field:
        conform("Error", answer.json())
        assert answer.json()["error"]["field"] == field


def test_a_form_without_fields_asks_for_one_sequence(served: Served) -> None:
    assert len(requests.post(served.url, timeout=30).json()["sequences"]) == 1
    assert len(requests.get(served.url, timeout=30).json()["sequences"]) == 1


def test_no_web_page_may_read_an_answer(served: Served) -> None:
    answer = requests.get(served.url, headers={"Origin": "https://elsewhere.example"}, timeout=30)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_body_that_is_too_long_is_refused(served: Served) -> None:
    answer = requests.post(served.url, data=b" " * 200_000, headers=HEADERS, timeout=30)
    assert (answer.status_code, answer.content) == (413, b"")


def test_an_unknown_version_is_refused(served: Served) -> None:
    answer = requests.post(f"{served.url}/77", json={}, timeout=30)
    assert answer.status_code == 404
    conform("ServerError", answer.json())


def test_torchserve_itself_answers_what_it_does_not_understand(served: Served) -> None:
    """As serve/README.md and openapi.json say."""
    connection = HTTPConnection(served.state.host, served.state.port, timeout=30)  # requests would correct the path
    connection.request("POST", "/predictions/lookalike/%zz")
    unreadable = connection.getresponse()
    conform("ServerError", json.loads(unreadable.read()))
    connection.close()
    assert unreadable.status == 403
    unexpected = requests.post(served.url, data=b"{}", headers=HEADERS | {"Expect": "miracles"}, timeout=30)
    assert (unexpected.status_code, unexpected.content) == (417, b"")
    assert requests.post(f"{served.state.address}/", timeout=30).status_code == 405


def test_predictions_have_other_addresses_and_methods(served: Served) -> None:
    asked = [("PUT", "predictions/lookalike"), ("DELETE", "predictions/lookalike"), ("GET", "invocations")]
    asked += [("POST", "explanations/lookalike"), ("POST", "models/lookalike/invoke")]
    asked += [("POST", "v1/models/lookalike:predict"), ("POST", "v2/models/lookalike/infer")]
    for method, path in asked:
        answer = requests.request(method, f"{served.state.address}/{path}", timeout=30)
        conform("Response", answer.json())


def test_mistakes_harm_no_neighbour(served: Served) -> None:
    good = post(served, {"n": 3, "seed": 3}).content

    def ask(k: int) -> tuple[int, bytes]:
        answer = post(served, {"n": 3, "seed": 3} if k % 2 else {"n": "three"})
        return answer.status_code, answer.content

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert {status for status, _ in answers[::2]} == {400}
    assert set(answers[1::2]) == {(200, good)}


def test_management_is_not_reachable_over_the_network(served: Served) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(served.state.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    for port in (served.state.port, served.state.metrics_port):
        for path in ("models", "workflows", "models/lookalike"):
            assert requests.get(f"http://127.0.0.1:{port}/{path}", timeout=30).status_code in (404, 405)
            assert requests.post(f"http://127.0.0.1:{port}/{path}", timeout=30).status_code in (404, 405)
    assert stat.S_IMODE(Path(served.state.scratch).stat().st_mode) == 0o700
    assert stat.S_ISSOCK(served.state.management_socket.stat().st_mode)


@pytest.mark.parametrize("target", ["/models?url=http://127.0.0.1:9/x.mar", "/workflows?url=http://127.0.0.1:9/x.war"])
def test_nothing_is_fetched_even_by_the_owner(served: Served, target: str) -> None:
    with pytest.raises(ServeError, match="does not match any allowed URL"):
        management.ask(served.state, "POST", target)


def test_workers_see_a_filtered_environment(served: Served) -> None:
    workers = psutil.Process(served.state.pid).children(recursive=True)
    assert len(workers) == 2
    for worker in workers:
        names = set(worker.environ())
        assert not [name for name in names if "PYTEST" in name or "MLFLOW" in name or "SECRET" in name]
        assert worker.exe() == psutil.Process().exe()


def test_logs_hold_no_bodies(served: Served) -> None:
    post(served, {"n": 1, "confidential": 1})
    requests.post(served.url, data=b'{"confidential', headers=HEADERS, timeout=30)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert requests.post(served.url, data=b"a=%zzconfidential", headers=form, timeout=30).status_code == 500
    for log in (served.settings.runs / "serve" / "logs").iterdir():
        assert "confidential" not in log.read_text()


def test_status_and_request_commands(served: Served, command: Command, tmp_path: Path) -> None:
    runs = served.settings.runs
    found = json.loads(command("status", "--runs", runs, "--json").stdout)
    assert found["address"] == served.state.address
    (version,) = (version for version in found["versions"] if version["version"] == "1")
    assert version["run_id"] == "run1"
    assert [worker["status"] for worker in version["workers"]] == ["READY", "READY"]
    body = command("request", "--runs", runs, "-n", 4, "--seed", 9, "--json", cwd=tmp_path.parent).stdout
    assert body == post(served, {"n": 4, "seed": 9}).text + "\n"
    lines = command("request", "--runs", runs, "-n", 4, "--seed", 9).stdout.splitlines()
    assert lines[0].split("  ")[0] == "".join(map(str, json.loads(body)["sequences"][0]))
    assert lines[-1] == "(seed 9, lookalike version 1, MLflow run run1)"


def test_starting_twice_says_so(served: Served) -> None:
    told: list[str] = []
    assert server.start(served.settings, told.append) == served.state
    assert "already runs" in told[0]


def test_versions_are_switched_and_switched_back(served: Served) -> None:
    runs = served.settings.runs
    other = make_run(runs, 2)
    first = post(served, {"n": 5, "seed": 1}).content
    assert server.use(runs, "2") == "2", "by the number of its run"
    second = post(served, {"n": 5, "seed": 1})
    assert second.json()["model"]["version"] == "2"
    assert second.json()["sequences"] == artifact.load(other / "artifact").sample(5, 1).tolist()
    assert requests.post(f"{served.url}/1", json={"n": 5, "seed": 1}, timeout=30).content == first
    assert server.use(runs, "1") == "1"
    assert post(served, {"n": 5, "seed": 1}).content == first
    assert server.use(runs, str(other)) == "2", "by its path"
    assert server.use(runs, "1") == "1"
    with pytest.raises(UsageError, match="no version"):
        server.use(runs, "3")


def test_a_model_with_classes_names_those_of_its_rows(served: Served, tmp_path: Path) -> None:
    run = make_rated_run(tmp_path, 5)
    made = artifact.load(run / "artifact")
    assert server.use(served.settings.runs, str(run)) == "5"
    try:
        answer = post(served, {"n": 30, "seed": 1}).json()
        conform("Response", answer)
        assert {name: answer[name] for name in ("text", "labels")} == made.readings(made.sample_labelled(30, 1))
        assert set(answer["labels"]) == set(CLASSES)
        assert post(served, {"n": 4, "seed": 1, "label": CLASSES[0]}).json()["labels"] == [CLASSES[0]] * 4
        drawn = post(served, {"n": 3}).json()
        assert post(served, {"n": 3, "seed": drawn["seed"]}).json() == drawn
        codes = np.load(io.BytesIO(post(served, {"n": 30, "seed": 1, "format": "npy"}).content))
        assert codes.tolist() == answer["sequences"]
    finally:
        server.use(served.settings.runs, "1")


def test_a_version_whose_workers_do_not_start_never_answers(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, 7)
    for package in (archive.HERE, archive.HERE.parent / "train"):
        shutil.copytree(package, tmp_path / package.name)
    (tmp_path / "serve" / "handler.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.setattr(archive, "HERE", tmp_path / "serve")
    for _ in range(2):
        with pytest.raises(ServeError, match="refused POST"):
            server.use(served.settings.runs, str(tmp_path / "00007-reviews" / "artifact"))
        assert post(served, {"n": 1}).json()["model"]["version"] == "1"
    found = server.status(served.settings.runs)
    assert found
    assert "7" not in [version["version"] for version in found["versions"]]


def test_a_loaded_version_does_not_change_under_the_server(served: Served, tmp_path: Path) -> None:
    make_run(tmp_path, 3)
    impostor = tmp_path / "impostor"
    shutil.copytree(tmp_path / "00003-reviews" / "artifact", impostor)
    card = json.loads((impostor / "card.json").read_text()) | {"version": "1"}
    (impostor / "card.json").write_text(json.dumps(card))
    with pytest.raises(ServeError, match="another model with version 1"):
        server.use(served.settings.runs, str(impostor))


def test_a_model_comes_from_the_registry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no registry"), models.located(tmp_path, "models:/lookalike@champion"):
        pass
    artifact_directory = make_run(tmp_path, 4) / "artifact"
    elsewhere = tmp_path / "elsewhere"  # among the runs, MLflow would find their registry by itself
    elsewhere.mkdir()
    for code, arguments in (
        (REGISTER, [f"sqlite:///{tmp_path}/mlflow.db", artifact_directory]),
        (FIND, [tmp_path, "models:/lookalike@champion"]),
        (FIND, [tmp_path, "models:/lookalike/1"]),
    ):
        call = [sys.executable, "-c", code, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(Path(server.__file__).parents[1])}
        done = subprocess.run(call, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("version 4\n")


def test_a_worker_that_is_killed_is_replaced(served: Served) -> None:
    victim = psutil.Process(served.state.pid).children(recursive=True)[0]
    victim.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        version = next(v for v in (server.status(served.settings.runs) or {})["versions"] if v["default"])
        workers = psutil.Process(served.state.pid).children(recursive=True)
        if victim.pid not in [w.pid for w in workers] and {w["status"] for w in version["workers"]} == {"READY"}:
            break
        time.sleep(0.5)
    else:
        pytest.fail("no worker took its place")
    assert post(served, {"n": 5, "seed": 1}).status_code == 200


def metrics_of(served: Served) -> dict[str, float]:
    """Prometheus metrics by name, summed over their labels."""
    lines = requests.get(f"http://127.0.0.1:{served.state.metrics_port}/metrics", timeout=30).text.splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        if not line.startswith("#"):
            labels, value = line.rsplit(" ", 1)
            found[labels.split("{")[0]] += float(value)
    return dict(found)


def test_prometheus_sees_sequences_refusals_and_drift(served: Served) -> None:
    post(served, {"n": 1, "seed": 1})
    before = _when_told(served, lambda told: "lookalike_sequences_total" in told)
    expected = {
        "lookalike_sequences_total": before["lookalike_sequences_total"] + 500,
        "lookalike_requests_total": before["lookalike_requests_total"] + 1,
        "lookalike_refusals_total": before.get("lookalike_refusals_total", 0) + 1,
    }
    post(served, {"n": 500})
    post(served, {"n": 0})

    def is_told(told: dict[str, float]) -> bool:
        return "lookalike_drift_compared" in told and all(told.get(name, 0) >= expected[name] for name in expected)

    after = _when_told(served, is_told)
    assert {name: after[name] for name in expected} == expected
    assert after["ts_inference_latency_microseconds"] > before["ts_inference_latency_microseconds"]
    assert after["lookalike_drift_compared"] > 0


def _when_told(served: Served, is_told: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The metrics once `is_told` holds and ours have stopped changing; workers report once a second."""
    deadline, last = time.monotonic() + 60, metrics_of(served)
    while time.monotonic() < deadline:
        time.sleep(1.5)
        found = metrics_of(served)
        ours = {name: value for name, value in found.items() if name.startswith("lookalike_")}
        if is_told(found) and all(last.get(name) == value for name, value in ours.items()):
            return found
        last = found
    pytest.fail(f"not told: {last}")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Settings]:
    """Settings for a new folder of runs with one model and no server; a server that a test leaves behind is stopped."""
    make_run(tmp_path, 1)
    yield settings_for(tmp_path)
    server.stop(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "weights", "code"])
def test_a_damaged_archive_is_refused_before_a_port_opens(fresh: Settings, command: Command, damage: str) -> None:
    mar = fresh.runs / "00001-reviews" / "lookalike.mar"
    content = mar.read_bytes()
    if damage == "truncated":
        mar.write_bytes(content[: len(content) // 2])
    else:
        name = {"weights": "generator.safetensors", "code": "handler.py"}[damage]
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(mar, "w") as target:
            for entry in source.namelist():
                target.writestr(entry, source.read(entry) + (b"\n" if entry == name else b""))
    done = command("start", "--runs", fresh.runs, "--port", fresh.port, "--metrics-port", fresh.metrics_port)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert str(mar) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((fresh.runs / "serve" / "model-store").iterdir())
    assert states.running(fresh.runs) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", fresh.port), timeout=1)


def test_wrong_usage_is_one_line_and_leaves_nothing_behind(command: Command, tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    make_run(tmp_path / "with", 1)
    free = free_ports(2)
    ports = ["--port", free[0], "--metrics-port", free[1]]
    with taken:
        for arguments, part in (
            (["start", "--runs", tmp_path / "none", *ports], "make train"),
            (["start", "--runs", tmp_path / "with", "--port", port], f"--port {port}"),
            (["start", "--runs", tmp_path / "with", *ports, "--grpc-port", port], f"--grpc-port {port} on 127.0.0.1"),
            (["start", "--runs", tmp_path / "with", *ports, "--grpc-port", free[0]], "--grpc-port must differ"),
            (["start", "--runs", tmp_path / "with", *ports, "--model", "nowhere"], "nowhere: neither"),
            (["start", "--runs", tmp_path / "with", *ports, "--host", "::1"], "--host"),
            (["start", "--runs", tmp_path / "with", *ports, "--metrics-port", free[0]], "--metrics-port"),
            (["start", "--workers", "0"], "--workers"),
            (["start", "--prot", "1"], "--prot"),
            (["request", "-n", "many"], "-n"),
            (["use"], "VERSION"),
        ):
            done = command(*arguments)
            assert (done.returncode, done.stdout) == (2, ""), arguments
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert part in done.stderr
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "with" / "serve").exists()


def test_without_a_server_there_is_one_line(command: Command, tmp_path: Path) -> None:
    for arguments in (["status"], ["request"], ["use", "1"], ["token"]):
        done = command(*arguments, "--runs", tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: no server")
        assert len(done.stderr.splitlines()) == 1
    port = free_port()
    done = command("request", "--address", f"http://127.0.0.1:{port}")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nothing answers" in done.stderr


def test_stop_under_load_loses_no_accepted_request_and_tokens_guard(fresh: Settings, command: Command) -> None:
    settings = Settings(**(vars(fresh) | {"tokens": True}))
    state = server.start(settings, print)
    url = f"{state.address}/predictions/lookalike"
    token = command("token", "--runs", fresh.runs).stdout.strip()
    refused = requests.post(url, json={}, timeout=30)
    assert refused.status_code == 400
    conform("ServerError", refused.json())
    assert "lookalike version 1" in command("request", "--runs", fresh.runs).stdout
    for kind in ("inference", "management"):
        expiry = json.loads(state.key_file.read_text())[kind]["expiration time"]
        assert datetime.fromisoformat(expiry) > datetime.now(UTC) + timedelta(days=36_500)

    seen: list[tuple[float, str]] = []
    stopping = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            while not stopping.is_set():
                try:
                    answer = session.post(url, json={"n": 2000, "seed": 1}, timeout=30)
                    outcome = f"{answer.status_code} {len(answer.content)}"
                except requests.ConnectionError:
                    outcome = "gone"
                seen.append((time.monotonic(), outcome))
                if outcome == "gone":
                    return

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(load) for _ in range(8)]
        time.sleep(2)
        began = time.monotonic()
        assert server.stop(fresh.runs)
        stopping.set()
        for future in done:
            future.result()
    counts = Counter(outcome.split()[0] for _, outcome in seen)
    good = {outcome for _, outcome in seen if outcome.startswith("200")}
    assert len(good) == 1, "every answer is complete"
    assert set(counts) <= {"200", "503", "gone"}, counts
    assert counts["200"] > 8
    assert counts["503"], "the workers were told before they ended"
    assert {outcome.split()[0] for moment, outcome in seen if moment < began} == {"200"}
    assert states.running(fresh.runs) is None
    assert not Path(state.scratch).exists()
    assert not psutil.pid_exists(state.pid) or psutil.Process(state.pid).status() == psutil.STATUS_ZOMBIE
    assert not server.stop(fresh.runs)


def test_a_stop_on_busy_cores_loses_no_large_answer(fresh: Settings) -> None:
    """On busy cores, TorchServe passes its workers' answers on late."""
    state = server.start(fresh, print)
    url, body = f"{state.address}/predictions/lookalike", {"n": 600_000, "seed": 1, "format": "npy"}
    seen: list[tuple[float, str]] = []
    stopping = threading.Event()

    def load() -> None:
        while not stopping.is_set():
            began = time.monotonic()
            try:
                answer = requests.post(url, json=body, timeout=120)
            except requests.RequestException as problem:
                seen.append((began, repr(problem)))
            else:
                seen.append((began, f"{answer.status_code} {len(answer.content)}"))

    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(load) for _ in range(8)]
            while len(seen) < 4:
                time.sleep(0.05)
            began = time.monotonic()
            stopped = server.stop(fresh.runs, 120)
            stopping.set()
            for future in done:
                future.result()
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert stopped
    accepted = Counter(outcome for moment, outcome in seen if moment < began)
    (size,) = {outcome for outcome in accepted if outcome.startswith("200")}
    assert int(size.split()[1]) > 2_000_000
    assert {outcome.split()[0] for outcome in accepted} <= {"200", "503"}, accepted


def test_tokens_are_on_wherever_others_can_reach_the_server() -> None:
    assert not Settings(runs=Path()).need_tokens
    assert Settings(runs=Path(), tokens=True).need_tokens
    assert Settings(runs=Path(), host="0.0.0.0").need_tokens
    assert not Settings(runs=Path(), host="0.0.0.0", tokens=False).need_tokens


def test_in_the_foreground_a_signal_stops_it(fresh: Settings) -> None:
    ports = ["--port", str(fresh.port), "--metrics-port", str(fresh.metrics_port), "--wait-seconds", "90"]
    call = [sys.executable, "-m", "serve", "start", "--foreground", "--runs", str(fresh.runs), *ports]
    with subprocess.Popen(call, cwd=Path(server.__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while "try " not in process.stdout.readline():
            assert process.poll() is None
        state = states.running(fresh.runs)
        process.terminate()
        assert process.wait(60) == 0
    assert state
    assert states.process(state) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells what was not sent")
def test_a_stop_waits_for_a_slow_reader(fresh: Settings) -> None:
    state = server.start(fresh, print)
    body = json.dumps({"n": 60_000, "seed": 1}).encode()
    head = f"POST /predictions/lookalike HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as reader, ThreadPoolExecutor(1) as pool:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.settimeout(60)
        reader.connect((state.host, state.port))
        reader.sendall(head + body)
        answer = HTTPResponse(reader)
        answer.begin()
        stopped = pool.submit(server.stop, fresh.runs)
        time.sleep(1)  # the client reads nothing for longer than an idle server takes to stop
        assert not stopped.done()
        assert len(json.loads(answer.read())["sequences"]) == 60_000
        assert stopped.result()


def test_the_bench_measures_everything(fresh: Settings, command: Command) -> None:
    ports = ("--port", fresh.port, "--metrics-port", fresh.metrics_port)
    done = command("bench", "--runs", fresh.runs, *ports, "--seconds", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert Counter(line["what"] for line in lines) == {
        "in process": 5,
        "FastAPI twin": 10,
        "no-op handler": 2,
        "TorchServe": 10,
    }
    assert all(line["failures"] == 0 and line["per_second"] > 0 and line["p50"] <= line["p99"] for line in lines)
    assert not (fresh.runs / "serve").exists(), "it starts a server of its own"


def test_the_soak_compares_memory(fresh: Settings, command: Command) -> None:
    ports = ("--port", fresh.port, "--metrics-port", fresh.metrics_port)
    done = command("soak", "--runs", fresh.runs, *ports, "--minutes", "0.03", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["load"]["failures"] == 0
    assert found["load"]["per_second"] > 0
    assert [memory["what"] for memory in found["memory"]] == ["frontend", "worker 1", "worker 2"]
    assert all(memory["first"] > 50 and memory["last"] < 2 * memory["first"] for memory in found["memory"])
    assert not (fresh.runs / "serve").exists(), "it starts a server of its own"
    done = command("soak", "--runs", fresh.runs, *ports, "-n", 10**8)
    assert done.returncode == 1
    assert "refused with 413: n must be at most" in done.stderr.splitlines()[-1]


def test_a_load_counts_what_it_lost_and_goes_on(fresh: Settings) -> None:
    state = server.start(fresh, print)
    with ThreadPoolExecutor(1) as pool:
        bodies = itertools.repeat(b'{"n": 1}')
        path = "/predictions/lookalike"
        address = (state.host, state.port)
        loaded = pool.submit(load.run, address, path, bodies, connections=4, seconds=15, accept="application/json")
        time.sleep(3)  # in the middle of the load
        psutil.Process(state.pid).children(recursive=True)[0].kill()
        measured = loaded.result()
    assert 0 < measured.failures < 1000
    assert measured.per_second > 10


def test_a_pid_of_another_process_is_not_touched(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        facts = {
            "host": "127.0.0.1",
            "port": 1,
            "metrics_port": 2,
            "tokens": False,
            "workers": 1,
            "scratch": "/nowhere",
        }
        (tmp_path / "serve").mkdir()
        (tmp_path / "serve" / "state.json").write_text(json.dumps(facts | {"pid": other.pid}))
        assert states.running(tmp_path) is None
        assert not server.stop(tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_token_that_was_given_guards_and_survives_a_restart(
    fresh: Settings, command: Command, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    settings = Settings(**(vars(fresh) | {"token_file": token_file}))
    url = f"http://127.0.0.1:{fresh.port}/predictions/lookalike"
    bearer = {"Authorization": "Bearer correct-horse-battery"}
    answers = []
    for _ in range(2):
        token_file.write_text("correct-horse-battery\n")
        server.start(settings, print)
        token_file.unlink()  # the server copies the file when it starts
        try:
            refused = requests.post(url, json={"n": 1}, timeout=30)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert refused.json()["error"]["field"] == "Authorization"
            answers.append(requests.post(url, json={"n": 3, "seed": 1}, headers=bearer, timeout=30).content)
            assert command("token", "--runs", fresh.runs).stdout == "correct-horse-battery\n"
            assert (
                command("token", "--header", "--runs", fresh.runs).stdout
                == f"Authorization: {bearer['Authorization']}\n"
            )
            assert "lookalike version 1" in command("request", "--runs", fresh.runs).stdout
        finally:
            server.stop(fresh.runs)
    assert answers[0] == answers[1]


def test_nobody_loads_code_into_a_server_without_tokens(fresh: Settings, command: Command, tmp_path: Path) -> None:
    """Any local process can find the port of gRPC's management API, which would load any folder as a model."""
    evil = tmp_path / "evil"
    (evil / "MAR-INF").mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "evil", "handler": "evil.py", "modelVersion": "1"}}
    (evil / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    make_run(fresh.runs, 2)
    state = server.start(dataclasses.replace(fresh, model=str(fresh.runs / "00001-reviews")), print)
    try:
        listening = psutil.Process(state.pid).net_connections("tcp")
        ports = {each.laddr.port for each in listening} - {fresh.port, fresh.metrics_port}
        refusals = [_register_over_grpc(port, evil) for port in ports]
        assert any("Model API disabled" in refusal for refusal in refusals), refusals
        assert not (tmp_path / "ran").exists()
        refused = command("use", "--runs", fresh.runs, "2")
        assert refused.returncode == 2
        assert "version 2 is not loaded, and without TorchServe's tokens this server loads no models" in refused.stderr
    finally:
        server.stop(fresh.runs)


def _register_over_grpc(port: int, folder: Path) -> str:
    """Ask a server to load a folder as a model with one worker; returns the answer.

    The RegisterModelRequest is encoded by hand.
    """
    url = str(folder).encode()
    asked = bytes([9 << 3 | 2, len(url)]) + url + bytes([3 << 3, 1, 8 << 3, 1])
    method = "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return str(channel.unary_unary(method)(asked, timeout=60))
        except grpc.RpcError as problem:
            return str(problem)
