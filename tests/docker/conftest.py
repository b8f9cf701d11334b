"""The containers under test: an engine, the images, a trained run, a server.

Without an engine, the tests that need one are skipped and say so; with LOOKALIKE_NEED_DOCKER=1 they fail.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.serve.running import make_run
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
OTHER_UID = 12345  # the user who calls the containers if the tests run as root


@dataclass(frozen=True)
class Engine:
    """A Docker client whose engine can build images, and the name prefix of this session's containers."""

    docker: str
    mark: str

    @property
    def uid(self) -> int:
        return os.getuid() or OTHER_UID

    def __call__(self, *arguments: object, check: bool = True, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        command = [self.docker, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check, timeout=timeout)

    def environment(self, **settings: object) -> dict[str, str]:
        """The current environment without its settings of Lookalike, MLflow and make, plus the given ones."""
        ours = ("LOOKALIKE_", "MLFLOW_", "RUNTIME", "GPUS", "MAKE", "MFLAGS", "ARGS", "VENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        # One thread, because the nets are tiny and the engine's machine may be busy.
        facts = {"DOCKER": self.docker, "OMP_NUM_THREADS": "1"}
        return kept | facts | {name: str(value) for name, value in settings.items()}

    def make(self, *arguments: str, timeout: int = 600, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a target of the Makefile, as a user does."""
        return subprocess.run(
            ["make", *arguments],
            cwd=ROOT,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise the time limit: building images takes longer than other tests may."""
    for item in items:
        if "tests/docker" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    client = next(filter(_builds, (os.environ.get("DOCKER", "docker"), "/usr/bin/docker")), None)
    if client is None:
        message = "NO DOCKER ENGINE builds images here: nothing of the containers was tested"
        if os.environ.get("LOOKALIKE_NEED_DOCKER"):
            pytest.fail(message)
        pytest.skip(message)
    found = Engine(client, f"lookalike-test-{uuid.uuid4().hex[:8]}")
    yield found
    left = found("ps", "--all", "--quiet", "--filter", f"name={found.mark}").stdout.split()
    if left:
        found("rm", "--force", "--volumes", *left)


def _builds(client: str) -> bool:
    """Whether this client and its engine can build with BuildKit, which the Dockerfiles need."""
    if not shutil.which(client):
        return False
    command = [client, "build", "--quiet", "-"]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run(command, input="FROM scratch\nLABEL a=b\n", env=environment, capture_output=True, text=True)
    return done.returncode == 0


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, int]:
    """Build the images; returns their sizes in bytes by name, and prints them."""
    built = engine.make("build-images", timeout=1400, GPUS="none")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    names = ("lookalike-train:cpu", "lookalike-serve", "lookalike-mlflow")
    sizes = {name: int(engine("image", "inspect", "--format", "{{.Size}}", name).stdout) for name in names}
    for name, size in sizes.items():
        print(f"{name}: {size / 1e9:.2f} GB")
    return sizes


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    """A folder for runs, owned by the user who calls the containers, in one that this user can reach."""
    folder = tmp_path_factory.mktemp("containers") / "runs"
    for parent in folder.parents[:3]:
        if parent.owner() == folder.parent.owner() and not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    return made_for_caller(engine, folder)


def made_for_caller(engine: Engine, folder: Path) -> Path:
    """Make the folder, owned by the user who calls the containers, and return it."""
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, engine.uid, engine.uid)
    return folder


def untrained_runs(engine: Engine, folder: Path) -> Path:
    """Make a folder of runs with a small 0/1 model, which takes no training, and return it."""
    for path in make_run(made_for_caller(engine, folder), 1).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def as_caller(engine: Engine) -> str:
    """DOCKER_ARGS that make the caller an ordinary user even if the tests run as root."""
    return f"--user {engine.uid}:{engine.uid}" if os.getuid() == 0 else ""


@pytest.fixture(scope="session")
def trained(engine: Engine, images: dict[str, int], runs: Path) -> subprocess.CompletedProcess[str]:
    """Train briefly on the built-in reviews, as an ordinary user and without a network."""
    arguments = f"--holdout 0.05 --max-minutes 0.05 --baselines none --gate none --out {runs}"
    arguments += " --vocabulary 300 --length 12"  # quick to calibrate and to judge
    done = engine.make("train", f"ARGS={arguments}", RUNTIME="docker", GPUS="none", DOCKER_ARGS=as_caller(engine))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Server:
    """A serving container."""

    engine: Engine
    container: str
    port: int
    metrics_port: int
    run: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predictions/lookalike"

    @property
    def headers(self) -> dict[str, str]:
        token = self.engine("exec", self.container, "python", "-m", "serve", "token").stdout.strip()
        return {"Authorization": f"Bearer {token}"}

    def is_healthy(self) -> bool:
        """Whether the image's health check passes now."""
        check = ("exec", self.container, "python", "-I", "/opt/lookalike/healthcheck.py")
        return self.engine(*check, check=False).returncode == 0


@pytest.fixture(scope="session")
def server(engine: Engine, trained: object, runs: Path) -> Server:
    """`make serve` in a container, with the model of `trained`."""
    port, metrics_port = free_ports(2)
    name = f"{engine.mark}-serve"
    arguments = f"--runs {runs} --port {port} --metrics-port {metrics_port} --wait-seconds 120"
    settings = {"RUNTIME": "docker", "CONTAINER": name, "DOCKER_ARGS": as_caller(engine)}
    done = engine.make("serve", f"ARGS={arguments}", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"curl -X POST http://127.0.0.1:{port}/predictions/lookalike" in done.stdout
    return Server(engine, name, port, metrics_port, max(runs.glob("0*")))
