"""The doctor: what it finds, and what it advises about whatever is lacking."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train import doctor
from train.__main__ import main


@pytest.fixture
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other programs, and no tracking server."""
    monkeypatch.setattr(doctor, "_lines", lambda command: [])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("_bare_machine")
def test_every_lack_comes_with_advice(tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor.examine(tmp_path)}
    assert checks["Java"].state == "lacking"
    assert "openjdk-17" in checks["Java"].advice
    assert checks["Docker"].state == checks["GPU in Docker"].state == "optional"
    assert all(check.advice for check in checks.values() if check.state == "lacking")
    assert checks["Python"].state == checks["torch"].state == checks["MLflow"].state == "ok"


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
from train.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("package", ["torch", "numba", "mlflow"])
def test_a_missing_package_is_named(tmp_path: Path, package: str) -> None:
    command = [sys.executable, "-c", WITHOUT, package, "doctor", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (found,) = [check for check in json.loads(done.stdout) if check["name"].lower() == package]
    assert (found["state"], found["advice"]) == ("lacking", "run `make setup`")


@pytest.mark.parametrize(
    ("printed", "state"),
    [('openjdk version "17.0.9" 2023-10-17', "ok"), ('java version "1.8.0_292"', "lacking"), ("what?", "lacking")],
)
def test_an_old_java_is_not_enough(monkeypatch: pytest.MonkeyPatch, printed: str, state: str) -> None:
    monkeypatch.setattr(doctor, "_lines", lambda command: ["Picked up JAVA_TOOL_OPTIONS: -Xmx1g", printed])
    assert doctor._java().state == state


def test_the_java_is_the_one_that_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    found = doctor._java()
    assert (found.state, found.finding) == ("lacking", f"not found in JAVA_HOME={tmp_path}")
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    java.chmod(0o755)
    assert doctor._java().state == "ok"


def test_a_password_in_the_store_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    found = doctor._mlflow(tmp_path)
    assert found.finding.startswith("http://127.0.0.1:9: ")
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("driver", "problem", "cuda", "state", "finding", "advice"),
    [
        (None, "torch sees no GPU here", None, "optional", "no NVIDIA driver answers", ""),
        ("H100", None, "12.8", "ok", "H100", ""),
        ("H100", "torch sees no GPU here", None, "optional", "H100; training uses the CPU", "torch with CUDA"),
        ("H100", "torch sees no GPU here", "12.8", "optional", "H100; training uses the CPU", "enough for CUDA 12.8"),
        (None, "The driver is too old", "13.0", "optional", "training uses the CPU: The driver is", "CUDA_INDEX"),
    ],
)
def test_the_gpu_is_what_training_would_use(
    monkeypatch: pytest.MonkeyPatch,
    driver: str | None,
    problem: str | None,
    cuda: str | None,
    state: str,
    finding: str,
    advice: str,
) -> None:
    monkeypatch.setattr(doctor, "_first_line", lambda command: driver)
    monkeypatch.setattr("train.device.gpu_problem", lambda: problem)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = doctor._gpu()
    assert found.state == state
    assert finding in found.finding
    assert advice in found.advice


@pytest.mark.parametrize(
    ("runtimes", "all_of_it", "state"),
    [
        ('{"nvidia":{"path":"nvidia-container-runtime"}}', "", "ok"),
        ('{"runc":{}}', '{"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"}]}', "ok"),
        ('{"runc":{}}', '{"Name":"nvidia.com"}', "optional"),
    ],
)
def test_docker_knows_gpus_by_their_runtime_or_their_names(
    monkeypatch: pytest.MonkeyPatch, runtimes: str, all_of_it: str, state: str
) -> None:
    monkeypatch.setattr(doctor, "_first_line", lambda command: runtimes if "Runtimes" in command[-1] else all_of_it)
    assert doctor._gpu_runtime().state == state


@pytest.mark.usefixtures("_gpu")
def test_a_gpu_is_found_without_its_vendors_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_first_line", lambda command: None)
    assert doctor._gpu() == doctor.Check("GPU", "ok", torch.cuda.get_device_name())


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "SERVING_PORTS", (port,))
        assert str(port) in doctor._ports().finding


def test_a_full_disk_is_lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "FREE_GIB", 10**9)
    assert doctor._disk(tmp_path / "not" / "yet").state == "lacking"


@pytest.mark.usefixtures("_bare_machine")
def test_the_command_prints_json_and_fails_where_something_lacks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor", "--out", str(tmp_path), "--json"]) == 1
    assert {check["name"] for check in json.loads(capsys.readouterr().out)} >= {"Python", "Java", "Ports"}
