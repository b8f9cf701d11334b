"""Serving from a container: the same bytes as outside, few privileges, a real health check, a graceful stop."""

import io
import json
import os
import subprocess
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.docker.conftest import ROOT, Engine, Server, as_caller, untrained_runs
from tests.ports import free_port
from train import artifact

TRAINING_ONLY = ("mlflow", "sklearn", "scipy", "matplotlib", "pyarrow", "pandas", "train.fit", "train.data")


def test_a_seed_gives_the_bytes_of_the_artifact_outside(server: Server) -> None:
    original = artifact.load(server.run / "artifact")
    wanted = io.BytesIO()
    np.save(wanted, original.sample(200, 7).numpy())
    asked = {"n": 200, "seed": 7}
    assert (
        requests.post(server.url, json=asked | {"format": "npy"}, headers=server.headers).content == wanted.getvalue()
    )
    body = requests.post(server.url, json=asked, headers=server.headers).json()
    assert body["sequences"] == original.sample(200, 7).tolist()
    assert body["model"]["run_id"] == original.card["run_id"]


def test_make_request_and_status_reach_the_container(server: Server) -> None:
    engine = server.engine
    done = engine.make("request", "ARGS=-n 3 --seed 5 --json", CONTAINER=server.container)
    assert len(json.loads(done.stdout)["sequences"]) == 3, done.stderr
    assert "READY" in engine.make("status", CONTAINER=server.container).stdout


def test_only_what_was_asked_for_is_published_and_tokens_guard_it(server: Server) -> None:
    ports = server.engine("port", server.container).stdout.split("\n")
    assert sorted(filter(None, ports)) == sorted(
        f"{port}/tcp -> 127.0.0.1:{port}" for port in (server.port, server.metrics_port)
    )
    assert requests.post(server.url, json={"n": 1}).status_code == 400
    assert requests.get(f"http://127.0.0.1:{server.port}/models").status_code in (400, 404, 405)
    metrics = requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    assert "ts_inference_requests_total" in metrics


def test_the_container_can_do_little(server: Server) -> None:
    engine = server.engine
    host = json.loads(engine("inspect", "--format", "{{json .HostConfig}}", server.container).stdout)
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert engine("exec", server.container, "id", "-u").stdout.strip() == str(engine.uid) != "0"
    for place in ("/opt/lookalike/x", "/models/x", "/x"):
        assert engine("exec", server.container, "touch", place, check=False).returncode == 1


def test_nothing_of_training_is_inside(images: dict[str, int], engine: Engine) -> None:
    script = (
        "import importlib.util as u, sys\n"
        "def there(name):\n"
        "    try: return u.find_spec(name) is not None\n"
        "    except ModuleNotFoundError: return False\n"
        "print([name for name in sys.argv[1:] if there(name)])"
    )
    done = engine("run", "--rm", "--entrypoint", "python", "lookalike-serve", "-c", script, *TRAINING_ONLY)
    assert done.stdout.strip() == "[]"
    configured = json.loads(engine("image", "inspect", "--format", "{{json .Config}}", "lookalike-serve").stdout)
    assert configured["User"] == "10001"
    assert configured["ExposedPorts"] == {"8080/tcp": {}}
    assert configured["Entrypoint"][0] == "tini"


def test_the_serving_image_is_small(images: dict[str, int]) -> None:
    assert images["lookalike-serve"] <= 1.6e9


def test_health_is_a_real_prediction(server: Server) -> None:
    engine = server.engine
    deadline = time.monotonic() + 40
    while (health := _health(engine, server.container)) != "healthy" and time.monotonic() < deadline:
        time.sleep(1)
    assert health == "healthy"
    assert server.is_healthy()
    _signal_workers(server, "SIGSTOP")
    try:
        assert not server.is_healthy()
    finally:
        _signal_workers(server, "SIGCONT")
    assert server.is_healthy()


def _health(engine: Engine, container: str) -> str:
    return engine("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()


def _signal_workers(server: Server, name: str) -> None:
    script = (
        "import os, psutil, signal, sys\n"
        "commands = {process.pid: process.cmdline() for process in psutil.process_iter()}\n"
        "workers = [pid for pid, words in commands.items() if any(w.endswith('service_worker.py') for w in words)]\n"
        "assert workers\n"
        "for pid in workers: os.kill(pid, getattr(signal, sys.argv[1]))"
    )
    server.engine("exec", server.container, "python", "-c", script, name)


@pytest.fixture
def broken(server: Server, tmp_path: Path, engine: Engine) -> Iterator[Path]:
    """The model with one bit of its weights flipped."""
    path = tmp_path / "lookalike.mar"
    with zipfile.ZipFile(server.run / "lookalike.mar") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = bytearray(source.read(name))
            if name == "generator.safetensors":
                content[-1] ^= 1
            target.writestr(name, bytes(content))
    tmp_path.chmod(0o755)
    yield path
    engine("rm", "--force", f"{engine.mark}-broken", check=False)


def test_a_broken_model_is_never_healthy(engine: Engine, broken: Path) -> None:
    name = f"{engine.mark}-broken"
    mount = f"type=bind,source={broken},target=/models/lookalike.mar,readonly"
    options = ["--read-only", "--tmpfs", "/tmp:exec,mode=1777", "--health-interval", "1s", "--mount", mount]
    engine("run", "--detach", "--name", name, *options, "lookalike-serve")
    seen = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running, health = engine(
            "inspect", "--format", "{{.State.Running}} {{.State.Health.Status}}", name
        ).stdout.split()
        seen.add(health)
        if running == "false":
            break
        time.sleep(0.5)
    assert "healthy" not in seen
    assert engine("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "1"
    last = engine("logs", name).stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "generator.safetensors" in last


def test_make_serve_says_why_a_broken_model_does_not_start(engine: Engine, broken: Path) -> None:
    port = free_port()
    arguments = f"ARGS=--model {broken} --port {port}"
    done = engine.make("serve", arguments, RUNTIME="docker", CONTAINER=f"{engine.mark}-broken")
    assert done.returncode == 2  # make's own exit code when a recipe fails
    assert "generator.safetensors" in done.stderr


def test_a_model_can_be_baked_in(engine: Engine, server: Server, tmp_path: Path) -> None:
    context = copy_of_context(tmp_path)
    archive = context / "runs" / "00001-x" / "lookalike.mar"
    archive.parent.mkdir(parents=True)
    archive.write_bytes((server.run / "lookalike.mar").read_bytes())
    archive.chmod(0o644)
    tag = f"{engine.mark}-baked"
    build = ["--target", "baked", "--build-arg", "MODEL=runs/00001-x/lookalike.mar"]
    build_again(engine, context, "serve", tag, *build)
    try:
        name = f"{engine.mark}-own"
        options = ["--read-only", "--tmpfs", "/tmp:exec,mode=1777", "--health-interval", "1s"]
        engine("run", "--detach", "--name", name, *options, tag)
        deadline = time.monotonic() + 90
        while _health(engine, name) != "healthy" and time.monotonic() < deadline:
            time.sleep(1)
        assert _health(engine, name) == "healthy", engine("logs", name).stderr
        answer = engine("exec", name, "python", "-m", "serve", "request", "-n", "4", "--seed", "3", "--json").stdout
        assert json.loads(answer)["sequences"] == artifact.load(server.run / "artifact").sample(4, 3).tolist()
    finally:
        engine("rm", "--force", name, check=False)
        engine("image", "rm", "--force", tag, check=False)


def test_a_change_to_the_code_rebuilds_quickly(images: dict[str, int], engine: Engine, tmp_path: Path) -> None:
    context = copy_of_context(tmp_path)
    for file, module in (("train", "train/loop.py"), ("serve", "serve/handler.py")):
        path = context / module
        path.write_text(path.read_text() + f"\n# {engine.mark}\n")
        tag = f"{engine.mark}-again"
        seconds = build_again(engine, context, file, tag, "--target", file)
        engine("image", "rm", "--force", tag)
        print(f"{file} image, rebuilt after a change to {module}: {seconds:.1f} s")
        assert seconds < 20


def copy_of_context(tmp_path: Path) -> Path:
    """Copy what the images are built from into a folder of its own."""
    context = tmp_path / "context"
    context.mkdir()
    files = ["pyproject.toml", "constraints.txt", ".dockerignore", "train", "serve", "docker"]
    subprocess.run(["cp", "-r", *[str(ROOT / name) for name in files], str(context)], check=True)
    return context


def build_again(engine: Engine, context: Path, file: str, tag: str, *options: str) -> float:
    """Build as docker/runtime.sh does, with unchanged layers from the cache; returns the seconds that it took."""
    arguments = ["--build-arg", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}", "--build-arg", "TORCH=2.13.0"]
    command = [engine.docker, "build", "--file", f"docker/{file}.Dockerfile", "--tag", tag, *arguments, *options, "."]
    began = time.monotonic()
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - began


def test_it_stops_within_ten_seconds_and_answers_what_it_accepted(engine: Engine, server: Server, runs: Path) -> None:
    port = free_port()
    name = f"{engine.mark}-stop"
    bits = untrained_runs(engine, runs.parent / "bits")  # thousands of texts would take longer than ten seconds
    arguments = f"ARGS=--runs {bits} --port {port} --wait-seconds 120 --no-tokens"
    settings = {"RUNTIME": "docker", "CONTAINER": name, "DOCKER_ARGS": as_caller(engine)}
    started = engine.make("serve", arguments, **settings)
    assert started.returncode == 0, started.stdout + started.stderr
    url = f"http://127.0.0.1:{port}/predictions/lookalike"
    seen: list[tuple[float, str]] = []
    stopping = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not stopping.is_set():
                asked = time.monotonic()
                try:
                    answer = session.post(url, json={"n": 3000, "seed": 1}, timeout=30)
                    outcome = f"{answer.status_code} {len(answer.content)}"
                except requests.RequestException:
                    outcome = "gone"
                seen.append((asked, outcome))
                if outcome == "gone":
                    return

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load) for _ in range(4)]
        time.sleep(2)
        began = time.monotonic()
        engine("stop", "-t", "55", name)
        seconds = time.monotonic() - began
        stopping.set()
        for client in clients:
            client.result()
    counts = Counter(outcome.split()[0] for _, outcome in seen)
    print(f"stopped under load after {seconds:.1f} s: {dict(counts)}")
    assert seconds < 10
    assert len({outcome for _, outcome in seen if outcome.startswith("200")}) == 1, "every answer is complete"
    assert counts["200"] > 4
    assert {outcome.split()[0] for asked, outcome in seen if asked < began} <= {"200", "503"}, counts
    assert engine("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"
